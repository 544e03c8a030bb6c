# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Distributed training: one process per GPU, or several processes on a CPU."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from ..registration import select_device
from .one_line import one_line_errors

__all__ = ["distributed", "local_device", "rank", "start_distributed", "stop_distributed", "world_size"]


def rank() -> int:
    """Rank of this process; 0 if there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_device() -> torch.device:
    """The GPU for this process of ``torchrun``; the CPU if there is no GPU.

    Raises:
        InputError: if there are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise InputError(
            f"there are {torch.cuda.device_count()} GPUs; give --nproc_per_node no more than that, or --device cpu"
        )
    return torch.device("cuda", number)


def start_distributed(device: Any) -> None:
    """Join the process group of ``torchrun``, by NCCL on GPUs, else by Gloo; to be called in ``initialize``.

    Raises:
        SystemExit: with one line if ``torchrun`` did not start this process.
    """
    with one_line_errors():
        if "RANK" not in os.environ:
            raise InputError(
                "this configuration is for several processes: torchrun --standalone --nproc_per_node=N -m monai.bundle run ..."
            )
        chosen = select_device(device)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen if chosen.index is not None else local_device())
        if not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        if rank() > 0:
            logging.getLogger().setLevel(logging.WARNING)


def stop_distributed() -> None:
    """Wait for the other processes and leave the process group; to be called in ``finalize``."""
    if dist.is_available() and dist.is_initialized():
        # A thread of Gloo releases the tensors of the last collective and needs the interpreter for it: an interpreter that
        # ends at this moment aborts the process. The tensors of a barrier do not belong to Python, and waiting for it lets
        # the thread do its work.
        dist.barrier()
        dist.destroy_process_group()


def distributed(module: nn.Module, find_unused_parameters: bool = False) -> nn.Module:
    """Wrap a module to average its gradients over the processes; unchanged without parameters or with one process."""
    learned = [p for p in module.parameters() if p.requires_grad]
    if not learned or not (dist.is_available() and dist.is_initialized()):
        return module
    devices = [learned[0].device] if learned[0].is_cuda else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=find_unused_parameters)
