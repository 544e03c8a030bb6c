# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The images and maps of a registration on one upright grid, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import InputError
from ...geometry import Grid, apply_affine, warp, warped
from ...io import ImageSource, read_image
from ...io.masks import mask_on_grid
from ...metrics import jacobian_determinant
from ...metrics.jacobian import unmirrored
from ...quality.labels import LabelOverlap
from ...tensors import host_array
from ..evidence import Evidence
from ..explain.residual import residual_maps
from ..pictures.contours import OUTER_LEVEL, bright_center, smoothed_outline
from ..pictures.planes import intensity_limits, upright, window
from ..places import Place, doubtful_places
from .error_pictures import ShownError
from .images import View, views_of

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult

__all__ = ["ReportImages"]


@dataclass(frozen=True)
class ReportImages:
    """The images of a registration as upright volumes, with the views that are shown.

    Attributes:
        result: registration result.
        volumes: ``fixed``, ``before``, ``after`` in [0, 1], ``(*shape)``.
        masks: ``fixed_mask`` and ``moving_mask`` if given, likewise.
        labels: label maps on the fixed grid.
        outline: smoothed fixed image, for contours.
        grid: of all volumes, upright.
        views: planes through the middle of the anatomy.
        residuals: maps before and after, ``(*shape)`` with NaN; the reason why they are missing; or None.
    """

    result: RegistrationResult
    volumes: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    labels: Sequence[LabelOverlap]
    outline: np.ndarray
    grid: Grid
    views: list[View]
    residuals: tuple[np.ndarray, np.ndarray] | str | None

    @classmethod
    def of(
        cls,
        result: RegistrationResult,
        fixed: ImageSource,
        moving: ImageSource,
        masks: Mapping[str, ImageSource | None],
        labels: Sequence[LabelOverlap] = (),
        residuals: bool = True,
    ) -> ReportImages:
        """Read the images and resample everything onto the fixed grid, upright.

        Args:
            result: registration result.
            fixed, moving: images.
            masks: ``fixed_mask`` and ``moving_mask``.
            labels: see :func:`monai_locor.report.labels.label_overlaps`.
            residuals: whether to map the local residual.
        """
        most = result.config.max_pixels
        images = {role: read_image(x, role, max_pixels=most)[0] for role, x in (("fixed", fixed), ("moving", moving))}
        for role, grid in (("fixed", result.fixed_grid), ("moving", result.moving_grid)):
            if tuple(images[role].shape[1:]) != grid.shape:
                shape = tuple(images[role].shape[1:])
                raise InputError(f"the {role} image has shape {shape}, that of the result {grid.shape}; give the same.")
        start = warped(images["moving"], result.moving_grid, result.initial_mm, result.fixed_grid)
        after = result.warp_moving(images["moving"]) if result.warped_moving is None else result.warped_moving
        limits = intensity_limits(host_array(images["moving"]))
        first, straight = upright(images["fixed"], result.fixed_grid)
        volumes = {
            "fixed": window(first[0]),
            "before": window(upright(start, result.fixed_grid)[0][0], limits),
            "after": window(upright(after, result.fixed_grid)[0][0], limits),
        }
        views = views_of(straight, bright_center(volumes["fixed"]))
        maps = _residuals(result, fixed, moving, masks) if residuals else None
        outline = smoothed_outline(volumes["fixed"], straight)
        return cls(result, volumes, _masks(result, masks), labels, outline, straight, views, maps)

    @cached_property
    def anatomy(self) -> np.ndarray:
        """Where the fixed image shows anatomy inside its mask, ``(*shape)`` bool; everywhere if it is dark."""
        inside = self.masks["fixed_mask"] > 0.5 if "fixed_mask" in self.masks else np.ones(self.grid.shape, dtype=bool)
        bright = inside & (self.outline > OUTER_LEVEL)
        return bright if bright.any() else inside

    @cached_property
    def field(self) -> torch.Tensor:
        """The forward displacement, ``(D, *shape)``, RAS mm."""
        return torch.from_numpy(upright(self.result.forward_mm, self.result.fixed_grid)[0])

    @cached_property
    def determinant(self) -> np.ndarray:
        """Jacobian determinant, ``(*shape)``, without the reflection of a mirroring affine."""
        return jacobian_determinant(unmirrored(self.field, self.grid, self.result.affine), self.grid).numpy()

    @cached_property
    def places(self) -> list[Place]:
        """The most doubtful places; empty if none stands out."""
        after = self.residuals[1] if isinstance(self.residuals, tuple) else None
        evidence = Evidence.of(self.result, self.volumes["fixed"], self.anatomy, self.determinant, after)
        return doubtful_places(evidence, self.result.fixed_grid, self.result.error_mm)

    @cached_property
    def error(self) -> ShownError | None:
        """The estimated error in the anatomy; None if it was not estimated or is determined nowhere."""
        return ShownError.of(self.result.error_mm, self.anatomy)

    def voxel_at(self, position_mm: Sequence[float]) -> np.ndarray:
        """The position in voxels of :attr:`grid`, ``(D,)``."""
        return apply_affine(np.linalg.inv(self.grid.affine), np.array(position_mm, dtype=float))


def _masks(result: RegistrationResult, masks: Mapping[str, ImageSource | None]) -> dict[str, np.ndarray]:
    """The given masks, upright on the fixed grid, in [0, 1]."""
    found = {}
    for name, field in (("fixed_mask", None), ("moving_mask", result.forward_mm)):
        source = masks.get(name)
        if source is not None:
            role, own = ("fixed", result.fixed_grid) if field is None else ("moving", result.moving_grid)
            mask = mask_on_grid(source, role, own)
            on_fixed = mask if field is None else warp(mask, own, field, result.fixed_grid)
            found[name] = upright(on_fixed, result.fixed_grid)[0][0].clip(0, 1)
    return found


def _residuals(
    result: RegistrationResult, fixed: ImageSource, moving: ImageSource, masks: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray] | str:
    try:
        maps = residual_maps(result, fixed, moving, **masks, initial=result.initial)
    except InputError as error:
        return str(error)
    before, after = (upright(m, result.fixed_grid)[0][0] for m in maps)
    return before, after
