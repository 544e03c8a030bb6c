# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Joint registration of several images per side, channel by channel."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from ..errors import InputError
from ..geometry import Grid, same_grid, warp
from ..io import ImageSource, read_image
from ..io.arrays import images_of_channels
from ..io.pictures import MAX_PIXELS
from ..losses.base import PairLoss
from ..losses.compare import channels_of, compare
from ..tensors import plain
from .pairing import pair_count
from .start.prepare import PreparedImage

__all__ = [
    "ChannelLosses",
    "compared_parts",
    "first_image",
    "foreign",
    "name_of",
    "paired",
    "parts_of",
    "read_channels",
    "single",
]

logger = logging.getLogger(__name__)

MIN_VOXEL_COVERAGE = 0.999  # fraction of a voxel that the resampled image must cover


def first_image(source: ImageSource) -> ImageSource:
    """Return the first or only image of a side, used for the verdict, figures and warped images."""
    several = images_of_channels(source)
    return source if several is None else several[0]


def name_of(role: str, image: MetaTensor) -> str:
    """Return the role of an image and its file, if it has one, for messages."""
    return f"{role} image {image.meta.get('filename_or_obj', '')}".rstrip()


def read_channels(source: ImageSource, role: str, max_pixels: int = MAX_PIXELS) -> tuple[MetaTensor, torch.Tensor | None]:
    """Read the images of one side, resampled to the grid of the first.

    Args:
        source: one image or a list of images.
        role: ``"fixed"`` or ``"moving"``, used in messages.
        max_pixels: see :func:`monai_locor.io.read_image`.

    Returns:
        the images, ``(K, *spatial)``, on the device of the first, and the mask of voxels that are finite in all of them,
        ``(1, *spatial)`` bool, or None if all voxels are finite.

    Raises:
        InputError: for an empty list, for images of different dimensions, and see :func:`monai_locor.io.read_image`.
    """
    several = images_of_channels(source)
    if several is None:
        return read_image(source, role, max_pixels=max_pixels)
    if not several:
        raise InputError(f"{role} images: the list is empty; give one image or more")
    (first, valid), *others = (read_image(item, role, max_pixels=max_pixels) for item in several)
    channels = [plain(first)]
    for image, finite in others:
        channel, counts = _on_grid(image, finite, Grid.of(first), role)
        channels.append(channel.to(first.device))
        if counts is not None:
            counts = counts.to(first.device)
            valid = counts if valid is None else valid & counts
    return MetaTensor(torch.cat(channels), meta=first.meta), valid


def _on_grid(image: MetaTensor, valid: torch.Tensor | None, grid: Grid, role: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Resample another image of a side to the grid of the first; return it with the mask of its valid voxels."""
    own, name = Grid.of(image), name_of(role, image)
    if own.dims != grid.dims:
        raise InputError(f"{name}: has shape {own.shape}, the first {role} image {grid.shape}; both must be 2-D or both 3-D")
    if same_grid(own, grid):
        return plain(image), valid
    counts = torch.ones_like(plain(image)) if valid is None else valid.float()
    covered = warp(counts, own, None, grid) > MIN_VOXEL_COVERAGE
    share = 100 * float(covered.float().mean())
    if share == 0:
        raise InputError(f"{name}: does not overlap the first {role} image; check that they share world coordinates")
    logger.warning(
        "%s: its grid differs from that of the first %s image; resampled, with %.0f %% of its voxels valid",
        *(name, role, share),
    )
    return warp(plain(image), own, None, grid, padding_mode="border"), None if bool(covered.all()) else covered


def paired(fixed: PreparedImage, moving: PreparedImage) -> tuple[PreparedImage, PreparedImage]:
    """Return both images with the same number of channels; a single channel is repeated for each channel of the other image.

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
        losses: one loss ``(pred, target[, mask])`` per pair, all of the same type, with separate parameters.
        weights: one weight per loss.
    """

    def __init__(self, losses: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.shares = [weight / sum(weights) for weight in weights]
        self.in_channels = sum(channels_of(loss) for loss in losses)

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            pred: warped image, ``(1, K * C, *spatial)``, grouped by pair.
            target: target image, ``(1, K * T, *spatial)``, grouped by pair.
            mask: valid samples, ``(1, 1, *spatial)``.
        """
        parts = list(self.parts(pred, target))
        values = [share * compare(loss, warped, fixed, mask) for (loss, warped, fixed), share in zip(parts, self.shares)]
        return sum(values[1:], values[0])

    def parts(self, pred: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
        """Iterate over the losses with their channels of ``pred`` and ``target``."""
        count = len(self.losses)
        yield from zip(self.losses, pred.chunk(count, 1), target.chunk(count, 1), strict=True)


def parts_of(loss: nn.Module) -> list[nn.Module]:
    """Return the losses of all pairs of channels."""
    return list(loss.losses) if isinstance(loss, ChannelLosses) else [loss]


def foreign(losses: Iterable[nn.Module]) -> nn.Module | None:
    """Return the first loss that is not of this package, whose random numbers and waits are unknown; None if all are."""
    return next((x for loss in losses for x in parts_of(loss) if not isinstance(x, PairLoss)), None)


def single(loss: nn.Module) -> nn.Module:
    """Return the loss of the first pair of channels; the others are of the same type."""
    return loss.losses[0] if isinstance(loss, ChannelLosses) else loss


def compared_parts(
    loss: nn.Module, pred: torch.Tensor, target: torch.Tensor
) -> list[tuple[float, nn.Module, torch.Tensor, torch.Tensor]]:
    """Return weight, loss, warped channels and target channels of each pair."""
    if not isinstance(loss, ChannelLosses):
        return [(1.0, loss, pred, target)]
    return [(share, *part) for share, part in zip(loss.shares, loss.parts(pred, target), strict=True)]
