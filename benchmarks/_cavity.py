# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cavities, contrast agent and metal in one image of a real pair, at random places and with a known outline.

Arrays are numpy, ``(X, Y, Z)``; lengths are mm, volumes ml. Nothing here uses the measured package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

KINDS = ("csf", "zero", "rim", "metal")
DEPTH = 0.35  # minimum depth of the center, relative to the deepest voxel of the region
NOISE = 0.02  # standard deviation of the noise in the cavity, relative to the intensity range
ROUGHNESS = 0.3  # relative modulation of the radius
RIM_MM = 4.0  # thickness of the enhancing rim
STREAK_MM = 25.0  # distance over which streaks decay
STREAK = 0.4  # amplitude of streaks at the metal, relative to the intensity range


@dataclass(frozen=True)
class Cut:
    """An image with a cavity.

    Attributes:
        image: the changed image.
        hole: voxels without tissue, bool.
        changed: voxels that differ noticeably from the original image, bool; contains the hole.
    """

    image: np.ndarray
    hole: np.ndarray
    changed: np.ndarray


def cut(
    image: np.ndarray, region: np.ndarray, spacing: np.ndarray, ml: float, kind: str, dark: bool, rng: np.random.Generator
) -> Cut:
    """Cut an irregular ellipsoid out of an image.

    Args:
        image: intensities.
        region: voxels of the tissue, bool; the center lies deep inside it, and the cavity does not leave it.
        spacing: voxel sides.
        ml: volume of the cavity, without the rim.
        kind: ``"csf"``, fluid and noise; ``"zero"``, background; ``"rim"``, fluid with a bright rim, as of contrast agent;
            ``"metal"``, no signal, and streaks in the planes of the last axis.
        dark: whether fluid is dark in this contrast.
        rng: source of the place, the shape and the noise.
    """
    depth = distance_transform_edt(region, spacing)
    deep = depth > DEPTH * depth.max()
    low, high = np.percentile(image[region], (0.5, 99.5))
    center = rng.permutation(np.argwhere(deep))[0]
    hole = _hole(center, region, spacing, ml, rng)
    fluid = np.percentile(image[deep], 3 if dark else 97)
    noise = gaussian_filter(rng.normal(size=image.shape), 0.5)
    noise *= NOISE * (high - low) / noise.std()
    empty = np.percentile(image, 0.5)
    inside = (fluid if kind in ("csf", "rim") else empty) + noise
    out = image.astype(np.float64)
    changed = hole.copy()
    if kind == "rim":
        rim = region & ~hole & (distance_transform_edt(~hole, spacing) <= RIM_MM)
        out = _blend(out, np.full_like(out, high + 0.1 * (high - low)) + noise, rim)
        changed |= rim
        hole = changed
    if kind == "metal":
        streaks = _streaks(image.shape, center, spacing, rng) * (high - low)
        out = np.where(region, np.maximum(out + streaks, empty), out)
        changed |= region & (np.abs(streaks) > 0.1 * (high - low))
    core = hole if kind != "rim" else hole & ~rim
    out = _blend(out, inside, core)
    return Cut(np.maximum(out, image.min()).astype(np.float32), hole, changed)


def _hole(center: np.ndarray, region: np.ndarray, spacing: np.ndarray, ml: float, rng: np.random.Generator) -> np.ndarray:
    """The voxels nearest to the center, in a distance with random axes and smooth noise, that fill the volume."""
    offset = (np.moveaxis(np.indices(region.shape), 0, -1) - center) * spacing
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] * np.exp(rng.uniform(-0.35, 0.35, 3))
    noise = gaussian_filter(rng.normal(size=region.shape), 8.0 / spacing)
    level = np.linalg.norm(offset @ axes, axis=-1) * (1 + ROUGHNESS * np.clip(noise / noise.std(), -2, 2))
    level[~region] = np.inf
    count = min(round(ml * 1000 / float(np.prod(spacing))), int(region.sum()) // 4)
    return level <= np.partition(level.ravel(), count - 1)[count - 1]


def _streaks(shape: tuple[int, ...], center: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rays in planes of the last axis that start at the center and decay; ``STREAK`` at most."""
    x, y, z = (np.moveaxis(np.indices(shape), 0, -1) - center).transpose(3, 0, 1, 2) * spacing[:, None, None, None]
    rays = np.cos(6 * np.arctan2(y, x) + rng.uniform(0, 2 * np.pi))
    return STREAK * rays * np.exp(-np.hypot(x, y) / STREAK_MM) * np.exp(-((z / 8.0) ** 2))


def _blend(image: np.ndarray, inside: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Replace voxels, with the partial volume of about one voxel at the border."""
    share = gaussian_filter(where.astype(np.float64), 0.6)
    return image * (1 - share) + inside * share
