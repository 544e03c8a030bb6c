# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scores of a registration from its files and the known answer of the case.

Of the measured package only the overlap of label maps is used here. Files are read with nibabel, everything else is numpy and
scipy. Displacements are held in RAS mm, ``(X, Y, Z, 3)``, of 2-D images ``(X, Y, 2)``; in the files they are LPS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, distance_transform_edt, map_coordinates

from monai_locor.geometry import Grid
from monai_locor.metrics import common_labels, dice_per_label, hausdorff_per_label, mean_over_labels

FORWARD, INVERSE = "forward_field.nii.gz", "inverse_field.nii.gz"
VECTOR = 1007  # the NIfTI intent that makes ITK read a displacement field
INNER_MM = 15.0  # deeper below the surface of a head lies the brain, which is rigid between two visits
SLACK = 1e-3  # voxels that a point may lie outside a grid, and mm that two headers may differ, by rounding


def score(case: Path, result: Path) -> dict[str, Any]:
    """All scores of a result that the data of the case allow.

    Args:
        case: folder of the case.
        result: folder with ``forward_field.nii.gz`` and, for the inverse consistency, ``inverse_field.nii.gz``.

    Returns:
        numbers by name; a measure that the case has no data for is left out.

    Raises:
        ValueError: when a field or the mask does not lie on its grid, is empty, not finite or of another kind.
        OSError: when a file is missing.
    """
    fixed, moving = (nib.load(case / f"{role}.nii.gz") for role in ("fixed", "moving"))
    forward = read_field(result / FORWARD, fixed)
    mask = np.ones(forward.shape[:-1], dtype=bool)
    if (case / "mask.nii.gz").exists():
        mask = _volume(nib.load(case / "mask.nii.gz")) > 0
    if mask.shape != forward.shape[:-1] or not mask.any():
        raise ValueError(f"mask.nii.gz: shape {mask.shape}, {mask.sum()} voxels: needed are some on the fixed grid")
    found: dict[str, Any] = {"voxels": int(mask.sum()), "folding_voxels": folding(forward, fixed.affine, mask)}
    if (case / "truth.nii.gz").exists():
        truth = read_field(case / "truth.nii.gz", fixed)
        found |= target_error(forward[mask], truth[mask])
        inner = mask & (depth(mask, fixed.affine) > INNER_MM)
        if inner.any():
            errors = target_error(forward[inner], truth[inner])
            found |= {"tre_inner_mm": errors["tre_mm"], "tre_inner_p95_mm": errors["tre_p95_mm"]}
    if (case / "fixed_landmarks.csv").exists():
        points = (np.loadtxt(case / f"{role}_landmarks.csv", delimiter=",", skiprows=1) for role in ("fixed", "moving"))
        found |= landmark_error(forward, fixed.affine, *points)
    if (case / "fixed_labels.nii.gz").exists():
        labels = (nib.load(case / f"{role}_labels.nii.gz") for role in ("fixed", "moving"))
        found |= overlap(forward, fixed.affine, *labels)
    if (result / INVERSE).exists():
        inverse = read_field(result / INVERSE, moving)
        found |= inverse_error(forward, fixed.affine, inverse, moving.affine, mask)
    return found


def read_field(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """A displacement field ``(X, Y, Z, 3)`` or ``(X, Y, 2)``, RAS mm, that must lie on the grid of the image."""
    dims = min(3, len(image.shape))
    field = nib.load(path)
    data = np.asarray(field.dataobj, dtype=np.float64)
    if data.ndim != 5 or data.shape[dims:] != (*(1,) * (4 - dims), dims) or int(field.header["intent_code"]) != VECTOR:
        raise ValueError(f"{path.name}: shape {data.shape}, intent {int(field.header['intent_code'])}: no {dims}-D ITK field")
    if data.shape[:dims] != image.shape[:dims] or not np.allclose(field.affine, image.affine, atol=SLACK):
        raise ValueError(f"{path.name}: does not lie on the grid of its image")
    if not np.isfinite(data).all():
        raise ValueError(f"{path.name}: holds NaN or infinite values")
    return data.reshape(*data.shape[:dims], dims) * np.array([-1.0, -1.0, 1.0])[:dims]


def target_error(forward: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Distance between mapped and true points, mm, ``(N, 3)`` each."""
    error = np.linalg.norm(forward - truth, axis=-1)
    return {
        "tre_before_mm": float(np.linalg.norm(truth, axis=-1).mean()),
        "tre_mm": float(error.mean()),
        "tre_p95_mm": float(np.percentile(error, 95)),
    }


def depth(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Distance of voxels from the nearest one outside a mask without its holes, mm; beyond the grid is outside."""
    filled = np.pad(binary_fill_holes(mask), 1)
    spacing = np.linalg.norm(affine[: mask.ndim, : mask.ndim], axis=0)
    return distance_transform_edt(filled, sampling=spacing)[(slice(1, -1),) * mask.ndim]


def landmark_error(forward: np.ndarray, affine: np.ndarray, fixed: np.ndarray, moving: np.ndarray) -> dict[str, float]:
    """Distance between mapped fixed landmarks and moving landmarks, ``(N, D)`` each, RAS mm; linear between voxels.

    The median counts, as in the ANHIR challenge: two readers may differ by ten times their median on single landmarks.
    """
    error = np.linalg.norm(fixed + field_at(forward, affine, fixed) - moving, axis=-1)
    return {
        "landmarks": len(error),
        "landmark_before_mm": float(np.median(np.linalg.norm(fixed - moving, axis=-1))),
        "landmark_mm": float(np.median(error)),
        "landmark_p95_mm": float(np.percentile(error, 95)),
    }


def folding(forward: np.ndarray, affine: np.ndarray, mask: np.ndarray) -> int:
    """Mask voxels whose Jacobian determinant is not positive: central differences, one-sided at the border of the grid."""
    dims = forward.shape[-1]
    moved = [np.gradient(forward[..., k], axis=a)[mask] + affine[k, a] for k in range(dims) for a in range(dims)]
    if dims == 2:
        determinant = moved[0] * moved[3] - moved[1] * moved[2]
    else:
        (a, b, c, d, e, f, g, h, i) = moved
        determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return int((determinant * np.linalg.det(affine[:dims, :dims]) <= 0).sum())


def overlap(
    forward: np.ndarray, affine: np.ndarray, fixed_labels: nib.Nifti1Image, moving_labels: nib.Nifti1Image
) -> dict[str, Any]:
    """Dice before and after and the 95 % Hausdorff distance after, mm: means over the labels that both subjects have.

    The labels may lie on their own grids.
    """
    shape = forward.shape[:3]
    points = _world(np.indices(shape).reshape(3, -1).T, affine)
    fixed = _labels_at(points, fixed_labels)
    before, after = _labels_at(points, moving_labels), _labels_at(points + forward.reshape(-1, 3), moving_labels)
    maps = [torch.from_numpy(values.reshape(1, *shape).astype(np.float64)) for values in (fixed, before, after)]
    counted = common_labels(maps[0], torch.from_numpy(_volume(moving_labels).astype(np.float64))[None])
    if not counted:
        return {"labels": 0}
    distance = mean_over_labels(hausdorff_per_label(maps[0], maps[2], Grid(shape, affine), labels=counted))
    found = {"labels": len(counted), "hd95_mm": distance} if np.isfinite(distance) else {"labels": len(counted)}
    names = zip(("dice_before", "dice"), maps[1:])
    return found | {name: mean_over_labels(dice_per_label(maps[0], moved, counted)) for name, moved in names}


def inverse_error(
    forward: np.ndarray, fixed_affine: np.ndarray, inverse: np.ndarray, moving_affine: np.ndarray, mask: np.ndarray
) -> dict[str, Any]:
    """Distance of a point from itself after both transforms, 95th percentile, voxels of the fixed image.

    Over the mask voxels that the forward transform maps into the moving grid.
    """
    points = _world(np.argwhere(mask), fixed_affine) + forward[mask]
    dims = inverse.shape[-1]
    inside = inside_grid(points, inverse.shape[:-1], moving_affine)
    if not inside.any():
        return {}
    back = field_at(inverse, moving_affine, points[inside])
    error = (forward[mask][inside] + back) @ np.linalg.inv(fixed_affine[:dims, :dims]).T
    return {"inverse_p95_vox": float(np.percentile(np.linalg.norm(error, axis=-1), 95)), "inverse_voxels": int(inside.sum())}


def recovery(case: Path, result: Path, undisturbed: Path, original: Path) -> dict[str, float]:
    """How well a known deformation is recovered, whether or not the images without it are aligned.

    The fixed image of the case is another one, the original, seen through the true map d. If a method maps a point y of the
    original to u(y) in the moving image, it should map x to u(d(x)) here. The difference of both is the error, in the mask and
    where d(x) lies in the grid of the original.

    Args:
        case: folder of the case.
        result: folder with the forward field of the case.
        undisturbed: folder with the forward field from the original to the same moving image.
        original: file of the original, on whose grid that field lies.

    Returns:
        `recovered_mm` and `recovered_p95_mm`, and `offset_mm`, the mean distance between u(d(x)) and d(x).

    Raises:
        ValueError, OSError: see :func:`score`; also when nothing of the mask lies in the grid of the original.
    """
    image, source = nib.load(case / "fixed.nii.gz"), nib.load(original)
    mask = _volume(nib.load(case / "mask.nii.gz")) > 0
    start = _world(np.argwhere(mask), image.affine)
    true = start + read_field(case / "truth.nii.gz", image)[mask]
    inside = inside_grid(true, source.shape[:3], source.affine)
    if not inside.any():
        raise ValueError(f"{case.name}: the truth maps nothing of the mask into the original")
    offset = field_at(read_field(undisturbed / FORWARD, source), source.affine, true[inside])
    ends = (start + read_field(result / FORWARD, image)[mask])[inside]
    error = np.linalg.norm(ends - true[inside] - offset, axis=-1)
    found = {"recovered_mm": error.mean(), "recovered_p95_mm": np.percentile(error, 95)}
    return {name: float(x) for name, x in (found | {"offset_mm": np.linalg.norm(offset, axis=-1).mean()}).items()}


def field_at(field: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Vectors of a field ``(*grid, D)`` at points ``(N, D)``, RAS mm; linear between voxels, constant outside."""
    where = _index(points, affine).T
    return np.stack([map_coordinates(field[..., k], where, order=1, mode="nearest") for k in range(field.shape[-1])], -1)


def inside_grid(points: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Whether points ``(N, D)``, RAS mm, lie between the voxels of a grid, ``(N,)`` bool."""
    index = _index(points, affine)
    return ((index >= -SLACK) & (index <= np.array(shape) - 1 + SLACK)).all(-1)


def _world(index: np.ndarray, affine: np.ndarray) -> np.ndarray:
    dims = index.shape[-1]
    return index @ affine[:dims, :dims].T + affine[:dims, 3]


def _index(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    dims = points.shape[-1]
    return (points - affine[:dims, 3]) @ np.linalg.inv(affine[:dims, :dims]).T


def _volume(image: nib.Nifti1Image) -> np.ndarray:
    """Voxels ``(X, Y, Z)``, without trailing axes of one voxel."""
    return np.asarray(image.dataobj).reshape(image.shape[:3])


def _labels_at(points: np.ndarray, image: nib.Nifti1Image) -> np.ndarray:
    """Nearest label, zero outside."""
    return map_coordinates(_volume(image), _index(points, image.affine).T, order=0, mode="grid-constant", cval=0)
