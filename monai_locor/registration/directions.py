# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Evaluation of the loss in both directions, at the same time where the processor allows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["DirectionThreads"]

Job = tuple[Any, ...]


class DirectionThreads:
    """Runs the work of the directions of a step.

    On a CPU with several threads, two directions run at the same time, each with half of the threads: most operations of a
    step are too small to gain from a second thread. Otherwise, they run one after the other. The work of a direction must not
    depend on that of the other.

    Args:
        concurrent: whether two directions may run at the same time.
    """

    def __init__(self, concurrent: bool) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="direction") if concurrent else None

    def __call__(self, work: Callable[..., None], jobs: Sequence[Job]) -> None:
        """Call ``work`` with the arguments of each job.

        Raises:
            Exception: of the first job that fails, when all have ended.
        """
        threads = torch.get_num_threads()
        # a dispatch mode, for instance a counter of operations, does not see other threads
        if self._executor is None or len(jobs) != 2 or threads < 2 or _get_current_dispatch_mode() is not None:
            for job in jobs:
                work(*job)
            return
        second = self._executor.submit(_run, threads // 2, work, jobs[1])
        try:
            _run(threads // 2, work, jobs[0])
        finally:
            wait([second])
            torch.set_num_threads(threads)
        second.result()


def _run(threads: int, work: Callable[..., None], job: Job) -> None:
    torch.set_num_threads(threads)  # of this thread only
    work(*job)
