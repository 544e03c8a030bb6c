# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The verdict on a registration result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import InputError
from ..geometry import Grid, or_identity
from ..io import ImageSource, read_image
from ..quality import ErrorMap, Outcome, Thresholds, Verdict, estimate_error, judge_outcome
from .channels import first_image
from .config import RegistrationConfig
from .padding import without_padding
from .result import RegistrationResult
from .start.prepare import prepare
from .start.rivals import RivalStarts
from .weights import voxel_weight

__all__ = ["ComparedImages", "compared_images", "error_of", "judge", "outcome_of", "verdict_of"]


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """The images that a result is judged by.

    Attributes:
        fixed, moving: intensities, ``(1, *spatial)`` on their own grids.
        fixed_weight, moving_weight: weights of the voxels, likewise; None if all count.
    """

    fixed: torch.Tensor
    fixed_weight: torch.Tensor | None
    moving: torch.Tensor
    moving_weight: torch.Tensor | None


def judge(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
) -> Verdict:
    """Assess a registration by measures that were not optimized.

    This takes about half a second; the images are compared at about 130 000 samples. A transform of another tool is also
    compared with turned and mirrored starts, in about two seconds; for a registration, that comparison is taken from its own
    verdict.

    Args:
        result: registration result; gains are measured relative to its ``initial``.
        fixed, moving, fixed_mask, moving_mask: as given to :func:`monai_locor.register`; if there are several channels, the
            first is used.
        thresholds: thresholds, or a mapping of those that differ from the defaults of :class:`Thresholds`.

    Raises:
        InputError: if the images do not belong to the result.
    """
    return verdict_of(result, compared_images(result, fixed, moving, fixed_mask, moving_mask), thresholds)


def compared_images(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
) -> ComparedImages:
    """Read the images that a result is judged by; arguments and errors as for :func:`judge`."""
    return ComparedImages(
        *_read("fixed", fixed, fixed_mask, result.fixed_grid, result.config),
        *_read("moving", moving, moving_mask, result.moving_grid, result.config),
    )


def verdict_of(
    result: RegistrationResult, images: ComparedImages, thresholds: Thresholds | Mapping[str, Any] | None = None
) -> Verdict:
    """:func:`judge` with images that were read before."""
    outcome = outcome_of(result)
    if result.registered:
        rivals = () if result.verdict is None else result.verdict.rivals
    else:
        pairs = (images.fixed, images.fixed_weight), (images.moving, images.moving_weight)
        fixed, moving = (prepare(image, weight, result.config.quantile, image.device) for image, weight in pairs)
        rivals = RivalStarts(fixed, moving, outcome.start).compared(result.affine)
    weights = {"fixed_weight": images.fixed_weight, "moving_weight": images.moving_weight}
    return judge_outcome(replace(outcome, rivals=rivals), images.fixed, images.moving, thresholds, **weights)


def error_of(result: RegistrationResult, images: ComparedImages) -> ErrorMap:
    """Estimate the error of a result at every fixed voxel, see :func:`monai_locor.quality.estimate_error`."""
    pair = images.fixed, result.fixed_grid, images.moving, result.moving_grid
    return estimate_error(*pair, result.forward_mm, images.fixed_weight, images.moving_weight)


def outcome_of(result: RegistrationResult) -> Outcome:
    """Return the quantities of a result that its verdict is based on."""
    start = or_identity(result.initial, result.fixed_grid.dims)
    return Outcome(
        fixed_grid=result.fixed_grid,
        moving_grid=result.moving_grid,
        forward_mm=result.forward_mm,
        inverse_mm=result.inverse_mm,
        affine=result.affine,
        initial=start if result.registered else None,
        jacobian=result.jacobian,
        history=result.history if result.registered else None,
        similarity=result.config.similarity if result.registered else "",
        transform=result.config.transform,
        doubts=result.doubts,
        interrupted=result.interrupted,
        two_subjects=result.config.intersubject == "always",
    )


def _read(
    role: str, image: ImageSource, mask: ImageSource | None, grid: Grid, config: RegistrationConfig
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read an image and the weights of its voxels, each ``(1, *grid)``."""
    values, valid = read_image(first_image(image), role, max_pixels=config.max_pixels)
    shape = tuple(values.shape[1:])
    if shape != grid.shape:
        raise InputError(f"the {role} image has shape {shape}, that of the result {grid.shape}; give the same.")
    if mask is None and config.padding == "auto":
        valid = without_padding(values, valid, grid)
    return values, voxel_weight(role, mask, valid, grid)
