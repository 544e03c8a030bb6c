# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The workers of a run: how many, their devices and threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..registration.numbers import COUNT

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Machine", "check_workers"]

WORKER_BYTES = 4 * 2**30  # enough for a pair of 256^3 voxels


@dataclass(frozen=True)
class Machine:
    """The workers of a run.

    Attributes:
        scheduler: address of an existing Dask scheduler, or its scheduler file; None for a local cluster.
        workers: number of processes of a local cluster.
        devices: devices of the workers in their order; empty for the default device.
        threads: CPU threads of each worker; None for torch's choice.
        client: client of the cluster, if it is connected already.
    """

    scheduler: str | None = None
    workers: int = 1
    devices: tuple[str, ...] = ()
    threads: int | None = None
    client: Client | None = None

    @classmethod
    def of(cls, device: str | None, scheduler: str | None, workers: int | None, threads: int | None, jobs: int) -> Machine:
        """The workers for the options of a run, see :func:`monai_locor.cohort.run_cohort`.

        Args:
            jobs: number of jobs that can run at the same time.

        Raises:
            InputError: see :func:`check_workers`.
        """
        check_workers(scheduler, workers)
        devices = _devices(device, scheduler)
        if scheduler is not None:
            return cls(scheduler, devices=devices, threads=threads)
        from dask.system import CPU_COUNT

        count = min(workers or _local_workers(devices), max(jobs, 1))
        return cls(None, count, devices, threads or max(1, CPU_COUNT // count))


def check_workers(scheduler: str | None, workers: int | None) -> None:
    """Check a number of workers, which is for a local cluster only.

    Args:
        scheduler: address of an existing cluster, or None.
        workers: a whole number, 1 or more; None for the default.

    Raises:
        InputError: for other values, or if both are given.
    """
    if workers is not None:
        COUNT.check("workers", workers)
    if scheduler is not None and workers is not None:
        raise InputError(f"workers {workers}: the cluster at {scheduler} has its own workers; leave it out")


def _devices(device: str | None, scheduler: str | None) -> tuple[str, ...]:
    """The devices of the workers: the given one, or all GPUs of this machine."""
    if device is not None or scheduler is not None:
        return () if device is None else (device,)
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))


def _local_workers(devices: Sequence[str]) -> int:
    """Default number of workers of a local cluster: one for each GPU, or for each core as far as the memory allows."""
    if devices and devices[0].startswith("cuda"):
        return len(devices)
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return max(1, min(CPU_COUNT, MEMORY_LIMIT // WORKER_BYTES))
