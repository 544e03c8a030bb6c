# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Handle SIGTERM, which batch systems send before they kill a process, like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from .console import Console

__all__ = ["sigterm_as_interrupt"]

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
