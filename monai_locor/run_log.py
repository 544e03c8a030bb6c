# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Collect the warnings of a registration for its result.

Every warning logged by this package during a run is collected. A warning logged with :func:`doubt` also limits the verdict
to WARN. Use it for conditions that put the result in doubt, not for notes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RunLog", "collecting", "doubt"]

PACKAGE_LOGGER = "monai_locor"


@dataclass
class RunLog:
    """Warnings of a run.

    Attributes:
        warnings: all warnings in order, without duplicates.
        doubts: the warnings that put the result in doubt.
    """

    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def add(self, text: str, doubtful: bool = False) -> None:
        """Record a warning."""
        line = " ".join(text.split())
        for kept in (self.warnings, *([self.doubts] if doubtful else [])):
            if line not in kept:
                kept.append(line)


_CURRENT: ContextVar[RunLog | None] = ContextVar("monai_locor_run_log", default=None)


def doubt(logger: logging.Logger, message: str, *args: Any) -> None:
    """Log a warning that limits the verdict of the current registration to WARN.

    The verdict takes it into account even if the user's logging settings suppress warnings.

    Args:
        logger: logger of the calling module.
        message: one line; formatted with ``args`` as in ``logger.warning``.
    """
    log = _CURRENT.get()
    if log is not None:
        log.add(message % args if args else message, doubtful=True)
    logger.warning(message, *args, stacklevel=2)


@contextmanager
def collecting() -> Iterator[RunLog]:
    """Collect the warnings that this package logs inside the block, in the current thread only.

    A nested block shares the log of the outer one, so warnings about inputs that a command reads before registering are
    part of the run.
    """
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    log, logger = RunLog(), logging.getLogger(PACKAGE_LOGGER)
    handler, token = _Collector(log), _CURRENT.set(log)
    logger.addHandler(handler)
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        _CURRENT.reset(token)


class _Collector(logging.Handler):
    """Logging handler that records the warnings of one run."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        if _CURRENT.get() is self.log:  # not from another thread
            self.log.add(record.getMessage())
        if logging.lastResort is not None and not _heard(record.name) and _first(self):
            logging.lastResort.handle(record)  # what logging does without any handler


def _heard(name: str) -> bool:
    """Whether a logger has a handler other than a collector."""
    return any(not isinstance(handler, _Collector) for handler in _handlers(name))


def _first(handler: logging.Handler) -> bool:
    """Whether a collector is the first one; of several concurrent runs, only this one passes records on."""
    return next((h for h in logging.getLogger(PACKAGE_LOGGER).handlers if isinstance(h, _Collector)), handler) is handler


def _handlers(name: str) -> Iterator[logging.Handler]:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None
