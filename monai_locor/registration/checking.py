# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The verdict on a transform that was computed elsewhere or earlier."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import Grid, SpatialTransform, warped
from ..io import ImageSource, read_image
from ..io.masks import mask_on_grid
from ..io.transforms.output_folder import MANIFEST, folder_of
from ..metrics import jacobian_statistics
from ..metrics.jacobian import unmirrored
from ..quality import Thresholds
from ..quality.samples import every_nth
from ..run_log import collecting
from .channels import first_image
from .config import RegistrationConfig
from .described import described_inputs
from .judging import compared_images, error_of, verdict_of
from .manifest import INPUT_IMAGES, RunManifest
from .pair import check_grids
from .recorded import recorded_image
from .result import RegistrationResult
from .start.given import Initial, given_transform
from .stored import stored_fields

__all__ = ["check"]

logger = logging.getLogger(__name__)

AFFINE_SAMPLES = 2**14  # points that the affine part of a displacement field is fitted to


def check(
    fixed: ImageSource,
    moving: ImageSource,
    transform: Initial,
    *,
    inverse: Initial = None,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
) -> RegistrationResult:
    """Judge a transform from any tool, without registering.

    The verdict is the one that :func:`monai_locor.register` gives, except for the course of the optimization (convergence,
    skipped steps, overlap of the stages), which is unknown for a transform of another tool. Gains are then measured from the
    images as their headers place them. For the output folder of a registration, or its ``run.json``, they are known if the
    images are those of the run; its masks and channels are used unless others are given.

    Args:
        fixed, moving, fixed_mask, moving_mask: as for :func:`monai_locor.register`; of several images, the first is compared.
        transform: from fixed to moving points, as ``initial`` of :func:`monai_locor.register`: a matrix, a displacement field,
            a transform of this or another library, the result of a registration, a file of any format that
            :func:`monai_locor.io.read_transform` reads, or a list of these in the order of ``antsApplyTransforms -t``.
        inverse: from moving to fixed points, likewise; by default that of the transform, computed if it is not stored with it.
        thresholds: thresholds of the verdict, or a mapping of those that differ from the defaults of
            :class:`monai_locor.quality.Thresholds`.

    Returns:
        the transform in both directions, the warped images, the :attr:`RegistrationResult.verdict` and the
        :attr:`RegistrationResult.error_mm`, for instance for :func:`monai_locor.report.write_report`. ``registered`` is False
        unless it is the result of a registration.

    Raises:
        InputError: if an image or the transform cannot be read, or they do not belong together.

    Example::

        result = check("fixed.nii.gz", "moving.nii.gz", ["out1Warp.nii.gz", "out0GenericAffine.mat"])
        print(result.verdict)
    """
    began = time.perf_counter()
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    with collecting() as log:
        run = _run_of(transform) if inverse is None else None
        own = None if run is None else _own_images(run, fixed, moving)
        if run is not None and own is not None:
            fixed, moving = own
            masks = {name: _run_mask(run, name) if mask is None else mask for name, mask in masks.items()}
            result = RegistrationResult(**stored_fields(run.path, fixed, moving, need_images=False, known=True))
        elif isinstance(transform, RegistrationResult) and inverse is None:
            result = transform
        else:
            result = _given_result(fixed, moving, transform, inverse, masks)
        result = dataclasses.replace(
            result,
            doubts=tuple(dict.fromkeys((*result.doubts, *log.doubts))),
            warnings=tuple(dict.fromkeys((*result.warnings, *log.warnings))),
        )
        images = compared_images(result, fixed, moving, **masks)
        verdict = verdict_of(result, images, thresholds)
        error = result.error_mm or error_of(result, images)
    seconds = result.seconds if result.registered else time.perf_counter() - began
    return dataclasses.replace(result, verdict=verdict, error_mm=error, seconds=seconds)


def _run_of(transform: Any) -> RunManifest | None:
    """The run of an output folder of ``register``, or of its ``run.json``; None for any other transform."""
    if not isinstance(transform, (str, PathLike)) or str(transform).startswith("["):
        return None
    folder = folder_of(Path(transform).expanduser())
    if folder is None or not (folder / MANIFEST).is_file():
        return None
    return RunManifest.load(folder)


def _own_images(run: RunManifest, fixed: ImageSource, moving: ImageSource) -> tuple[ImageSource, ImageSource] | None:
    """The first image of each side, with its recorded channel, if they are those of a run; otherwise None, with a warning."""
    found = {}
    for role, image in (("fixed", fixed), ("moving", moving)):
        found[role] = recorded_image(run, role, first_image(image))
        if found[role] is None:
            logger.warning("%s: registered another %s image; only its transform is used", run.path, role)
            return None
    return found["fixed"], found["moving"]


def _run_mask(run: RunManifest, name: str) -> Any:
    """A mask of a run; None if it had none, with a warning if it is not available any more."""
    if name not in run.content["arguments"]:
        return None
    try:
        return run.input(name)
    except InputError as error:
        logger.warning("the %s of the run is not used: %s", name.replace("_", " "), error)
        return None


def _given_result(
    fixed: ImageSource, moving: ImageSource, transform: Initial, inverse: Initial, masks: Mapping[str, ImageSource | None]
) -> RegistrationResult:
    """A result with a transform from elsewhere, without verdict."""
    (first, first_valid), (second, _) = (
        read_image(first_image(image), role) for role, image in (("fixed", fixed), ("moving", moving))
    )
    grids = Grid.of(first), Grid.of(second)
    check_grids({"fixed": first, "moving": second})
    forward, backward = _transforms(transform, inverse, *grids)
    forward_mm, inverse_mm = forward.displacement(grids[0]), backward.displacement(grids[1])
    affine = _affine_part(forward, grids[0])
    weight = None if masks["fixed_mask"] is None else mask_on_grid(masks["fixed_mask"], "fixed", grids[0])
    weight = first_valid if weight is None else weight
    files = {role: str(image) for role, image in (("fixed", fixed), ("moving", moving)) if isinstance(image, (str, PathLike))}
    inputs = {"fixed": fixed, "moving": moving, **masks, "transform": transform, "inverse": inverse}
    return RegistrationResult(
        affine=affine,
        forward_mm=forward_mm,
        inverse_mm=inverse_mm,
        warped_moving=warped(second, grids[1], forward_mm, grids[0]),
        warped_fixed=warped(first, grids[0], inverse_mm, grids[1]),
        fixed_grid=grids[0],
        moving_grid=grids[1],
        history=[],
        jacobian=jacobian_statistics(unmirrored(forward_mm, grids[0], affine), grids[0], weight),
        config=RegistrationConfig().with_transform("affine" if forward.is_affine else "deformable"),
        seed=0,
        seconds=0.0,
        inputs=files,
        fixed_image=first,
        moving_image=second,
        arguments=described_inputs(
            {name: value for name, value in inputs.items() if name in INPUT_IMAGES or value is not None}
        ),
        registered=False,
    )


def _transforms(transform: Initial, inverse: Initial, fixed: Grid, moving: Grid) -> tuple[SpatialTransform, SpatialTransform]:
    """The transform and its inverse, given or computed on the moving grid.

    Raises:
        InputError: if they cannot be read, or the inverse cannot be computed.
    """
    forward = given_transform(transform, "transform", fixed, moving)
    if inverse is not None:
        return forward, given_transform(inverse, "inverse transform", moving, fixed)
    try:
        return forward, forward.inverse(moving)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"transform: cannot be inverted ({error}); give its inverse.") from error


def _affine_part(transform: SpatialTransform, grid: Grid) -> np.ndarray:
    """The affine steps at the end of a transform, or the affine map that fits it best, ``(D + 1, D + 1)``, RAS mm."""
    if transform.is_affine:
        return transform.matrix
    last = SpatialTransform(transform.split(every_nth(grid, AFFINE_SAMPLES)[1]).steps[-1:])
    return last.matrix
