# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The verdict on a registration result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..errors import InputError
from ..geometry import or_identity
from ..io import ImageSource, read_image
from ..io.masks import mask_on_grid
from ..quality import ErrorMap, Outcome, Thresholds, Verdict, estimate_error, judge_outcome
from .channels import first_image
from .padding import without_padding
from .result import RegistrationResult
from .start.prepare import prepare
from .start.rivals import RivalStarts

__all__ = ["error_of", "judge", "outcome_of"]


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
    first, second = _read("fixed", fixed, fixed_mask, result), _read("moving", moving, moving_mask, result)
    outcome = outcome_of(result)
    if result.registered:
        rivals = () if result.verdict is None else result.verdict.rivals
    else:
        one, other = (prepare(*image, result.config.quantile, image[0].device) for image in (first, second))
        rivals = RivalStarts(one, other, outcome.start).compared(result.affine)
    outcome = replace(outcome, rivals=rivals)
    weights = {"fixed_weight": first[1], "moving_weight": second[1]}
    return judge_outcome(outcome, first[0], second[0], thresholds, **weights)


def error_of(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
) -> ErrorMap:
    """Estimate the error of a result at every fixed voxel, see :func:`monai_locor.quality.estimate_error`.

    Args:
        result: registration result.
        fixed, moving, fixed_mask, moving_mask: as for :func:`judge`.

    Raises:
        InputError: if the images do not belong to the result.
    """
    first, second = _read("fixed", fixed, fixed_mask, result), _read("moving", moving, moving_mask, result)
    images = first[0], result.fixed_grid, second[0], result.moving_grid
    return estimate_error(*images, result.forward_mm, first[1], second[1])


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
    role: str, image: ImageSource, mask: ImageSource | None, result: RegistrationResult
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read an image and the weights of its voxels, each ``(1, *grid)``."""
    grid = result.fixed_grid if role == "fixed" else result.moving_grid
    values, valid = read_image(first_image(image), role, max_pixels=result.config.max_pixels)
    shape = tuple(values.shape[1:])
    if shape != grid.shape:
        raise InputError(f"the {role} image has shape {shape}, that of the result {grid.shape}; give the same.")
    if mask is None:
        if result.config.padding == "auto":
            valid = without_padding(values, valid, grid)
        return values, None if valid is None else valid.float()
    weight = mask_on_grid(mask, role, grid)
    return values, weight if valid is None else weight * valid.to(weight)
