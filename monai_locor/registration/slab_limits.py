# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Smaller slabs of the losses where memory is short."""

from __future__ import annotations

from torch import nn

from ..losses.base import PairLoss

__all__ = ["THRIFTY_SLAB_MB", "limit_slabs"]

THRIFTY_SLAB_MB = {"cpu": 20.0, "cuda": 128.0}  # MiB, by type of device; on a CPU the default


def limit_slabs(losses: nn.Module, device_type: str) -> None:
    """Limit the memory of the slabs of all losses to :data:`THRIFTY_SLAB_MB`, or to their own limit if it is lower.

    Args:
        losses: changed in place.
        device_type: type of their device.
    """
    limit = THRIFTY_SLAB_MB.get(device_type, THRIFTY_SLAB_MB["cpu"])
    for loss in losses.modules():
        if isinstance(loss, PairLoss) and hasattr(loss, "memory_budget_mb"):
            loss.memory_budget_mb = min(limit, loss.memory_budget_mb or limit)
