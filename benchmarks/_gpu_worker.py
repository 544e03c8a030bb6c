# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A process that runs the parts of `gpu.py` and is restarted when a part hangs or fails.

After an error in a kernel a process cannot use the GPU any more, and an endless wait can only be stopped from outside. Orders
go to its standard input, rows come from its standard output, one line of JSON each, so the rows of a part that fails later are
kept. Output of libraries goes to a log.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """Options of a part: seconds, device, whether to use tiny sizes, folders, reference files of the CPU."""

    device: str
    smoke: bool
    seconds: float
    cases: str
    reference: Sequence[str]
    scratch: str
    began: float = 0.0

    def left(self) -> float:
        """Seconds left."""
        return self.began + self.seconds - time.monotonic()


def guarded(row: Row, call: Callable[[], Row]) -> Row:
    """A row with the result of `call`, or the reason of its failure, so that later rows still run.

    Raises:
        RuntimeError: when the device can no longer be used.
    """
    try:
        return row | call()
    except Exception as error:
        if "CUDA error" in str(error):
            raise
        traceback.print_exc()
        return row | {"problem": " ".join(f"{type(error).__name__}: {error}".split())[:200], "check": False}


class Worker:
    """The process, started with its first order.

    Args:
        environment: of the process.
        log: file that gets what it prints.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment, self.log = dict(environment), log
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str | None] = queue.Queue()

    def run(self, call: str, context: Context, row: Callable[[Row], None]) -> str:
        """Run a part and pass on every row as it comes. Returns the problem, or an empty string."""
        process = self._started()
        process.stdin.write(json.dumps({"call": call, "context": asdict(context)}) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        ends = time.monotonic() + context.seconds
        while True:
            try:
                line = self.lines.get(timeout=max(ends - time.monotonic(), 0.01))
            except queue.Empty:
                self.stop()
                return f"stopped after {context.seconds:.0f} s"
            if line is None:
                code = process.wait()
                self.stop()
                return f"the process ended with status {code}"
            said = json.loads(line)
            if "row" in said:
                row(said["row"])
                continue
            if said["problem"]:
                self.stop()  # the device may be unusable to it
            return said["problem"]

    def _started(self) -> subprocess.Popen[str]:
        if self.process is None:
            with self.log.open("a", encoding="utf-8") as log:
                self.process = subprocess.Popen(
                    [sys.executable, str(Path(__file__).absolute())],
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # so that what it has started can be ended with it
                )
            self.lines = queue.Queue()
            threading.Thread(target=_read, args=(self.process, self.lines), daemon=True).start()
        return self.process

    def stop(self) -> None:
        """Stop the process, if any."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put(None)


def _rows(order: Mapping[str, Any]) -> Iterator[Row]:
    module, name = order["call"].split(":")
    context = Context(**{**order["context"], "began": time.monotonic()})
    yield from getattr(importlib.import_module(module), name)(context)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not look like an answer
    for line in sys.stdin:
        problem = ""
        try:
            for row in _rows(json.loads(line)):
                print(json.dumps({"row": row}), file=answers)
        except Exception as error:
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
        print(json.dumps({"problem": problem}), file=answers)


if __name__ == "__main__":
    _serve()
