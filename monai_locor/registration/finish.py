# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The result of a finished optimization: fields, warped images, statistics and verdict, computed on its device."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..free_memory import return_freed_memory
from ..geometry import Grid, SpatialTransform, warp, warped
from ..metrics import jacobian_statistics
from ..metrics.jacobian import unmirrored
from ..quality import estimate_error, judge_outcome
from ..roles import ROLES
from ..run_log import RunLog
from ..tensors import plain
from .fields import stationary_velocity
from .judging import outcome_of
from .missing import estimate_missing
from .pair import Pair
from .result import RegistrationResult
from .run import Run
from .start.prepare import PreparedImage

__all__ = ["finished_result"]


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two images as stored, on the device of the registration.

    Attributes:
        image: intensities, ``(1, *grid)``.
        weight: weights of the voxels, ``(1, *grid)``, or None.
        grid: grid of the stored image.
    """

    image: torch.Tensor
    weight: torch.Tensor | None
    grid: Grid

    @classmethod
    def of(cls, image: MetaTensor, prepared: PreparedImage) -> _Side:
        """Copy the image to the device and reorder its weights."""
        weight = None if prepared.weight is None else prepared.to_stored(prepared.weight)
        return cls(plain(image).to(prepared.device, non_blocking=True), weight, prepared.stored)


@torch.no_grad()
def finished_result(run: Run, pair: Pair, times: Sequence[float], log: RunLog, **known: Any) -> RegistrationResult:
    """Compute the result of an optimization. Only finished fields and images are copied to the host.

    Args:
        run: the finished or interrupted run.
        pair: its images.
        times: when the run started, when the images were read, when the optimization ended, seconds.
        log: warnings of the run.
        known: further fields of the result.
    """
    engine, affine = run.engine, run.engine.matrix()
    return_freed_memory(engine.device)
    fixed, moving = _Side.of(pair.fixed_image, pair.fixed), _Side.of(pair.moving_image, pair.moving)
    prepared = engine.forward_mm()
    inverse_mm = pair.moving.to_stored(engine.inverse_mm(prepared))
    forward_mm = pair.fixed.to_stored(prepared)
    del prepared
    result = RegistrationResult(
        affine=affine,
        forward_mm=forward_mm,
        inverse_mm=inverse_mm,
        warped_moving=warped(moving.image, moving.grid, forward_mm, fixed.grid),
        warped_fixed=warped(fixed.image, fixed.grid, inverse_mm, moving.grid),
        fixed_grid=fixed.grid,
        moving_grid=moving.grid,
        history=engine.history,
        jacobian=jacobian_statistics(unmirrored(forward_mm, fixed.grid, affine), fixed.grid, fixed.weight),
        config=run.config,
        intersubject=engine.config is not run.config,
        unexplained=run.unexplained_share,
        seed=run.start.losses.seed,
        seconds=times[-1] - times[0],
        device=str(engine.device),
        basis=engine.learned_bases(),
        velocity=stationary_velocity(engine.velocity) if run.config.transform == "deformable" else None,
        initial=pair.affine,
        fixed_image=pair.fixed_image,
        moving_image=pair.moving_image,
        **_missing(run, pair),
        landmarks_mm=_landmark_distances(run, pair, forward_mm, fixed.grid),
        label_dice=_label_dice(run, pair, forward_mm, fixed.grid),
        surface_mm=_surface_distances(run, pair, (forward_mm, fixed.grid), (inverse_mm, moving.grid)),
        warnings=tuple(log.warnings),
        doubts=tuple(log.doubts),
        **known,
    )
    computed = time.perf_counter()
    rivals = run.rivals.compared(affine) if run.config.multistart != "never" else ()
    outcome = dataclasses.replace(outcome_of(result), rivals=rivals)
    verdict = judge_outcome(outcome, fixed.image, moving.image, fixed_weight=fixed.weight, moving_weight=moving.weight)
    judged = time.perf_counter()
    images = fixed.image, fixed.grid, moving.image, moving.grid
    error = estimate_error(*images, forward_mm, fixed.weight, moving.weight).to("cpu")
    result = dataclasses.replace(_on_host(result), verdict=verdict, error_mm=error)
    parts = np.diff([*times, computed, judged, time.perf_counter()]).round(3).tolist()
    timings = dict(zip(("reading", "optimization", "fields", "verdict", "error"), parts, strict=True))
    return dataclasses.replace(result, timings=timings)


def _missing(run: Run, pair: Pair) -> dict[str, Any]:
    """Return the fields of a result on missing tissue, on the host; none if it was not looked for."""
    if run.config.missing == "never":
        return {}
    found = dict(zip(ROLES, estimate_missing(run.engine), strict=True))
    parts, wholes = (run.engine.fixed, run.engine.moving), run.engine.whole
    maps = {}
    for (role, missing), part, whole, image in zip(found.items(), parts, wholes, (pair.fixed, pair.moving), strict=True):
        on_whole = missing.probability if part.grid is whole.grid else warp(missing.probability, part.grid, None, whole.grid)
        maps[f"missing_{role}"] = image.to_stored(on_whole).cpu()
    return {**maps, "missing_ml": {role: round(missing.ml, 2) for role, missing in found.items()}}


def _landmark_distances(run: Run, pair: Pair, forward_mm: torch.Tensor, grid: Grid) -> dict[str, Any] | None:
    landmarks = run.start.landmarks
    return None if landmarks is None else landmarks.distances(pair.affine, forward_mm.cpu(), grid)


def _label_dice(run: Run, pair: Pair, forward_mm: torch.Tensor, grid: Grid) -> dict[str, Any] | None:
    labels = run.start.labels
    return None if labels is None else labels.agreement(pair.affine, forward_mm.cpu(), grid)


def _surface_distances(
    run: Run, pair: Pair, forward: tuple[torch.Tensor, Grid], inverse: tuple[torch.Tensor, Grid]
) -> dict[str, Any] | None:
    surfaces = run.start.surfaces
    if surfaces is None:
        return None
    return surfaces.distances(
        pair.affine, SpatialTransform.of_field(forward[0].cpu(), forward[1], (inverse[0].cpu(), inverse[1]))
    )


def _on_host(result: RegistrationResult) -> RegistrationResult:
    """Copy the fields and the warped images to the host."""
    names = ("forward_mm", "inverse_mm", "warped_moving", "warped_fixed")
    return dataclasses.replace(result, **{name: getattr(result, name).cpu() for name in names})
