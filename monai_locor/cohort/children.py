# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The child processes of a Dask worker, which must not outlive the run that they work for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..child_process import ChildError, ChildProcess

__all__ = ["Children", "end_children", "of_this_worker"]


class Children:
    """A child process for each thread, started once, so that torch is not imported for every pair.

    The worker of an existing cluster goes on when a run has ended. A run is named by its owner, the id of its Dask client.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._of_thread: dict[int, tuple[str, ChildProcess]] = {}
        self._ended: set[str] = set()

    def of(self, owner: str) -> ChildProcess:
        """The child process of this thread, which works for the owner from now on; the thread works for one at a time.

        Raises:
            ChildError: if the run of the owner has ended.
        """
        with self._lock:
            self._check(owner)
            thread = threading.get_ident()
            _, child = self._of_thread.get(thread, (owner, None))
            child = child or ChildProcess("monai_locor.cohort.child")
            self._of_thread[thread] = (owner, child)
        return child

    @contextmanager
    def running(self, owner: str) -> Iterator[None]:
        """Keep :meth:`end` waiting, so that it tells when no result of the owner is put in its place any more.

        Raises:
            ChildError: if the run of the owner has ended.
        """
        with self._lock:
            self._check(owner)
            yield

    def end(self, owner: str) -> None:
        """Kill the child processes that work for an owner, and refuse further work for it."""
        with self._lock:
            self._ended.add(owner)
            for thread, (user, child) in list(self._of_thread.items()):
                if user == owner:
                    del self._of_thread[thread]
                    child.close()

    def _check(self, owner: str) -> None:
        if owner in self._ended:
            raise ChildError("its run has ended")


of_this_worker = Children()


def end_children(owner: str) -> None:
    """End those of this worker; Dask calls it on each, see :meth:`Children.end`."""
    of_this_worker.end(owner)
