# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""How registration and training call a similarity loss, whosever it is."""

from __future__ import annotations

import inspect

import torch
from torch import nn

__all__ = ["channels_of", "compare", "takes_mask"]


def channels_of(loss: nn.Module) -> int:
    """Channels of the warped image that a loss looks at: its ``in_channels``, by default the intensity alone."""
    return int(getattr(loss, "in_channels", 1))


def takes_mask(loss: nn.Module) -> bool:
    """Whether its ``forward`` has a parameter ``mask``."""
    return "mask" in inspect.signature(type(loss).forward).parameters


def compare(loss: nn.Module, warped: torch.Tensor, still: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The value of a loss ``(pred, target[, mask])``.

    A loss that takes no mask sees the whole images; ``monai.losses.MaskedLoss`` around it multiplies both by the mask.

    Args:
        loss: see :func:`channels_of` and :func:`takes_mask`.
        warped: ``(B, C, *spatial)``, intensity first.
        still: ``(B, T, *spatial)``, as many channels as are to be compared.
        weight: where both images count, ``(B, 1, *spatial)``.
    """
    masked = {"mask": weight} if weight is not None and takes_mask(loss) else {}
    return loss(warped[:, : channels_of(loss)], still.to(warped), **masked)
