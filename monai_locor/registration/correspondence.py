# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whether two images show the same tissue at corresponding places, or two people, told from how well the local fits fit.

When the coarse stages are through, the middle window leaves 3 to 11 % of the variance unexplained if both images are of one
person; of two people, whose tissues do not correspond one to one whatever the deformation, 13 to 31 %, with few exceptions
(benchmarks/results/intersubject.md). The logarithm of the residual is for the first kind.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ..losses import LocalLearnedBasisCRLoss
from .channels import compared_parts

if TYPE_CHECKING:
    from .engine import RegistrationEngine
    from .schedule import Stage

__all__ = ["COARSE", "fit_like_two_people", "unexplained"]

logger = logging.getLogger(__name__)

COARSE = 4  # distance of the samples, smallest voxels, from which a stage is a coarse one
LARGEST = 0.125  # median share of the variance that is left over where tissues correspond
CONTRAST = 1e-3  # variance of a window, squared normalized intensities, below which its fit says nothing


def fit_like_two_people(engine: RegistrationEngine, first: Sequence[Stage], coarse: Sequence[Stage], bar: tqdm) -> bool:
    """Whether an engine that is through with its coarse stages had better begin again with the settings for two people.

    It says so; always False where that is not wanted, or the measure is another. Inside a mask the fits are worse than
    around it, whoever is in the images: with masks, the images must also fit as badly without them.

    Args:
        engine: that has gone through its affine and coarse stages.
        first, coarse: these stages.
        bar: of the progress.
    """
    config = engine.config
    if config.intersubject == "never" or config.similarity != "locor" or config.form != "log":
        return False
    share = unexplained(engine)
    if share > LARGEST and engine.masked:
        share = min(share, _told(engine, first, coarse, bar))
    engine.unexplained = share if math.isfinite(share) else None  # JSON knows no NaN
    if not share > LARGEST:
        return False
    logger.warning(
        "half of the windows leave more than %.0f %% of the variance unexplained, as between two people: beginning again with "
        "the settings of the preset intersubject (the setting intersubject=never prevents that)",
        100 * share,
    )
    return True


def _told(engine: RegistrationEngine, *stages: Any) -> float:
    """What is unexplained without masks; of two processes the first finds out and tells the other."""
    found = _without_masks(engine, *stages) if 0 in engine.directions else 0.0
    if engine.exchange is None:
        return found
    told = torch.tensor([found], dtype=torch.float64, device="cpu")
    engine.exchange([told])
    return float(told)


def _without_masks(engine: RegistrationEngine, first: Sequence[Stage], coarse: Sequence[Stage], bar: tqdm) -> float:
    """What the same stages leave unexplained of the whole images."""
    if engine.unmasked is None:
        return math.inf
    logger.info("the images fit badly inside the masks: looking at the whole images")
    other = type(engine)(
        *engine.unmasked(),
        engine.config,
        engine.initial,
        engine.seed,
        initial_velocity=None if engine.predict is not None else engine.initial_velocity,
        initial_displacement=engine.initial_displacement,
        search=engine.search,
        predict=engine.predict,
        initial_basis=engine.initial_basis,
        channel_weights=engine.channel_weights,
    )
    bar.total += sum(stage.iterations for stage in [*first, *coarse])
    other.go_through_coarse(first, coarse, bar)
    return unexplained(other)


@torch.no_grad()
def unexplained(engine: RegistrationEngine) -> float:
    """Median over the windows of the share of the variance that the fits leave over, mean of both directions.

    Of several channels it is the weighted mean.
    """
    total = torch.zeros(1, dtype=torch.float64, device="cpu")
    for k in engine.directions:
        warped, still, counts = engine.compared(k)
        for part, loss, pred, target in compared_parts(engine.losses[k], warped, still):
            assert isinstance(loss, LocalLearnedBasisCRLoss)
            loss.eval()
            share, variance = loss.unexplained_share(pred, target, counts)
            loss.train()
            share = share[:, :1][variance[:, :1] > CONTRAST]
            total += part * share.nanmedian().cpu() / 2 if share.numel() else 0
    if engine.exchange is not None:
        engine.exchange([total])
    return float(total)
