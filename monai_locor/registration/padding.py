# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Voxels outside the acquired field of view that were filled with one value.

A slab or a part of a head that was resampled to a larger grid is padded there. If padding counts as background, the part is
stretched to the whole. Background that counts, such as that of a brain without its skull, is one value as well, but anatomy
ends in curved surfaces and a field of view in planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import Grid
from ..tensors import plain

__all__ = ["padded_voxels", "without_padding"]

MIN_BORDER_SHARE = 0.1  # of the voxels at the border of the grid that have the value
MIN_SHARE = 0.05  # of all voxels; less does not mislead a registration, and weights take time
MAX_SIDE = 96  # cells per axis in which planes are looked for
MAX_FACES = 2**12  # among which directions are chosen
DIRECTIONS = {2: 360, 3: 1000}
CANDIDATES = 24
COARSE_DEPTH = 0.04  # of the longest side: tolerance in the choice of directions
MIN_COARSE_SHARE = 0.25  # of the silhouette within this tolerance; 0.05 to 0.28 in brains, heads and abdomens without padding
MIN_FLAT_SHARE = {2: 0.5, 3: 0.35}  # of the silhouette in one line or plane, to a voxel; below 0.25 in those
MAX_GROWTH = {2: 1.35, 3: 1.6}  # of its size in three times the depth; a cap grows by 1.7 (2-D) or 3
SAME_PLANE = 0.94  # cosine


def without_padding(image: torch.Tensor, valid: torch.Tensor | None, grid: Grid) -> torch.Tensor | None:
    """Return the mask of the voxels that are valid and no padding.

    Args:
        image: intensities, ``(C, *spatial)``, finite.
        valid: ``(1, *spatial)`` bool, or None if all are valid.
        grid: grid of the image.

    Returns:
        ``(1, *spatial)`` bool, or None if all voxels count; ``valid`` itself if there is no padding.
    """
    padding = padded_voxels(image, grid)
    if padding is None:
        return valid
    counts = ~padding if valid is None else valid & ~padding.to(valid.device)
    return counts if bool(counts.any()) else valid


def padded_voxels(image: torch.Tensor, grid: Grid) -> torch.Tensor | None:
    """Return the voxels that are padding in every channel, ``(1, *spatial)`` bool; None if there are none.

    Args:
        image: intensities, ``(C, *spatial)``.
        grid: its grid.
    """
    padding: torch.Tensor | None = None
    for channel in plain(image).detach():
        found = _padding(channel, grid)
        if found is None:
            return None
        padding = found if padding is None else padding & found
    return None if padding is None or not bool(padding.any()) else padding[None]


def _padding(values: torch.Tensor, grid: Grid) -> torch.Tensor | None:
    """Return the padding of one channel, ``(*spatial)``."""
    fill = _border_value(values)
    if fill is None:
        return None
    padding = _beyond_planes(values != fill, np.asarray(grid.spacing))
    return padding if float(padding.float().mean()) > MIN_SHARE else None


def _border_value(values: torch.Tensor) -> torch.Tensor | None:
    """Return the most frequent value at the border of the grid; None if it is not frequent."""
    long = [axis for axis, n in enumerate(values.shape) if n > 2]
    if not long:
        return None
    border = torch.cat([values.select(axis, k).flatten() for axis in long for k in (0, -1)])
    found, counts = border.unique(return_counts=True)
    return found[counts.argmax()] if int(counts.max()) >= MIN_BORDER_SHARE * border.numel() else None


def _beyond_planes(content: torch.Tensor, spacing: np.ndarray) -> torch.Tensor:
    """Return the voxels beyond the planes at which the content ends, and its last voxel before them."""
    padding = torch.zeros_like(content)
    strides = [-(-n // MAX_SIDE) for n in content.shape]
    cells, size = _blocks(content, strides), spacing * strides
    axes = [
        torch.arange(n, dtype=torch.float32, device=content.device) * h for n, h in zip(content.shape, spacing, strict=True)
    ]
    for normal in _plane_normals(_Surface.of(cells.cpu().numpy(), size)):
        height = torch.zeros((), dtype=torch.float32, device=content.device)
        for axis, weight in zip(axes, normal.tolist(), strict=True):
            height = height[..., None] + weight * axis
        top = torch.where(content, height, -torch.inf).max()
        padding |= height > top - float(np.abs(normal) @ spacing) * (1 - 1e-3)
    return padding


def _blocks(content: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """Return blocks of voxels that have content."""
    pool = F.max_pool3d if content.ndim == 3 else F.max_pool2d
    return pool(content[None, None].float(), strides, strides, ceil_mode=True)[0, 0] > 0


@dataclass(frozen=True, eq=False)
class _Surface:
    """The faces between the content of an image and the rest.

    Attributes:
        places: centers of the faces, ``(N, D)``, mm.
        areas: their areas, as outward vectors, ``(N, D)``, mm^2.
        ends: areas of the content at both ends of the grid along each axis, likewise, ``(2 D, D)``.
        spacing: of the voxels, ``(D,)``, mm.
    """

    places: np.ndarray
    areas: np.ndarray
    ends: np.ndarray
    spacing: np.ndarray

    @classmethod
    def of(cls, content: np.ndarray, spacing: np.ndarray) -> _Surface:
        """The surface of the content, ``(*spatial)`` bool."""
        places, areas, ends = [], [], []
        for axis, outward in enumerate(np.diag(np.prod(spacing) / spacing)):
            moved = np.moveaxis(content, axis, 0)
            for sign, edge in ((1, moved[:-1] & ~moved[1:]), (-1, ~moved[:-1] & moved[1:])):
                index = np.argwhere(np.moveaxis(edge, 0, axis)) + 0.5 * (np.arange(content.ndim) == axis)
                places.append(index * spacing)
                areas.append(np.broadcast_to(sign * outward, index.shape))
                ends.append(sign * outward * moved[-1 if sign > 0 else 0].sum())
        return cls(np.concatenate(places), np.concatenate(areas), np.stack(ends), spacing)

    def thinned(self) -> _Surface:
        """At most ``MAX_FACES`` of the faces, with as large an area together."""
        part = slice(None, None, max(1, -(-len(self.places) // MAX_FACES)))
        places = self.places[part]
        share = len(self.places) / max(len(places), 1)
        return replace(self, places=places, areas=share * self.areas[part])

    def silhouette(self, normals: np.ndarray) -> np.ndarray:
        """Area of the content seen along directions ``([M,] D)``, if it is convex."""
        seen = [np.clip(normals @ part.T, 0, None).sum(-1) for part in (self.areas, self.ends)]
        return np.maximum(seen[0] + seen[1], 1e-12)

    def voxel_depth(self, normals: np.ndarray) -> np.ndarray:
        """Extent of a voxel along directions ``([M,] D)``, mm."""
        return np.abs(normals) @ self.spacing

    def tolerance(self, normals: np.ndarray, share: float) -> np.ndarray:
        """A share of the longest side of the content, at least a voxel, mm."""
        return np.maximum(self.voxel_depth(normals), share * np.ptp(self.places, axis=0).max())


def _plane_normals(surface: _Surface) -> Iterator[np.ndarray]:
    """Yield the outward unit normals of the planes at which the content ends within the grid, mm."""
    found: list[np.ndarray] = []
    for start in _candidates(surface.thinned()):
        if any(start @ normal > SAME_PLANE for normal in found):
            continue
        normal = _refined(start, surface)
        if _is_flat(normal, surface) and not any(normal @ n > SAME_PLANE for n in found):
            found.append(normal)
            yield normal


def _is_flat(normal: np.ndarray, surface: _Surface) -> bool:
    """Return whether the content ends in a plane in a direction."""
    heights, facing = surface.places @ normal, np.clip(surface.areas @ normal, 0, None)
    below, depth, dims = heights.max() - heights, float(surface.voxel_depth(normal)), len(normal)
    one, three = (float(facing[below <= factor * depth].sum()) for factor in (1, 3))
    return one > MIN_FLAT_SHARE[dims] * float(surface.silhouette(normal)) and three < MAX_GROWTH[dims] * one


def _candidates(surface: _Surface) -> np.ndarray:
    """Return directions in which much of the content ends at about the same height, best first, ``(M, D)``."""
    if not len(surface.places):
        return np.zeros((0, len(surface.spacing)))
    normals = _directions(len(surface.spacing))
    heights, facing = normals @ surface.places.T, np.clip(normals @ surface.areas.T, 0, None)
    depth = surface.tolerance(normals, COARSE_DEPTH)
    high = (facing * (heights >= heights.max(1, keepdims=True) - depth[:, None])).sum(1)
    flat = high / surface.silhouette(normals)
    best = np.argsort(-flat, kind="stable")[:CANDIDATES]
    return normals[best[flat[best] > MIN_COARSE_SHARE]]


def _directions(dims: int) -> np.ndarray:
    """Return evenly spread unit vectors, ``(M, D)``: a Fibonacci lattice in 3-D."""
    k = np.arange(DIRECTIONS[dims]) + 0.5
    if dims == 2:
        return _on_circle(2 * np.pi * k / len(k))
    z = 1 - 2 * k / len(k)
    return np.column_stack((_on_circle(np.pi * (1 + 5**0.5) * k) * np.sqrt(1 - z**2)[:, None], z))


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack((np.cos(angles), np.sin(angles)), -1)


def _refined(normal: np.ndarray, surface: _Surface) -> np.ndarray:
    """Return the normal of the plane through the highest faces along a direction, by least squares."""
    for halvings in range(5):
        heights, facing = surface.places @ normal, surface.areas @ normal
        near = (heights >= heights.max() - surface.tolerance(normal, COARSE_DEPTH / 2**halvings)) & (facing > 0)
        if not near.any():  # the content reaches the end of the grid in this direction
            break
        weights = facing[near] / facing[near].sum()
        away = surface.places[near] - weights @ surface.places[near]
        vector = np.linalg.eigh((away * weights[:, None]).T @ away)[1][:, 0]
        normal = vector * np.copysign(1.0, vector @ normal)
    return normal
