# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Both images as compared by the similarity measure: normalized, smoothed, with all channels, on one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import InputError
from ...geometry import Grid, apply_affine, inside, mapped_points, reorder, warp
from ...geometry.mapping import displacement_of_affine
from ...io import ImageSource
from ...networks.basis import LearnedBasis
from ...registration.basis_pair import BasisPair
from ...registration.config import RegistrationConfig
from ...registration.pair import load_pair
from ...registration.pyramid import make_level
from ...registration.result import RegistrationResult
from ...registration.start.initial import initial_affine
from ...registration.start.prepare import PreparedImage, prepare
from ...registration.window_sizes import WindowSizes, window_sizes
from ...tensors import plain

__all__ = ["Samples", "samples_of_images", "samples_of_result"]


@dataclass(frozen=True, eq=False)
class Samples:
    """The images that the similarity measure compares in the forward direction, at the last stage of the settings.

    Attributes:
        fixed: target of the fits, ``(1, T, *grid)``: intensity (about [0, 1]) and, with ``derivative="both"``, its derivative
            magnitude.
        moving: input of the basis functions, ``(1, C, *grid)``: intensity of the moving image at the samples and, unless
            ``derivative="none"``, its derivative magnitude times the sample spacing.
        weight: ``(1, 1, *grid)`` in [0, 1]; zero where an image has no data.
        grid: of the samples: axes nearest to R, A, S, cropped to the fixed image's foreground.
        prepared: the fixed image on all its voxels.
        config: settings of the registration.
        learned: the basis network of the forward direction, or None.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    weight: torch.Tensor
    grid: Grid
    prepared: PreparedImage
    config: RegistrationConfig
    learned: LearnedBasis | None

    @property
    def dims(self) -> int:
        """Number of spatial axes D."""
        return self.grid.dims

    @property
    def windows(self) -> WindowSizes:
        """Windows of the measure along each axis, in samples."""
        return window_sizes(self.config, self.prepared.grid, last_factor(self.config))

    def cropped(self, box: Sequence[slice]) -> Samples:
        """The samples inside a box of ``slice(start, stop)``, one per axis."""
        part = (slice(None), slice(None), *box)
        images = {name: getattr(self, name)[part] for name in ("fixed", "moving", "weight")}
        return dataclasses.replace(self, **images, grid=self.grid.cropped(box))

    def double(self) -> Samples:
        """The same in float64."""
        images = {name: getattr(self, name).double() for name in ("fixed", "moving", "weight")}
        return dataclasses.replace(self, **images)

    def index(self, point_mm: Sequence[float] | np.ndarray) -> np.ndarray:
        """Convert a world point to a fractional index of the samples, ``(D,)``.

        Raises:
            InputError: if it does not lie in the fixed image.
        """
        point = np.asarray(point_mm, dtype=np.float64)
        if point.shape != (self.dims,) or not np.isfinite(point).all():
            raise InputError(f"the point must have {self.dims} finite coordinates (RAS mm), got {point.tolist()}.")
        stored = self.prepared.stored
        voxel = apply_affine(np.linalg.inv(stored.affine), point)
        if not ((voxel >= -0.5 - 1e-6) & (voxel <= np.array(stored.shape) - 0.5 + 1e-6)).all():
            raise InputError(
                f"the point {np.round(point, 2).tolist()} mm lies outside the fixed image: it is voxel "
                f"{np.round(voxel, 1).tolist()} of {list(stored.shape)}; give RAS mm inside it."
            )
        return apply_affine(np.linalg.inv(self.grid.affine), point)

    def world(self, index: Sequence[float] | np.ndarray) -> np.ndarray:
        """Convert an index of the samples to a world point, ``(D,)`` RAS mm."""
        return apply_affine(self.grid.affine, np.asarray(index, dtype=np.float64))


def samples_of_result(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: np.ndarray | None = None,
) -> tuple[Samples, Samples]:
    """The samples before and after a registration, prepared as in the engine.

    Args:
        result: registration result.
        fixed, moving, fixed_mask, moving_mask: as given to :func:`monai_locor.register`.
        initial: affine "before", ``(D + 1, D + 1)``, fixed to moving points, RAS mm; by default the initialization of the
            settings.

    Raises:
        InputError: if the images do not belong to the result, or cannot be read.
    """
    config = _settings(result.last_config, result.basis)
    pair = load_pair(fixed, moving, config, fixed_mask=fixed_mask, moving_mask=moving_mask, initial=result.affine)
    for role, image, grid in (("fixed", pair.fixed, result.fixed_grid), ("moving", pair.moving, result.moving_grid)):
        if image.stored.shape != grid.shape:
            raise InputError(
                f"the {role} image has shape {image.stored.shape}, that of the result {grid.shape}; give the same."
            )
    after = reorder(plain(result.forward_mm), pair.fixed.axes, pair.fixed.flips).to(pair.fixed.image)
    if initial is None:
        initial = initial_affine(pair.fixed, pair.moving, config.initialization)
    before = _affine_displacement(np.asarray(initial, dtype=np.float64), pair.fixed.grid).to(after)
    learned = _forward_basis(result.basis)
    first, second = (_samples(pair.fixed, pair.moving, u, config, learned) for u in (before, after))
    return first, second


def samples_of_images(
    fixed: torch.Tensor,
    moving_on_fixed: torch.Tensor,
    *,
    basis: BasisPair | None,
    config: RegistrationConfig,
    mask: torch.Tensor | None = None,
) -> Samples:
    """The same for images that lie on one grid already.

    The engine normalizes the moving image, and takes its derivative, before it is deformed; here both are done after that.

    Args:
        fixed: ``(1, *spatial)``; a MetaTensor's affine gives the voxel sizes.
        moving_on_fixed: ``(1, *spatial)``, not finite where it has no data.
        basis: of the registration; None for a polynomial basis.
        config: settings of the registration.
        mask: weights of the fixed image's voxels, ``(1, *spatial)``.

    Raises:
        InputError: when no voxel is left to compare, or the basis does not fit the settings.
        ValueError: when the images do not share a grid.
    """
    grid = Grid.of(fixed)
    config = _settings(config, basis)
    for name, image in (("moving_on_fixed", moving_on_fixed), ("mask", mask)):
        if image is not None and tuple(image.shape) != (1, *grid.shape):
            raise ValueError(f"{name} must be {(1, *grid.shape)}, as the fixed image, got {tuple(image.shape)}.")
    images = [_finite(image) for image in (fixed, moving_on_fixed)]
    fixed_weight = images[0][1] if mask is None else images[0][1] * plain(mask).detach().float().nan_to_num(0).clamp(0, 1)
    if not bool((fixed_weight * images[1][1]).any()):
        raise InputError("no voxel of the mask has data in both images; check that mask and images share a grid.")
    weights = [None if bool((w == 1).all()) else w for w in (fixed_weight, images[1][1])]
    first, second = (
        prepare(image, weight, config.quantile, image.device, grid) for (image, _), weight in zip(images, weights, strict=True)
    )
    return _samples(first, second, None, config, _forward_basis(basis))


def _finite(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = plain(image).detach().float()
    valid = values.isfinite()
    return torch.where(valid, values, 0), valid.float()


def _affine_displacement(matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """Displacement of the world points of a grid by an affine, ``(D, *grid)``, mm."""
    if matrix.shape != (grid.dims + 1, grid.dims + 1) or not np.isfinite(matrix).all():
        raise InputError(f"initial must be a finite {grid.dims + 1}x{grid.dims + 1} matrix, got shape {matrix.shape}.")
    return displacement_of_affine(matrix, grid)


def _settings(config: RegistrationConfig, basis: BasisPair | None) -> RegistrationConfig:
    """Those that the basis was learned with: a measure of the caller's own need not be of the sizes in the settings."""
    if basis is None:
        return config
    sizes = {name: getattr(basis, name) for name in ("derivative", "num_basis", "hidden_channels")}
    if config.similarity == "locor":
        basis.check(**{name: getattr(config, name) for name in sizes})
    return dataclasses.replace(config, **sizes)


def _forward_basis(basis: BasisPair | None) -> LearnedBasis | None:
    """The forward network, in evaluation."""
    if basis is None:
        return None
    network = LearnedBasis(basis.in_channels, basis.num_basis, basis.hidden_channels)
    network.load_state_dict(dict(basis.forward))
    return network.eval().requires_grad_(False)


def last_factor(config: RegistrationConfig) -> float:
    """Distance of the samples at the last stage that has steps, in smallest voxels of the fixed image."""
    return next((stage.factor for stage in reversed(config.stages) if stage.iterations > 0), 1.0)


def _samples(
    fixed: PreparedImage,
    moving: PreparedImage,
    displacement_mm: torch.Tensor | None,
    config: RegistrationConfig,
    learned: LearnedBasis | None,
) -> Samples:
    """As :meth:`monai_locor.registration.RegistrationEngine.step` does it."""
    level = make_level(fixed, moving, last_factor(config), config.derivative, config.derivative_unit, config.region)
    field = None if displacement_mm is None else warp(displacement_mm, fixed.grid, None, level.grid, padding_mode="border")
    values = warp(level.other[0], level.other_grid, field, level.grid)
    weight = inside(mapped_points(level.grid, level.other_grid, field), level.other_grid.shape)[None].to(values)
    if level.masked:
        values, weight = values[:-1], weight * values[-1:]
    if level.weight is not None:
        weight = weight * level.weight[0]
    return Samples(level.reference, values[None], weight[None], level.grid, fixed, config, learned)
