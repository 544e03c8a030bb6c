# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C, and SIGTERM, which batch systems send before they kill a process and which is handled likewise."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ..io.paths import STATE_FOLDER
from .console import Console

__all__ = ["say_state", "sigterm_as_interrupt"]

TERMINATED_EXIT_CODE = 128 + signal.SIGTERM  # the convention of shells


@contextmanager
def sigterm_as_interrupt(console: Console) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and set the console's exit code for interrupted commands.

    An existing handler is kept. Outside the main thread, where Python cannot handle signals, nothing is changed.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        console.interrupted = TERMINATED_EXIT_CODE
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def say_state(console: Console, output: Path, resume: bool) -> int:
    """Say that the interrupted command will continue from the states of its finished stages.

    Args:
        console: where it is said.
        output: output folder.
        resume: whether states are saved.

    Returns:
        the exit code.

    Raises:
        KeyboardInterrupt: if there is no state.
    """
    folder = output / STATE_FOLDER
    if resume:
        with suppress(OSError):  # it is not there, or holds states
            folder.rmdir()
    if not resume or not folder.is_dir():
        raise KeyboardInterrupt
    console.say(f"interrupted; run the same command again to continue in {output}")
    return console.answer({"error": "interrupted", "folder": output}, console.interrupted)
