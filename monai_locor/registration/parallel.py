# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One pair on two devices: a process for each direction, which sum the gradients of what they share."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .start.prepare import PreparedImage

__all__ = ["Exchange", "second_process"]

TIMEOUT = timedelta(minutes=10)  # one step of the other process
READY = ".ready"


class Exchange:
    """Sums tensors over the two processes of a registration, in place.

    Args:
        store: file that both processes can write to, in which they find each other.
        direction: of this process: 0 from the fixed image's samples, 1 from the moving image's.
    """

    def __init__(self, store: str, direction: int) -> None:
        self.direction = direction
        # a group of its own: the caller may have set up the default one for something else
        self.group = dist.ProcessGroupGloo(dist.FileStore(store, 2), direction, 2, TIMEOUT)  # type: ignore[attr-defined]

    def __call__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give the other process these tensors and add its own to them; both must call with the same shapes.

        Raises:
            RuntimeError: when the other process is gone.
        """
        flat = torch.cat([t.flatten() for t in tensors]).cpu()
        try:
            self.group.allreduce([flat]).wait()  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise RuntimeError("the process that works on the other direction has ended; its own message says why") from error
        parts = flat.split([t.numel() for t in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextlib.contextmanager
def second_process(
    work: Callable[..., None], device: torch.device, fixed: PreparedImage, moving: PreparedImage, *arguments: Any
) -> Iterator[Exchange]:
    """Start ``work(exchange, fixed, moving, *arguments)`` for direction 1 in a process of its own.

    Args:
        work: importable function.
        device: of the other process; its images are moved there. On a CPU the processes share the threads.
        arguments: what pickle can take.

    Yields:
        this process's end of the exchange. When the body is left, the other process has ended.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // 2) if "cpu" in (device.type, fixed.image.device.type) else threads
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        images = [image.to("cpu") for image in (fixed, moving)]
        process = mp.get_context("spawn").Process(
            target=_work, args=(work, store, str(device), share, *images, *arguments), daemon=True
        )
        process.start()
        try:
            _await(Path(store + READY), process)
            torch.set_num_threads(share)
            yield Exchange(store, 0)
            process.join(TIMEOUT.total_seconds())
        finally:
            torch.set_num_threads(threads)
            process.terminate()
            process.join()


def _await(ready: Path, process: Any) -> None:
    """Until the other process has come up; the exchange alone would wait for one that never will."""
    while not ready.exists():
        if not process.is_alive():
            raise RuntimeError(
                f"the process for the second device ended at its start (exit code {process.exitcode}); its own message says "
                'why. A script must start the registration below if __name__ == "__main__":, see multiprocessing.'
            )
        time.sleep(0.05)


def _work(
    work: Callable[..., None], store: str, device: str, threads: int, fixed: PreparedImage, moving: PreparedImage, *rest: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the first process decides and ends this one
    torch.set_num_threads(threads)
    images = [image.to(device) for image in (fixed, moving)]
    Path(store + READY).touch()
    work(Exchange(store, 1), *images, *rest)
