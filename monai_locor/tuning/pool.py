# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Worker processes for registrations: a run that crashes or exceeds its time limit does not end the search."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from .runs import READY_LINE, Job, Run, execute

__all__ = ["Pool"]

PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])  # put on the workers' path, so the package need not be installed


class Pool:
    """Run jobs in worker processes.

    Args:
        workers: number of processes, each running one job at a time; with 0, ``submit`` runs the job in this process.
        threads: threads per process; by default this process's thread count divided by ``workers``.
        limit: time limit of a job, seconds; None means no limit. Not applied with 0 workers.
        devices: devices of the jobs, assigned to the workers in turn.
    """

    def __init__(
        self,
        workers: int = 1,
        threads: int | None = None,
        limit: float | None = None,
        devices: Sequence[str | None] = (None,),
    ) -> None:
        import torch

        self.size = max(1, workers)
        self.devices = list(devices) or [None]
        share = threads or max(1, torch.get_num_threads() // self.size)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker(share, limit, self.devices[i % len(self.devices)]) for i in range(workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._executor = ThreadPoolExecutor(workers) if workers else None

    def submit(self, job: Job) -> Future[Run]:
        """Submit a job."""
        if self._executor is not None:
            return self._executor.submit(self._work, job)
        done: Future[Run] = Future()
        done.set_result(execute(replace(job, device=self.devices[0])))
        return done

    def _work(self, job: Job) -> Run:
        worker = self._idle.get()
        try:
            return worker.run(job)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill all processes, including running jobs."""
        for worker in self._workers:
            worker.close()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Worker:
    """A process that is started for its first job, and restarted after it has ended."""

    def __init__(self, threads: int, limit: float | None, device: str | None) -> None:
        self.threads, self.limit, self.device = threads, limit, device
        self.process: subprocess.Popen[str] | None = None
        self.errors: IO[Any] | None = None
        self.closed = False
        self._lock = threading.Lock()

    def run(self, job: Job) -> Run:
        """Run a job. If the process dies, the run reports this as its problem."""
        process = self._started()
        if process is None:
            return Run(job.name, job.seed, problem="the search has ended")
        late = threading.Event()
        with contextlib.suppress(OSError):  # the process has ended and will not answer
            print(json.dumps(asdict(replace(job, device=self.device))), file=process.stdin, flush=True)
        answer = self._answer(process, late)
        if not answer or late.is_set():
            process.wait()  # so that the next job does not get a dying process
        if answer:
            return Run.of(json.loads(answer))
        return Run(job.name, job.seed, problem=f"took more than {self.limit:g} s" if late.is_set() else self._end(process))

    def _answer(self, process: subprocess.Popen[str], late: threading.Event) -> str:
        """The answer line; empty if the process ended."""

        def stop() -> None:
            late.set()
            process.kill()

        assert process.stdout is not None
        timer = threading.Timer(self.limit, stop) if self.limit else None
        if timer:
            timer.start()
        try:
            return process.stdout.readline()
        finally:
            if timer:
                timer.cancel()
                timer.join()

    def _started(self) -> subprocess.Popen[str] | None:
        """A process that is ready for a job; None after :meth:`close`."""
        with self._lock:
            if self.closed or (self.process is not None and self.process.poll() is None):
                return None if self.closed else self.process
            self._forget()
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _forget)
            path = os.pathsep.join([PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
            self.process = subprocess.Popen(
                [sys.executable, "-m", "monai_locor.tuning.worker", str(self.threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C goes to the search only, which then ends its workers
            )
            process = self.process
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.strip() != READY_LINE and not self.closed:
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
