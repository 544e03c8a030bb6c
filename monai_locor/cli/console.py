# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a command says: lines for people, or one JSON object for machines, and the log on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Console", "console_of", "plain_values", "session", "threads"]


class Console:
    """Where a command's answer goes.

    Args:
        machine: whether it is one JSON object.
        quiet: whether lines are left out.
        out: the real stdout; meanwhile nothing else may reach it when ``machine`` is set.
        command: the command's name, for the object.

    Attributes:
        interrupted: exit code of a command that is interrupted: 130 by Ctrl-C, 143 by SIGTERM.
    """

    interrupted = 130

    def __init__(self, machine: bool = False, quiet: bool = False, out: TextIO | None = None, command: str = "") -> None:
        self.machine, self.quiet, self.command = machine, quiet, command
        self.out = sys.stdout if out is None else out

    def say(self, line: str = "") -> None:
        """A line for people."""
        if not (self.machine or self.quiet):
            print(line, file=self.out, flush=True)

    def answer(self, values: Mapping[str, Any], code: int = 0) -> int:
        """What the command found, as the JSON object if that is wanted; returns the exit code."""
        if self.machine:
            content = {"command": self.command, "exit_code": code, **values}
            print(json.dumps(plain_values(content), allow_nan=False), file=self.out, flush=True)
        return code

    @property
    def progress(self) -> bool:
        """Whether somebody watches who would like a progress bar."""
        return not (self.machine or self.quiet) and sys.stderr.isatty()


def console_of(args: argparse.Namespace) -> Console:
    """The console of a command that runs; one that prints where none was set up, as in a test."""
    found = getattr(args, "console", None)
    return found if isinstance(found, Console) else Console()


def plain_values(value: Any) -> Any:
    """The same in types that JSON knows; numbers that it does not know become null."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_values(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if hasattr(value, "tolist"):  # tensors, arrays, and their numbers
        return plain_values(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


class _Stderr(logging.Handler):
    """Log records as lines on stderr that leave a progress bar whole. A file that is read twice is warned of once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        line = f"{record.levelname.lower()}: {self.format(record)}"
        if record.levelno == logging.WARNING and line in self.warned:
            return
        self.warned.add(line)
        tqdm.write(line, file=sys.stderr)


@contextmanager
def session(args: argparse.Namespace) -> Iterator[None]:
    """Logging, warnings and stdout as the options say, and afterwards as they were."""
    logger = logging.getLogger("monai_locor")
    level = logging.ERROR if args.quiet else {0: logging.WARNING, 1: logging.INFO}.get(args.verbose, logging.DEBUG)
    handler, before = _Stderr(level), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.WARNING))  # what --quiet hides is still kept with a registration
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            if not args.verbose:
                warnings.simplefilter("ignore")  # of other packages; what a user must know is logged
            if args.console.machine:
                with redirect_stdout(sys.stderr):
                    yield
            else:
                yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many CPU threads in torch, and afterwards as many as before; None leaves it alone."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def listed(paths: list[Path], folder: Path) -> str:
    """File names for a line of text, within a folder."""
    return ", ".join(sorted(str(p.relative_to(folder)) if p.is_relative_to(folder) else str(p) for p in paths))
