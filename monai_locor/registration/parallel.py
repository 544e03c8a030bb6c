# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration of one pair on two devices: one process per direction; gradients of shared parameters are summed."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .start.start import Start

__all__ = ["Exchange", "from_first", "second_process"]

STEP_TIMEOUT = timedelta(minutes=10)  # maximum wait for the other process
READY_SUFFIX = ".ready"


class Exchange:
    """Sums tensors over the two processes of a registration, in place.

    Args:
        store: rendezvous file, writable by both processes.
        direction: direction of this process: 0 for the samples of the fixed image, 1 for those of the moving image.
    """

    def __init__(self, store: str, direction: int) -> None:
        self.direction = direction
        # not the default group, which the caller may use
        self.group = dist.ProcessGroupGloo(dist.FileStore(store, 2), direction, 2, STEP_TIMEOUT)  # type: ignore[attr-defined]

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add the tensors of the other process to these; both must call it with the same shapes.

        Raises:
            RuntimeError: if the other process has ended.
        """
        flat = torch.cat([t.flatten() for t in tensors]).cpu()
        try:
            self.group.allreduce([flat]).wait()  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise RuntimeError("the process of the other direction has ended; see its own message") from error
        parts = flat.split([t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def from_first(exchange: Exchange | None, compute: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Compute an array in the first process and send it to the second; both must call it.

    Args:
        exchange: exchange of this process; None with a single process.
        compute: returns the array, float64.
        shape: shape of the array.
    """
    if exchange is None:
        return compute()
    values = torch.zeros(shape, dtype=torch.float64, device="cpu")
    if exchange.direction == 0:
        values += torch.from_numpy(compute())
    exchange([values])
    return values.numpy()


@contextlib.contextmanager
def second_process(work: Callable[..., None], device: torch.device, start: Start, *arguments: Any) -> Iterator[Exchange]:
    """Run ``work(exchange, start, *arguments)`` for direction 1 in another process.

    Args:
        work: importable function.
        device: device of the other process, to which the images are moved. On a CPU the threads are divided.
        start: initial state, without functions; like all arguments, it must be picklable.
        arguments: further arguments of ``work``.

    Yields:
        the exchange of this process. On exit, the other process has ended.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // 2) if "cpu" in (device.type, start.device.type) else threads
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        process = mp.get_context("spawn").Process(
            target=_work, args=(work, store, str(device), share, start.to("cpu"), *arguments), daemon=True
        )
        process.start()
        try:
            _await(Path(store + READY_SUFFIX), process)
            torch.set_num_threads(share)
            yield Exchange(store, 0)
            process.join(STEP_TIMEOUT.total_seconds())
        finally:
            torch.set_num_threads(threads)
            process.terminate()
            process.join()


def _await(ready: Path, process: Any) -> None:
    """Wait until the other process has started; raise if it ended, without waiting for the timeout of the exchange."""
    while not ready.exists():
        if not process.is_alive():
            raise RuntimeError(
                f"the process for the second device ended at its start (exit code {process.exitcode}); see its own message. "
                'A script must start the registration below if __name__ == "__main__":, see multiprocessing.'
            )
        time.sleep(0.05)


def _work(work: Callable[..., None], store: str, device: str, threads: int, start: Start, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # both processes receive Ctrl-C; the first one handles it and ends this one
    torch.set_num_threads(threads)
    start = start.to(device)
    Path(store + READY_SUFFIX).touch()
    work(Exchange(store, 1), start, *arguments)
