# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs of real images with a known truth, and everything that goes wrong with pairs: material of `trouble.py`.

World coordinates are RAS mm. Nothing here uses the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _capture_pairs import turn, volume
from _cavity import cut
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import binary_fill_holes, binary_opening, gaussian_filter, map_coordinates

from monai_locor import RegistrationResult
from monai_locor.data.synthetic import random_diffeomorphism
from monai_locor.geometry import Grid, affine_about, apply_affine

GROUPS = {  # images that are aligned to each other, by contrast
    "patient": {c: f"openms_patient07_{c}.nii.gz" for c in ("T1", "T2", "FLAIR")},
    "stroke": {c: f"stroke_{c}.nii.gz" for c in ("T1", "T2", "FLAIR")},
    "average": {c: f"avg152{c}_2mm.nii.gz" for c in ("T1", "T2", "PD")},
    "head": {"CT": "head_CT.nii.gz", "T1": "head_T1.nii.gz"},
    "nuclear": {"PET": "avg_PET_2mm.nii.gz", "SPECT": "avg_SPECT_2mm.nii.gz", "T1": "avg152T1_2mm.nii.gz"},
}
INEXACT = ("head", "nuclear")  # templates of other people, group averages: about a voxel and 2 mm off
SUBJECTS = tuple(f"nichart/Subj{n:02d}_T1.nii.gz" for n in range(1, 9))
ABDOMEN = ("abdomen_CT.nii.gz", "abdomen_MR.nii.gz")
ELASTIC_RMS_MM = 2.0  # of the random velocity
SUPERIOR = 2  # world axis


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and where the voxels of the fixed image truly lie in the moving one.

    Attributes:
        fixed, moving: images, ``(1, *spatial)``.
        truth: true positions of the fixed voxels in the moving image, ``(*fixed, 3)``, mm; None without a true answer.
        mask: fixed voxels where the error is measured, ``(*fixed)``.
        name: group and contrasts.
        start: matrix that the registration starts from, or None.
        changes: quantities drawn, for the record.
    """

    fixed: MetaTensor
    moving: MetaTensor
    truth: np.ndarray | None
    mask: np.ndarray
    name: str
    start: np.ndarray | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def error(self, ends: np.ndarray) -> np.ndarray:
        """Errors of mapped voxels ``(*fixed, 3)`` in the mask and the field of view of the moving image, ``(N,)`` mm."""
        if self.truth is None:
            return np.full(1, np.inf)
        grid = Grid.of(self.moving)
        index = apply_affine(np.linalg.inv(grid.affine), self.truth)
        inside = ((index >= -0.5) & (index <= np.array(grid.shape) - 0.5)).all(-1) & self.mask
        return np.linalg.norm(ends - self.truth, axis=-1)[inside] if inside.any() else np.full(1, np.inf)


@cache
def image(folder: Path, name: str) -> MetaTensor:
    """An image averaged to voxels of about 4 mm."""
    return volume(folder / name)


def draw_pair(folder: Path, rng: np.random.Generator) -> Pair:
    """A random pair of contrasts; the fixed one is seen through a random rotation, translation and deformation."""
    group = str(rng.choice(list(GROUPS), p=[0.3, 0.25, 0.25, 0.1, 0.1]))
    fixed, moving = rng.choice(list(GROUPS[group]), 2, replace=False)
    source, grid = image(folder, GROUPS[group][fixed]), Grid.of(image(folder, GROUPS[group][fixed]))
    truth = _random_map(grid, rng)
    index = np.moveaxis(apply_affine(np.linalg.inv(grid.affine), truth), -1, 0)
    values = source[0].numpy()
    seen = map_coordinates(values, index, order=1, cval=float(values.min()))
    mask = map_coordinates(_body(values).astype(np.float32), index, order=1) > 0.5
    return Pair(like(source, seen), image(folder, GROUPS[group][moving]), truth, mask, f"{group} {fixed}-{moving}")


def _random_map(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Mapped positions of the voxels, ``(*grid, 3)``: a rigid transform after a smooth displacement without folds."""
    displacement = random_diffeomorphism(grid, int(rng.integers(2**31)), elastic_rms_mm=ELASTIC_RMS_MM)
    return grid.points() + np.moveaxis(displacement.numpy(), 0, -1)


def _body(values: np.ndarray) -> np.ndarray:
    low = float(values.min())
    return binary_fill_holes(binary_opening(gaussian_filter(values, 0.5) - low > 0.1 * (np.quantile(values, 0.98) - low)))


def mapped(result: RegistrationResult, grid: Grid) -> np.ndarray:
    """Mapped positions of the voxels of the fixed grid, ``(*grid, 3)``, mm."""
    points = grid.points()
    return np.asarray(result.transform_points(points.reshape(-1, 3))).reshape(points.shape)


def like(source: MetaTensor, values: np.ndarray) -> MetaTensor:
    """An image with these voxels on the grid of another one."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None], affine=source.affine.clone())


def _placed(moving: MetaTensor, matrix: np.ndarray) -> MetaTensor:
    """The image with another header: its world is mapped by a matrix."""
    return MetaTensor(moving.as_tensor(), affine=torch.from_numpy(matrix @ Grid.of(moving).affine))


# Changes: each takes a pair and random numbers and returns the changed pair.


def _rotated(pair: Pair, rng: np.random.Generator, degrees: float, axis: np.ndarray) -> Pair:
    matrix = affine_about(Grid.of(pair.moving).center, turn(float(degrees), axis))
    assert pair.truth is not None
    return replace(pair, moving=_placed(pair.moving, matrix), truth=apply_affine(matrix, pair.truth))


def rotation(pair: Pair, rng: np.random.Generator) -> Pair:
    """A header turned by 20 to 180 degrees about any axis."""
    degrees = float(rng.uniform(20, 180))
    return replace(_rotated(pair, rng, degrees, rng.normal(size=3)), changes={"degrees": degrees})


def half_turn(pair: Pair, rng: np.random.Generator) -> Pair:
    """Upside down, back to front or both, or a quarter turn."""
    axis, degrees = int(rng.integers(3)), float(rng.choice([90.0, 180.0]))
    return replace(_rotated(pair, rng, degrees, np.eye(3)[axis]), changes={"axis": axis, "degrees": degrees})


def _mirrored(pair: Pair, axis: int) -> Pair:
    matrix = affine_about(Grid.of(pair.moving).center, np.diag([-1.0 if k == axis else 1.0 for k in range(3)]))
    return replace(pair, moving=_placed(pair.moving, matrix), truth=None, changes={"axis": axis})


def mirror_left_right(pair: Pair, rng: np.random.Generator) -> Pair:
    """A header that exchanges left and right."""
    return _mirrored(pair, 0)


def mirror_other(pair: Pair, rng: np.random.Generator) -> Pair:
    """A header that mirrors front and back, or top and bottom."""
    return _mirrored(pair, int(rng.integers(1, 3)))


def header_scale(pair: Pair, rng: np.random.Generator) -> Pair:
    """Wrong voxel sizes: of one axis, of all, or of another unit."""
    factor = float(rng.choice([0.5, 0.7, 1.5, 2.0, 0.1, 10.0]))
    axes = [int(rng.integers(3))] if 0.2 < factor < 5 and rng.random() < 0.5 else [0, 1, 2]
    matrix = affine_about(Grid.of(pair.moving).center, np.diag([factor if k in axes else 1.0 for k in range(3)]))
    assert pair.truth is not None
    placed = {"moving": _placed(pair.moving, matrix), "truth": apply_affine(matrix, pair.truth)}
    return replace(pair, **placed, changes={"factor": factor, "axes": len(axes)})


def _cropped(pair: Pair, axis: int, first: int, size: int) -> Pair:
    grid = Grid.of(pair.moving)
    box = tuple(slice(first, first + size) if k == axis else slice(0, n) for k, n in enumerate(grid.shape))
    values = pair.moving.as_tensor()[(slice(None), *box)].clone()
    return replace(pair, moving=MetaTensor(values, affine=torch.from_numpy(grid.cropped(box).affine)))


def slab(pair: Pair, rng: np.random.Generator) -> Pair:
    """Only 5 to 40 mm of the moving image, across the head-feet axis."""
    grid = Grid.of(pair.moving)
    axis = int(np.argmax(np.abs(grid.affine[SUPERIOR, :3])))
    step, mm = float(grid.spacing[axis]), float(rng.uniform(5, 40))
    size = max(1, round(mm / step))
    first = round(float(rng.uniform(0.35, 0.65)) * grid.shape[axis] - size / 2)
    return replace(_cropped(pair, axis, first, size), changes={"mm": mm})


def overlap(pair: Pair, rng: np.random.Generator) -> Pair:
    """20 to 90 % of the moving image along one axis, from one end."""
    grid, axis, share = Grid.of(pair.moving), int(rng.integers(3)), float(rng.uniform(0.2, 0.9))
    size = max(2, round(share * grid.shape[axis]))
    first = 0 if rng.random() < 0.5 else grid.shape[axis] - size
    return replace(_cropped(pair, axis, first, size), changes={"share": share})


def missing_half(pair: Pair, rng: np.random.Generator) -> Pair:
    """Half of the moving head without signal."""
    values, axis = pair.moving[0].numpy().copy(), int(rng.integers(3))
    half = [slice(None)] * 3
    half[axis] = slice(0, values.shape[axis] // 2) if rng.random() < 0.5 else slice(values.shape[axis] // 2, None)
    values[tuple(half)] = values.min()
    return replace(pair, moving=like(pair.moving, values))


def noise(pair: Pair, rng: np.random.Generator) -> Pair:
    """Noise of 5 to 30 % of the range of intensities in both images."""
    level = float(rng.uniform(0.05, 0.3))
    noisy = [_with_noise(part, level, rng) for part in (pair.fixed, pair.moving)]
    return replace(pair, fixed=noisy[0], moving=noisy[1], changes={"level": level})


def _with_noise(part: MetaTensor, level: float, rng: np.random.Generator) -> MetaTensor:
    values = part[0].numpy()
    return like(part, values + level * (np.quantile(values, 0.99) - values.min()) * rng.normal(size=values.shape))


def bias(pair: Pair, rng: np.random.Generator) -> Pair:
    """A smooth gain whose logarithm has a standard deviation of 0.2 to 0.5, in both images."""
    gain = float(rng.uniform(0.2, 0.5))
    parts = []
    for part in (pair.fixed, pair.moving):
        values = part[0].numpy()
        drawn = gaussian_filter(rng.normal(size=values.shape), np.array(values.shape) / 6, mode="nearest")
        parts.append(like(part, values.min() + (values - values.min()) * np.exp(gain * drawn / drawn.std())))
    return replace(pair, fixed=parts[0], moving=parts[1], changes={"gain": gain})


def contrast(pair: Pair, rng: np.random.Generator) -> Pair:
    """The moving intensities inverted inside the head."""
    values = pair.moving[0].numpy()
    low, high = values.min(), np.quantile(values, 0.99)
    return replace(pair, moving=like(pair.moving, np.where(_body(values), low + np.maximum(high - values, 0), low)))


def _with_cavity(pair: Pair, rng: np.random.Generator, kind: str) -> Pair:
    values, ml = pair.moving[0].numpy(), float(rng.uniform(20, 60))
    spacing = np.asarray(Grid.of(pair.moving).spacing, dtype=float)
    made = cut(values, _body(values), spacing, ml, kind, "T1" in pair.name.split("-")[1], rng)
    return replace(pair, moving=like(pair.moving, made.image), changes={"ml": ml})


def metal(pair: Pair, rng: np.random.Generator) -> Pair:
    """A void with streaks in the moving image, 20 to 60 ml."""
    return _with_cavity(pair, rng, "metal")


def tumor(pair: Pair, rng: np.random.Generator) -> Pair:
    """A cavity with a bright rim in the moving image, 20 to 60 ml."""
    return _with_cavity(pair, rng, "rim")


def bad_start(pair: Pair, rng: np.random.Generator) -> Pair:
    """A start that is wrong by 40 to 150 degrees and 20 to 80 mm."""
    degrees, mm, axis, way = rng.uniform(40, 150), rng.uniform(20, 80), rng.normal(size=3), rng.normal(size=3)
    matrix = affine_about(Grid.of(pair.moving).center, turn(float(degrees), axis))
    matrix[:3, 3] += mm * way / np.linalg.norm(way)
    return replace(pair, start=matrix, changes={"degrees": float(degrees), "mm": float(mm)})


def itself(pair: Pair, rng: np.random.Generator) -> Pair:
    """The fixed image with itself."""
    return replace(pair, moving=pair.fixed, truth=Grid.of(pair.fixed).points())


def noise_only(pair: Pair, rng: np.random.Generator) -> Pair:
    """A moving image of smooth noise."""
    drawn = gaussian_filter(rng.normal(size=pair.moving.shape[1:]), float(rng.uniform(0, 3)))
    return replace(pair, moving=like(pair.moving, drawn), truth=None)


def unchanged(pair: Pair, rng: np.random.Generator) -> Pair:
    """The pair as it is."""
    return pair


CHANGES: dict[str, Callable[[Pair, np.random.Generator], Pair]] = {
    "unchanged": unchanged,
    "noise": noise,
    "bias": bias,
    "inverted contrast": contrast,
    "metal": metal,
    "tumor": tumor,
    "missing half": missing_half,
    "slab": slab,
    "overlap": overlap,
    "rotation": rotation,
    "half or quarter turn": half_turn,
    "bad start": bad_start,
    "header scale": header_scale,
    "itself": itself,
    "mirror left-right": mirror_left_right,
    "mirror other": mirror_other,
    "noise only": noise_only,
}


def other_image(pair: Pair, folder: Path, kind: str, rng: np.random.Generator) -> Pair:
    """The pair with a moving image of another patient or another part of the body, centered on the same point."""
    name = str(rng.choice(SUBJECTS if kind == "wrong patient" else ABDOMEN))
    moving = image(folder, name)
    matrix = np.eye(4)
    matrix[:3, 3] = Grid.of(pair.moving).center - Grid.of(moving).center
    return replace(pair, moving=_placed(moving, matrix), truth=None, changes={"image": name})


OTHER_IMAGES = ("wrong patient", "other body part")
GIVEN = ("transform of another pair", "folded field")  # transforms that are judged without a registration
KINDS = (*CHANGES, *OTHER_IMAGES, *GIVEN)


def troubled(folder: Path, kind: str, rng: np.random.Generator) -> Pair:
    """A random pair with one kind of trouble; for :data:`GIVEN`, the pair whose transform is replaced."""
    pair = draw_pair(folder, rng)
    if kind in OTHER_IMAGES:
        return other_image(pair, folder, kind, rng)
    return CHANGES.get(kind, unchanged)(pair, rng)


def wrong_map(pair: Pair, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Mapped positions of the fixed voxels, ``(*fixed, 3)``: of another random transform, or the truth with folds."""
    grid = Grid.of(pair.fixed)
    if kind == "transform of another pair":
        return _random_map(grid, rng)
    assert pair.truth is not None
    fold = np.stack([gaussian_filter(rng.standard_normal(grid.shape), 1.0) for _ in range(3)], -1)
    return pair.truth + fold * float(rng.uniform(4, 12)) / np.linalg.norm(fold, axis=-1).mean()
