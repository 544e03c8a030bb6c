# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The warnings of a registration, kept with its result.

Every warning that a logger of this package gives during a run is kept. A warning given with :func:`doubt` also keeps the
verdict from being better than WARN: it is for what makes the result doubtful, not for notes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RunLog", "collecting", "doubt"]

ROOT = "monai_locor"


@dataclass
class RunLog:
    """What was logged in a run.

    Attributes:
        warnings: every warning once, in order.
        doubts: those of them that make the result doubtful.
    """

    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def add(self, text: str, doubtful: bool = False) -> None:
        """Keep a warning."""
        line = " ".join(text.split())
        for kept in (self.warnings, *([self.doubts] if doubtful else [])):
            if line not in kept:
                kept.append(line)


_CURRENT: ContextVar[RunLog | None] = ContextVar("monai_locor_run_log", default=None)


def doubt(logger: logging.Logger, message: str, *args: Any) -> None:
    """Log a warning that keeps the verdict of the current registration from being better than WARN.

    It reaches the verdict even where the user's logging settings leave warnings out.

    Args:
        logger: of the module that warns.
        message: one line; ``args`` are put into it as by ``logger.warning``.
    """
    log = _CURRENT.get()
    if log is not None:
        log.add(message % args if args else message, doubtful=True)
    logger.warning(message, *args, stacklevel=2)


@contextmanager
def collecting() -> Iterator[RunLog]:
    """Keep the warnings of this package that are logged inside, in this thread only.

    Within another such block the outer one goes on, so that what a command reads before it registers is part of the run.
    """
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    log, logger = RunLog(), logging.getLogger(ROOT)
    handler, token = _Collector(log), _CURRENT.set(log)
    logger.addHandler(handler)
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        _CURRENT.reset(token)


class _Collector(logging.Handler):
    """Keeps the warnings of one run."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        if _CURRENT.get() is self.log:  # and not another thread's
            self.log.add(record.getMessage())
        if logging.lastResort is not None and not _heard(record.name) and _first(self):
            logging.lastResort.handle(record)  # as without this handler


def _heard(name: str) -> bool:
    """Whether a logger of this name has a handler that is not one of these."""
    return any(not isinstance(handler, _Collector) for handler in _handlers(name))


def _first(handler: logging.Handler) -> bool:
    """Of several runs at a time, one passes a record on."""
    return next((h for h in logging.getLogger(ROOT).handlers if isinstance(h, _Collector)), handler) is handler


def _handlers(name: str) -> Iterator[logging.Handler]:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
