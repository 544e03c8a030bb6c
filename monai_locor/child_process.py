# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Child processes that answer one question at a time, each a line of JSON, and are restarted after they have ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["READY_LINE", "ChildError", "ChildProcess", "ChildTimeoutError", "questions"]

READY_LINE = "ready"  # first line of a child
PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])  # on the path of the child, so the package need not be installed


class ChildError(Exception):
    """The process ended before it answered; the message is its exit code and the last line it wrote to stderr."""


class ChildTimeoutError(ChildError):
    """The process took longer than its time limit and was killed."""


class ChildProcess:
    """A Python process that is started for its first question.

    A crash or a kill of the process does not affect this one.

    Args:
        module: run with ``python -m``. It writes :data:`READY_LINE`, then reads :func:`questions` and writes one line for each
            to stdout. It ends when stdin is closed.
        words: arguments of the module.
    """

    def __init__(self, module: str, words: Sequence[str] = ()) -> None:
        self.command = [sys.executable, "-m", module, *words]
        self.process: subprocess.Popen[str] | None = None
        self.errors: IO[Any] | None = None
        self.closed = False
        self._lock = threading.Lock()

    def ask(self, question: Mapping[str, Any], limit: float | None = None) -> Any:
        """Send a question and wait for the answer.

        Args:
            question: plain values.
            limit: time limit in seconds, without the start of the process.

        Raises:
            ChildTimeoutError: if it takes longer; the process is killed.
            ChildError: if the process ends before it answers, or was closed.
            RuntimeError: if the process cannot be started.
        """
        process = self._started()
        late = threading.Event()
        with contextlib.suppress(OSError):  # the process has ended and will not answer
            print(json.dumps(question), file=process.stdin, flush=True)
        answer = self._answer(process, limit, late)
        complete = answer.endswith("\n")  # a process that was killed may have written a part of its answer
        if not complete or late.is_set():
            process.wait()  # so that the next question does not get a dying process
        if complete:
            return json.loads(answer)
        if late.is_set():
            raise ChildTimeoutError(f"took more than {limit:g} s")
        raise ChildError(self._end(process))

    def _answer(self, process: subprocess.Popen[str], limit: float | None, late: threading.Event) -> str:
        """The answer line; empty or a part of it if the process ended."""

        def stop() -> None:
            late.set()
            process.kill()

        assert process.stdout is not None
        timer = threading.Timer(limit, stop) if limit else None
        if timer:
            timer.start()
        try:
            return process.stdout.readline()
        finally:
            if timer:
                timer.cancel()
                timer.join()

    def _started(self) -> subprocess.Popen[str]:
        """The process, ready for a question."""
        with self._lock:
            if self.closed:
                raise ChildError("it was closed")
            if self.process is not None and self.process.poll() is None:
                return self.process
            self._forget()
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _forget)
            path = os.pathsep.join([PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C goes to the parent only, which then ends its children
            )
            process = self.process
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.strip() != READY_LINE:
            if self.closed:
                raise ChildError("it was closed")
            raise RuntimeError(f"a worker did not start: {self._end(process)}")
        return process

    def _end(self, process: subprocess.Popen[str]) -> str:
        """Exit code of a process, and the last line it wrote to stderr."""
        code = process.wait()
        said = ""
        if self.errors is not None and not self.closed:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
            said = f": {lines[-1][:200]}" if lines else ""
        hint = " (out of memory?)" if code == -9 else ""
        return f"its process ended with exit code {code}{hint}{said}"

    def close(self) -> None:
        """Kill the process; further questions fail."""
        with self._lock:
            self.closed = True
            self._forget()

    def _forget(self) -> None:
        """Kill the process, if any, and release its resources."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError, ValueError):
                        pipe.close()
            self.process = None
        if self.errors is not None:
            self.errors.close()
            self.errors = None


def questions() -> Iterator[Any]:
    """The questions of the parent, in a child. Call it before long imports.

    When stdin is closed, the parent has ended: then the child ends at once, also in the middle of a question.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    return (json.loads(line) for line in iter(lines.get, None))


def _read(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)
