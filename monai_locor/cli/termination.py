# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""SIGTERM, which batch systems send before they kill, ends a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from .console import Console

__all__ = ["sigterm_as_interrupt"]

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells have it


@contextmanager
def sigterm_as_interrupt(console: Console) -> Iterator[None]:
    """Raise KeyboardInterrupt where SIGTERM comes, and let the console's exit code of interrupted work say so.

    A handler of somebody else's stays, and so does everything in a thread, where Python has no signals.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        console.interrupted = TERMINATED
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
