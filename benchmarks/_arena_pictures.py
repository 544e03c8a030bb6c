# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Picture of a registration: planes of the fixed image, of the moving image before and after, and of the error.

Planes go through the middle of the mask, in world millimeters, so that thick slices have their true proportions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from _score import FORWARD, _index, _volume, _world, read_field
from scipy.ndimage import map_coordinates

PLANE_PIXELS = 110  # longest side of a plane
GAP_PIXELS = 3
QUANTILES = (1.0, 99.5)  # of the intensities that are shown


def draw(case: Path, result: Path, path: Path) -> None:
    """Write the picture of a result.

    Args:
        case: folder of the case.
        result: folder with the forward field.
        path: PNG file.
    """
    from PIL import Image

    rows = [np.concatenate(list(_framed(row)), axis=1) for row in _rows(case, result)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, GAP_PIXELS), (0, width - row.shape[1]))) for row in rows]
    picture = Image.fromarray(np.concatenate(padded, axis=0))
    picture.save(path, optimize=True)


def _framed(tiles: list[np.ndarray]) -> Iterator[np.ndarray]:
    for tile in tiles:
        yield np.pad(tile, ((0, 0), (0, GAP_PIXELS)))


def _rows(case: Path, result: Path) -> Iterator[list[np.ndarray]]:
    """For every plane the four tiles, 8 bits."""
    fixed, moving = (nib.load(case / f"{role}.nii.gz") for role in ("fixed", "moving"))
    forward = read_field(result / FORWARD, fixed)
    truth = read_field(case / "truth.nii.gz", fixed) if (case / "truth.nii.gz").exists() else None
    images = [_scaled(_volume(image)) for image in (fixed, moving)]
    largest = 1.0 if truth is None else float(np.linalg.norm(truth, axis=-1).max())
    mask = _mask(case, forward.shape[:-1])
    for points in planes(fixed, _center(mask)):
        where = _index(points, fixed.affine)
        shift = np.stack([_sample(forward[..., k], where) for k in range(forward.shape[-1])], -1)
        tile = _sample(images[0], where)
        before, after = (_sample(images[1], _index(p, moving.affine)) for p in (points, points + shift))
        if truth is None:
            error = np.abs(_edges(tile) - _edges(after))
        else:
            known = np.stack([_sample(truth[..., k], where) for k in range(truth.shape[-1])], -1)
            error = np.linalg.norm(shift - known, axis=-1) / max(largest, 1e-6) * _sample(mask, where)
        yield [_upright(np.clip(255 * image, 0, 255).astype(np.uint8)) for image in (tile, before, after, error)]


def planes(image: nib.Nifti1Image, center: np.ndarray) -> Iterator[np.ndarray]:
    """World points ``(A, B, D)`` of the planes through a voxel, at equal distances along both sides; in 2-D the only plane."""
    dims = min(3, len(image.shape))
    affine, shape = image.affine, np.array(image.shape[:dims])
    step = np.linalg.norm(affine[:dims, :dims], axis=0)
    for a, b in ((0, 1),) if dims == 2 else ((0, 1), (0, 2), (1, 2)):
        spacing = max(shape[a] * step[a], shape[b] * step[b]) / PLANE_PIXELS
        sides = [np.arange(0, shape[axis] - 1, spacing / step[axis]) for axis in (a, b)]
        index = np.broadcast_to(center, (len(sides[0]), len(sides[1]), dims)).copy()
        index[..., a], index[..., b] = np.meshgrid(*sides, indexing="ij")
        yield _world(index, affine)


def _mask(case: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Where errors count, 0 or 1; without a mask everywhere."""
    if (case / "mask.nii.gz").exists():
        return (_volume(nib.load(case / "mask.nii.gz")) > 0).astype(np.float32)
    return np.ones(shape, dtype=np.float32)


def _center(mask: np.ndarray) -> np.ndarray:
    """The middle voxel of a mask."""
    inside = np.argwhere(mask > 0)
    return (inside.min(0) + inside.max(0)) / 2


def _scaled(data: np.ndarray) -> np.ndarray:
    """Intensities from 0 to 1 between two quantiles."""
    data = np.nan_to_num(np.asarray(data, dtype=np.float32))
    low, high = np.percentile(data, QUANTILES)
    return (data - low) / max(high - low, 1e-6)


def _sample(data: np.ndarray, index: np.ndarray) -> np.ndarray:
    return map_coordinates(data, np.moveaxis(index, -1, 0), order=1, mode="constant", cval=0)


def _edges(image: np.ndarray) -> np.ndarray:
    """Magnitude of the gradient, relative to its 99th percentile."""
    size = np.hypot(*np.gradient(np.clip(image, 0, 1)))
    return np.clip(size / max(np.percentile(size, 99), 1e-6), 0, 1)


def _upright(tile: np.ndarray) -> np.ndarray:
    """First axis to the right, second upwards."""
    return tile.T[::-1]
