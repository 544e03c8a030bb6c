# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Planes through images in radiological convention, and what is drawn in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...geometry import Grid, reorder, to_voxels
from ...tensors import as_tensor

__all__ = ["Plane", "checkerboard", "deformed_lines", "intensity_limits", "planes_through", "upright", "window"]

DIRECTION_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))


@dataclass(frozen=True)
class Plane:
    """A plane through an upright volume, whose array axes point to R, A and S.

    Args:
        across: array axis drawn horizontally.
        up: array axis drawn upwards.
        index: voxel of the plane along the remaining axis; None for a 2-D image.
        step: voxel size along (across, up), mm.
        mirror: whether ``across`` runs from right to left in the picture: patient's right on the left, anterior on the left.
        labels: letters at the left, right, top and bottom edge; empty strings for none.
    """

    across: int
    up: int
    index: int | None
    step: tuple[float, float]
    mirror: bool
    labels: tuple[str, str, str, str]

    def cut(self, volume: np.ndarray) -> np.ndarray:
        """The plane of an upright volume ``(*shape)`` as a picture, ``(rows, columns)`` from the top."""
        flat = volume
        if self.index is not None:
            flat = np.take(volume, self.index, axis=3 - self.across - self.up)
        flat = flat if self.across < self.up else flat.T
        return flat.T[::-1, :: -1 if self.mirror else 1]


def upright(image: torch.Tensor, grid: Grid) -> tuple[np.ndarray, Grid]:
    """Reorder a channel-first image ``(C, *grid.shape)`` to the axis order nearest to R, A, S; return it and its grid."""
    axes, flips = grid.canonical_order()
    values = as_tensor(image).detach().cpu().float()
    return reorder(values, axes, flips).numpy(), grid.reordered(axes, flips)


def planes_through(grid: Grid, center: Sequence[int]) -> list[Plane]:
    """Axial, coronal and sagittal plane through a voxel of an upright grid; one plane if it is 2-D.

    Radiological convention: the patient's right is on the left of the picture.
    """
    pairs = [(0, 1), (0, 2), (1, 2)] if grid.dims == 3 else [(0, 1)]
    planes = []
    for across, up in pairs:
        step = (float(grid.spacing[across]), float(grid.spacing[up]))
        labels = (*DIRECTION_LETTERS[across], *DIRECTION_LETTERS[up]) if grid.dims == 3 else ("", "", "", "")
        index = int(center[3 - across - up]) if grid.dims == 3 else None
        planes.append(Plane(across, up, index, step, True, labels))
    return planes


def intensity_limits(volume: np.ndarray, low: float = 0.01, high: float = 0.995) -> tuple[float, float]:
    """Quantiles of the foreground; the lowest value replaces the lower quantile if that is about as dark."""
    finite = volume[np.isfinite(volume)]
    if not finite.size:
        return 0.0, 0.0
    darkest = float(finite.min())
    values = finite[finite > darkest] if finite.max() > darkest else finite
    bottom, top = (float(q) for q in np.quantile(values, (low, high)))
    return (min(bottom, darkest) if bottom < 0.3 * top else bottom), top


def window(volume: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Intensities clipped to limits, by default :func:`intensity_limits`, scaled to [0, 1]; 0 where not finite."""
    bottom, top = intensity_limits(volume) if limits is None else limits
    return np.nan_to_num(np.clip((volume - bottom) / max(top - bottom, 1e-12), 0, 1))


def checkerboard(first: np.ndarray, second: np.ndarray, step: tuple[float, float], square_mm: float) -> np.ndarray:
    """Checkerboard of two pictures ``(rows, columns)``; ``step`` is the voxel size along (columns, rows), mm."""
    rows, columns = (np.arange(n) * s // square_mm for n, s in zip(first.shape, reversed(step), strict=True))
    return np.where((rows[:, None] + columns[None]) % 2 == 0, first, second)


def deformed_lines(displacement_mm: torch.Tensor, grid: Grid, plane: Plane, every_mm: float) -> list[np.ndarray]:
    """Grid lines of a plane deformed by ``x + u(x)`` without the mean displacement, each ``(N, 2)`` in mm of the picture.

    Args:
        displacement_mm: ``(D, *grid.shape)``, RAS mm; ``grid`` is upright.
        every_mm: distance between lines before the deformation.
    """
    moved = to_voxels(displacement_mm, grid).cpu().numpy()
    sheets = []
    for axis, step in zip((plane.across, plane.up), plane.step, strict=True):
        u = plane.cut(moved[axis] - moved[axis].mean())
        sheets.append((u * step)[::-1, :: -1 if plane.mirror else 1])
    rows, columns = sheets[0].shape
    x = np.arange(columns)[None] * plane.step[0] + sheets[0]
    y = np.arange(rows)[:, None] * plane.step[1] + sheets[1]
    if plane.mirror:
        x = (columns - 1) * plane.step[0] - x
    points = np.stack([x, y], -1)
    jump_x, jump_y = (max(1, round(every_mm / s)) for s in plane.step)
    points = points[: (rows - 1) // jump_y * jump_y + 1, : (columns - 1) // jump_x * jump_x + 1]  # end on a line
    return [*points[::jump_y], *points[:, ::jump_x].transpose(1, 0, 2)]
