# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks and labels in a blockwise registration.

The coarse registration of the whole images uses them like any other. What a tile should minimize is the part of the objective
of the whole image that depends on it. In both, the similarity is a mean over the volume that is compared: V in the whole image,
V_t in the tile. The mean over the tile is therefore the tile's part of the whole similarity times V / V_t. So that all terms
have one factor, the weight of each point of a landmark or of a surface that lies in the tile, its halo included, is that in the
whole image times V / V_t, and zero elsewhere; the bending energy is weighted likewise, see :mod:`.tile`. Relative to the voxels
around it, a point pulls in each tile that contains it as in the whole image, and as in the neighboring tile. The velocities of
tiles are averaged with weights that sum to one, hence a point in two tiles does not pull twice.

Points of the moving image count where the coarse registration maps them. Tiles at the border of the image extend beyond it
without limit: each point lies in the core of one tile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..geometry import Grid, SpatialTransform, apply_affine
from ..geometry.partition import grown
from ..io.lps import lps_signs
from ..io.ome_zarr.multiscales import LENGTH_UNITS
from ..registration import RegistrationResult
from ..registration.label_surfaces import DistanceMaps, LabelSurfaces
from ..registration.labels import Labels
from ..registration.landmarks import Landmarks
from ..roles import ROLES
from .checks import FIELDS
from .images import BlockImage, block_means

__all__ = ["BlockGuides", "field_means", "fine_landmarks"]

MAPS = tuple(field.name for field in dataclasses.fields(DistanceMaps))


@dataclass(frozen=True, eq=False)
class BlockGuides:
    """Landmarks and labels, and where their points lie in the fixed image.

    Attributes:
        landmarks: landmarks of the whole images, or None.
        labels: labels of the whole images, or None.
        landmark_places: fixed landmarks, and moving ones mapped by the coarse registration, ``(N, D)`` float64, RAS mm.
        label_places: likewise the points on the surfaces of the labels, ``(L, N, D)``.
    """

    landmarks: Landmarks | None = None
    labels: Labels | None = None
    landmark_places: tuple[torch.Tensor, ...] = ()
    label_places: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, landmarks: Landmarks | None, labels: Labels | None, coarse: RegistrationResult) -> BlockGuides:
        """Map the moving points by the inverse of the coarse registration."""
        back = SpatialTransform.of_field(coarse.inverse_mm, coarse.moving_grid)
        found: dict[str, tuple[torch.Tensor, ...]] = {}
        if landmarks is not None:
            found["landmark_places"] = landmarks.fixed, back.points(landmarks.moving).cpu()
        if labels is not None:
            fixed, moving = (each.points for each in labels.surfaces)
            mapped = back.points(moving.flatten(0, 1)).cpu()
            found["label_places"] = fixed, mapped.view_as(moving)
        return cls(landmarks, labels, **found)

    @property
    def numbers(self) -> int:
        """Numbers that the distance maps of the labels hold."""
        return 0 if self.labels is None else sum(each.numbers for each in self.labels.surfaces)

    def of_tile(self, low: np.ndarray, high: np.ndarray, to_voxels: np.ndarray, factor: float) -> dict[str, Any]:
        """The arguments of :class:`monai_locor.registration.Start` for a tile.

        Args:
            low, high: positions along each axis between which points lie in the tile, voxels.
            to_voxels: from world points to these voxels, ``(D + 1, D + 1)``.
            factor: of the weights in the tile.
        """

        def shares(places: Sequence[torch.Tensor]) -> Any:
            return tuple(factor * _between(each, low, high, to_voxels).double() for each in places)

        found: dict[str, Any] = {}
        if self.landmarks is not None:
            found["landmarks"] = dataclasses.replace(self.landmarks, shares=shares(self.landmark_places))
        if self.labels is not None:
            found["labels"] = dataclasses.replace(self.labels, shares=shares(self.label_places))
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, without the label maps."""
        out: dict[str, Any] = {}
        if self.landmarks is not None:
            out |= {f"landmarks.{name}": getattr(self.landmarks, name) for name in (*ROLES, "weights")}
            out |= {f"landmarks.place{k}": place for k, place in enumerate(self.landmark_places)}
        if self.labels is not None:
            out |= {"labels.values": torch.tensor(self.labels.values), "labels.weights": self.labels.weights}
            out |= {f"labels.place{k}": place for k, place in enumerate(self.label_places)}
            for role, each in zip(ROLES, self.labels.surfaces, strict=True):
                out[f"labels.{role}"] = each.points
                out |= {f"labels.{role}.{n}.{m}": getattr(part, m) for n, part in enumerate(each.distances) for m in MAPS}
        return {name: value.numpy() for name, value in out.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> BlockGuides:
        """The guides of :meth:`arrays`."""
        found = {name: torch.from_numpy(value) for name, value in arrays.items()}
        out: dict[str, Any] = {}
        if "landmarks.weights" in found:
            fixed, moving, weights = (found[f"landmarks.{name}"] for name in (*ROLES, "weights"))
            out["landmarks"] = Landmarks(fixed, moving, weights)
            out["landmark_places"] = found["landmarks.place0"], found["landmarks.place1"]
        if "labels.values" in found:
            surfaces = tuple(_surfaces(found, f"labels.{role}") for role in ROLES)
            values = tuple(found["labels.values"].tolist())
            out["labels"] = Labels(values, found["labels.weights"], surfaces, None)  # type: ignore[arg-type]
            out["label_places"] = found["labels.place0"], found["labels.place1"]
        return cls(**out)


def _surfaces(found: Mapping[str, torch.Tensor], name: str) -> LabelSurfaces:
    parts: list[DistanceMaps] = []
    while f"{name}.{len(parts)}.maps" in found:
        parts.append(DistanceMaps(*(found[f"{name}.{len(parts)}.{m}"] for m in MAPS)))
    return LabelSurfaces(found[name], tuple(parts))


def _between(points: torch.Tensor, low: np.ndarray, high: np.ndarray, to_voxels: np.ndarray) -> torch.Tensor:
    """Which world points ``(..., D)`` lie between positions in voxels, ``(...)`` bool."""
    voxels = apply_affine(to_voxels, points.flatten(0, -2).numpy())
    return torch.from_numpy(((voxels >= low) & (voxels < high)).all(1)).view(points.shape[:-1])


def fine_landmarks(landmarks: Landmarks, folder: Path, coarse: RegistrationResult) -> dict[str, Any]:
    """The distances of landmarks before and after, as of :meth:`Landmarks.distances`, by the forward field that was written.

    Args:
        landmarks: the landmarks.
        folder: output folder.
        coarse: coarse result, which has the same initial affine.
    """
    assert coarse.landmarks_mm is not None
    files = _field_files(folder)
    grid, mapped = files[0].grid, landmarks.fixed.clone()
    chunks, ends = np.array(files[0].chunks[: grid.dims]), np.array(grid.shape)
    voxels = apply_affine(np.linalg.inv(grid.affine), landmarks.fixed.numpy())
    places, owners = np.unique(voxels.round().astype(int).clip(0, ends - 1) // chunks, axis=0, return_inverse=True)
    for number, place in enumerate(places):
        own = torch.from_numpy(owners.reshape(-1) == number)
        box = [slice(int(a), int(b)) for a, b in zip(place * chunks, np.minimum((place + 1) * chunks, ends), strict=True)]
        around = grown(box, grid.shape, 1)
        values = np.stack([file.read(around) for file in files]) * _to_mm(files)
        transform = SpatialTransform.of_field(values.astype(np.float32), grid.cropped(around))
        mapped[own] = transform.points(landmarks.fixed[own])
    return {**coarse.landmarks_mm, "after": landmarks.distances_of(mapped)}


def field_means(folder: Path, factors: Sequence[int]) -> tuple[torch.Tensor, Grid]:
    """The forward field that was written, averaged over blocks, ``(D, *coarse)``, RAS mm; and its grid.

    Args:
        folder: output folder.
        factors: voxels of a block along each axis.
    """
    files = _field_files(folder)
    means = [block_means(file, factors) for file in files]
    values = np.stack([mean for mean, *_ in means]) * _to_mm(files)
    return torch.from_numpy(values.astype(np.float32)), means[0][1]


def _field_files(folder: Path) -> list[BlockImage]:
    """The components of the forward field."""
    path = folder / FIELDS["forward"]
    dims = BlockImage(path, "forward field", 0).grid.dims
    return [BlockImage(path, "forward field", k) for k in range(dims)]


def _to_mm(files: Sequence[BlockImage]) -> np.ndarray:
    """From LPS in the unit of the file to RAS mm, ``(D, 1, ...)``."""
    dims = len(files)
    return (lps_signs(dims) * LENGTH_UNITS[files[0].unit or "millimeter"]).reshape(-1, *[1] * dims)
