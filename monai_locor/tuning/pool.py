# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Worker processes for registrations: a run that crashes or exceeds its time limit does not end the search."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace

from ..child_process import ChildError, ChildProcess
from .runs import Job, Run, execute

__all__ = ["Pool"]


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
        self.limit, self.device = limit, device
        self.child = ChildProcess("monai_locor.tuning.worker", [str(threads)])

    def run(self, job: Job) -> Run:
        """Run a job. If the process dies, the run reports this as its problem."""
        try:
            return Run.of(self.child.ask(asdict(replace(job, device=self.device)), self.limit))
        except ChildError as end:
            return Run(job.name, job.seed, problem="the search has ended" if self.child.closed else str(end))

    def close(self) -> None:
        self.child.close()
