# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Connection to a Dask cluster, and the jobs on it."""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ..errors import InputError, one_line
from .children import end_children
from .work import Outcome

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Client, Future, WorkerPlugin

__all__ = ["MAX_ATTEMPTS", "AnyJob", "check_dask", "connected", "run_jobs"]

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # of a job that fails or exceeds the time limit
CONNECT_SECONDS = 15
END_SECONDS = 15  # for all workers to end their child processes
LOCAL_SETTINGS = {
    # only what runs is lost, and counted as a death, when a worker dies; not what waits for it
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
}


class AnyJob(Protocol):
    """A job: a dataclass that can be sent to a worker."""

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""

    @property
    def label(self) -> str:
        """Name of the job in messages."""


AJob = TypeVar("AJob", bound=AnyJob)


def check_dask(what: str = "a cohort") -> None:
    """Check that ``dask.distributed`` is installed.

    Args:
        what: what needs it, for the message.

    Raises:
        ImportError: if not; the message names the extra.
    """
    if find_spec("distributed") is None:
        raise ImportError(f"{what} needs dask.distributed: pip install 'monai-locor[cohort]'")


@contextmanager
def connected(scheduler: str | None, workers: int) -> Iterator[Client]:
    """A client of an existing cluster, or of a local one that ends with the context.

    The workers of an existing cluster go on, but their child processes for this client end with the context.

    Args:
        scheduler: address of an existing scheduler, such as ``tcp://10.0.0.1:8786``, or its scheduler file (JSON).
        workers: number of processes of a local cluster.

    Raises:
        InputError: if the scheduler does not answer.
    """
    check_dask()
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with _client_of(scheduler) as client:
            if not client.scheduler_info(n_workers=-1)["workers"]:
                logger.warning("scheduler %s has no worker yet; waiting for one", scheduler)
            try:
                yield client
            finally:
                _end_children(client)
        return
    with (
        dask.config.set(LOCAL_SETTINGS),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_interrupts_ignored())
        yield client


def _interrupts_ignored() -> WorkerPlugin:
    """A plugin for workers that a terminal interrupts with Ctrl-C as well; this process ends them."""
    from distributed import WorkerPlugin

    class InterruptsIgnored(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return InterruptsIgnored()


def _end_children(client: Client) -> None:
    """End the child processes that work for a client on an existing cluster."""
    try:
        client.run(end_children, client.id, on_error="ignore", callback_timeout=END_SECONDS)
    except (OSError, RuntimeError, TimeoutError) as error:  # also those of Dask for lost connections
        logger.warning("the workers of the cluster may still be at work: they did not answer (%s)", one_line(error))


def _client_of(scheduler: str) -> Client:
    from distributed import Client

    try:
        if scheduler.endswith(".json"):
            return Client(scheduler_file=scheduler, timeout=CONNECT_SECONDS)
        return Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"scheduler {scheduler}: no connection ({one_line(error)}); check its address") from error


def run_jobs(
    client: Client,
    jobs: Sequence[AJob],
    work: Callable[[AJob], Outcome],
    done: Callable[[AJob, Outcome], None],
) -> None:
    """Run all jobs, each failed one a second time, and report the last outcome of each.

    The death of a worker is not a failure of its job: Dask runs the job again, at most three times (its setting
    ``distributed.scheduler.allowed-failures``).

    Args:
        client: of the cluster.
        jobs: at least one.
        work: runs a job on a worker. It returns failures as outcomes.
        done: called in this process for each job.

    Raises:
        InputError: if the connection to the scheduler is lost.
    """
    from distributed import as_completed

    token = secrets.token_hex(4)
    keys = [(f"job-{token}", number) for number in range(len(jobs))]
    futures = client.map(work, jobs, key=keys, pure=False)
    job_of: dict[Key, AJob] = dict(zip(keys, jobs, strict=True))
    running = as_completed(futures, with_results=True, raise_errors=False)
    del futures  # so that finished ones are released
    for future, result in running:
        job = job_of.pop(future.key)
        outcome = _outcome(future, result)
        if outcome.error and future.status == "finished" and job.attempt < MAX_ATTEMPTS:
            logger.info("%s: %s; trying again", job.label, outcome.error)
            again: AJob = replace(cast(Any, job), attempt=job.attempt + 1)
            retried = client.submit(work, again, key=(*future.key, again.attempt), pure=False)
            job_of[retried.key] = again
            running.add(retried)
        else:
            done(job, outcome)
        future.release()


def _outcome(future: Future, result: Any) -> Outcome:
    """The outcome of a job, or the reason why there is none."""
    if future.status == "finished":
        found: Outcome = result
        return found
    if future.status in ("lost", "cancelled"):
        raise InputError("the connection to the Dask scheduler was lost; run the same command again to continue")
    error = result[1] if isinstance(result, tuple) else result
    if type(error).__name__ == "KilledWorker":
        return Outcome(error="its worker died several times; it may need more memory than there is")
    return Outcome(error=f"{type(error).__name__}: {one_line(error)}")
