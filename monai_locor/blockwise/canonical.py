# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of an image as the engine takes them: canonical axes, intensities mapped by the range of the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..geometry import Grid, reorder, warp
from ..registration.start.prepare import SOFT_LIMITS, PreparedImage
from .images import BlockImage, weights_of
from .tiling import Box
from .velocity import box_around

__all__ = ["CanonicalImage", "mask_weights"]


class CanonicalImage:
    """An image file in canonical axis order.

    Args:
        image: the file.
        span: intensities that become 0 and 1.
        mask: mask of the voxels to use, on any grid.

    Attributes:
        grid: grid of the image, with axes closest to R, A, S.
    """

    def __init__(self, image: BlockImage, span: tuple[float, float], mask: BlockImage | None = None) -> None:
        self.image, self.span, self.mask = image, span, mask
        self.axes, self.flips = image.grid.canonical_order()
        self.grid: Grid = image.grid.reordered(self.axes, self.flips).snapped()

    def stored_box(self, box: Sequence[slice]) -> Box:
        """The voxels of the file of a box in canonical axis order."""
        out: list[slice] = [slice(0)] * len(box)
        for part, axis, flip in zip(box, self.axes, self.flips, strict=True):
            n = self.image.grid.shape[axis]
            out[axis] = slice(n - part.stop, n - part.start) if flip else part
        return tuple(out)

    def prepared(self, box: Sequence[slice], device: torch.device) -> PreparedImage:
        """Read a box."""
        inside = self.stored_box(box)
        values = reorder(torch.from_numpy(self.image.read(inside).astype(np.float32))[None], self.axes, self.flips)
        grid, finite = self.grid.cropped(box), values.isfinite()
        weight = None if bool(finite.all()) else finite.float()
        if self.mask is not None:
            own = mask_weights(self.mask, grid)
            weight = own if weight is None else own * weight
        low, high = self.span
        values = ((values.double() - low) / max(high - low, 1e-30)).nan_to_num(0.0).clamp_(*SOFT_LIMITS).float()
        moved = None if weight is None else weight.to(device)
        return PreparedImage(values.to(device), moved, grid, self.image.grid.cropped(inside), self.axes, self.flips)


def mask_weights(mask: BlockImage, grid: Grid) -> torch.Tensor:
    """The weights of a mask on a part of the grid of its image, ``(1, *grid)`` in [0, 1]; zero outside of the mask."""
    box = box_around(mask.grid, grid.corners(), 1)
    weights = torch.from_numpy(weights_of(mask.read(box)))
    return warp(weights[None], mask.grid.cropped(box), None, grid).clamp_(0, 1)
