# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Calling any similarity loss, of this package or not, from registration and training."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["channels_of", "compare", "takes_mask"]


def channels_of(loss: nn.Module) -> int:
    """Number of channels of the warped image that a loss takes: its ``in_channels``, by default 1, the intensity."""
    return int(getattr(loss, "in_channels", 1))


def takes_mask(loss: nn.Module) -> bool:
    """Whether its ``forward`` has a parameter ``mask``."""
    return _takes_mask(type(loss).forward)


@functools.lru_cache(maxsize=64)
def _takes_mask(forward: Callable[..., Any]) -> bool:
    return "mask" in inspect.signature(forward).parameters


def compare(loss: nn.Module, warped: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The value of a loss ``(pred, target[, mask])``.

    A loss without a ``mask`` parameter compares the whole images; wrap it in ``monai.losses.MaskedLoss`` to mask both.

    Args:
        loss: any module, see :func:`channels_of` and :func:`takes_mask`.
        warped: ``(B, C, *spatial)``, intensity first.
        target: ``(B, T, *spatial)``, the channels to compare with.
        weight: product of both images' weights, ``(B, 1, *spatial)``.
    """
    masked = {"mask": weight} if weight is not None and takes_mask(loss) else {}
    return loss(warped[:, : channels_of(loss)], target.to(warped), **masked)
