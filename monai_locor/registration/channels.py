# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Several images a side that are registered together, channel by channel."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from ..errors import InputError
from ..geometry import Grid, same_grid, warp
from ..io import ImageSource, read_image
from ..io.arrays import images_of_channels
from ..losses.compare import channels_of, compare
from ..tensors import plain
from .pairing import pair_count
from .start.prepare import PreparedImage

__all__ = ["ChannelLosses", "compared_parts", "first_image", "paired", "read_channels", "single"]

logger = logging.getLogger(__name__)

COVERED = 0.999  # of a voxel that the resampled image must fill


def first_image(source: ImageSource) -> ImageSource:
    """The first of several images, or the only one: the one that the verdict, pictures and warped images are of."""
    several = images_of_channels(source)
    return source if several is None else several[0]


def read_channels(source: ImageSource, role: str) -> tuple[MetaTensor, torch.Tensor | None]:
    """The images of one side on the grid of the first.

    Args:
        source: one image, or a list of them.
        role: ``"fixed"`` or ``"moving"``, for messages.

    Returns:
        ``(K, *spatial)``, and where all of them have finite values, ``(1, *spatial)`` bool, or None where that is everywhere.

    Raises:
        InputError: for an empty list, images of other dimensions, and what :func:`monai_locor.io.read_image` refuses.
    """
    several = images_of_channels(source)
    if several is None:
        return read_image(source, role)
    if not several:
        raise InputError(f"{role} images: the list is empty; give one image or more")
    (first, valid), *others = (read_image(item, role) for item in several)
    channels = [plain(first)]
    for image, finite in others:
        channel, counts = _on_grid(image, finite, Grid.of(first), role)
        channels.append(channel)
        if counts is not None:
            valid = counts if valid is None else valid & counts
    return MetaTensor(torch.cat(channels), meta=first.meta), valid


def _on_grid(image: MetaTensor, valid: torch.Tensor | None, grid: Grid, role: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Another image of a side on the grid of the first, and where it has values there."""
    own, name = Grid.of(image), f"{role} image {image.meta.get('filename_or_obj', '')}".rstrip()
    if own.dims != grid.dims:
        raise InputError(f"{name}: has shape {own.shape}, the first {role} image {grid.shape}; both must be 2-D or both 3-D")
    if same_grid(own, grid):
        return plain(image), valid
    counts = torch.ones_like(plain(image)) if valid is None else valid.float()
    covered = warp(counts, own, None, grid) > COVERED
    share = 100 * float(covered.float().mean())
    if share == 0:
        raise InputError(f"{name}: does not meet the first {role} image; check that they share world coordinates")
    logger.warning(
        "%s: lies on another grid than the first %s image and is resampled; of that, the %.0f %% that it covers count",
        *(name, role, share),
    )
    return warp(plain(image), own, None, grid, padding_mode="border"), None if bool(covered.all()) else covered


def paired(fixed: PreparedImage, moving: PreparedImage) -> tuple[PreparedImage, PreparedImage]:
    """Both images with as many channels; the only channel of one goes with each of the other's.

    Raises:
        InputError: see :func:`.pairing.pair_count`.
    """
    count = pair_count(len(fixed.image), len(moving.image))
    first, second = (
        image if len(image.image) == count else dataclasses.replace(image, image=image.image.expand(count, *shape))
        for image, shape in ((fixed, fixed.grid.shape), (moving, moving.grid.shape))
    )
    return first, second


class ChannelLosses(nn.Module):
    """The weighted mean of one loss for each pair of channels.

    Args:
        losses: each ``(pred, target[, mask])`` of one pair, all of the same kind; what they learn is their own.
        weights: one each.
    """

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.shares = [weight / sum(weights) for weight in weights]
        self.in_channels = sum(channels_of(loss) for loss in losses)

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            pred: ``(1, K * C, *spatial)``, the channels of one pair after those of the other.
            target: ``(1, K * T, *spatial)``, likewise.
            mask: ``(1, 1, *spatial)``.
        """
        parts = list(self.parts(pred, target))
        values = [share * compare(loss, warped, still, mask) for (loss, warped, still), share in zip(parts, self.shares)]
        return sum(values[1:], values[0])

    def parts(self, pred: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
        """Each loss with what it sees."""
        count = len(self.losses)
        yield from zip(self.losses, pred.chunk(count, 1), target.chunk(count, 1), strict=True)


def single(loss: nn.Module) -> nn.Module:
    """A loss of one pair of channels; those of the others are like it."""
    return loss.losses[0] if isinstance(loss, ChannelLosses) else loss


def compared_parts(
    loss: nn.Module, pred: torch.Tensor, target: torch.Tensor
) -> list[tuple[float, nn.Module, torch.Tensor, torch.Tensor]]:
    """What the loss of each pair of channels sees, and its share of the whole."""
    if not isinstance(loss, ChannelLosses):
        return [(1.0, loss, pred, target)]
    return [(share, *part) for share, part in zip(loss.shares, loss.parts(pred, target), strict=True)]
