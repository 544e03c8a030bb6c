# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Records of the stages of a registration."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch

from .optimizer import MAX_STEP_INCREASE
from .schedule import Stage

__all__ = ["stage_record"]

logger = logging.getLogger(__name__)


def stage_record(
    stage: Stage, values: torch.Tensor, seconds: float, guides: Sequence[str] = (), *, failed: int = 0, undone: bool = False
) -> dict[str, Any]:
    """Return the history entry of a stage as plain values. Warns about undone steps and a zero loss.

    Args:
        stage: settings of the stage.
        values: similarity, times the share of the samples that a smaller margin has (:class:`.pyramid.Level`), weighted bending
            energy and the terms of the guides, of every step, ``(steps, 2 + guides)``.
        seconds: wall time of the stage.
        guides: names of the terms, see :data:`.guides.GUIDE_NAMES`.
        failed: number of steps that the optimizer undid, see :meth:`.optimizer.DampedAdam.failed_steps`.
        undone: whether the whole stage was undone.
    """
    loss, bending, *terms = ([v if math.isfinite(v) else None for v in row] for row in values.T.tolist())  # JSON has no NaN
    failed = max(failed, sum(None in parts for parts in zip(loss, bending, *terms, strict=True)))
    if failed:
        text = "%d of %d steps were undone because their loss or gradient was not finite or the loss rose by more than %g %%"
        logger.warning(text, failed, len(values), 100 * MAX_STEP_INCREASE)
    if loss[-1] == 0:  # a mean over zero samples
        logger.warning("the loss is zero: no valid overlap between the images or masks, or the images are identical")
    logger.info("stage %s: loss %s, bending energy %s, %.1f s", stage, loss[-1], bending[-1], seconds)
    record = {"factor": stage.factor, "spacing": stage.spacing, "loss": loss, "bending": bending, "seconds": seconds}
    return {**record, "undone_steps": failed, "undone": undone, **dict(zip(guides, terms, strict=True))}
