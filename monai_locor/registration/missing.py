# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tissue that only one of the two images shows: a resection, a lesion, metal, contrast agent.

No deformation explains such a place by the relation of the intensities elsewhere. A local fit cannot tell, because it adapts
its coefficients to the place: a cavity filled with fluid is a constant, which every fit explains. Therefore the relation is
estimated from the whole image, as a joint histogram p(t, m). Where tissue is missing, the intensities t of the one image do not
depend on the intensities m of the other, and are distributed like q, half uniform and half as in the whole image. The evidence
of a sample is the mean of ``log q(t) / p(t | m)`` and ``log q(m) / p(m | t)``, averaged over its neighborhood. Its spread
differs from pair to pair, so the threshold is relative to the median and the spread of the image. The histogram is estimated
again without the samples that are likely to be missing, as in the EM algorithm for a mixture of both models.

The same is done with the derivative magnitudes of both images, and the evidence averaged: fluid may have the intensity of some
tissue, but it is flat where the other image has edges (benchmarks/results/missing.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, warp
from ..losses.parzen import GaussianParzen, joint_histogram
from ..precision import optimized
from .engine import RegistrationEngine
from .pyramid import make_level
from .start.prepare import weighted_gaussian

__all__ = ["MissingTissue", "estimate_missing", "missing_probability"]

NUM_SAMPLES = 50_000  # about the number of samples of an image, unless it has fewer voxels
NEIGHBORHOOD_SHARE = 1 / 40  # standard deviation of the neighborhood, relative to the size of the field of view
NUM_BINS = 24
PARZEN_SIGMA_BINS = 0.7
NUM_INTENSITIES = 128  # of the histogram by which intensities are equalized
MAX_SLOPE = 2.0  # about, of the equalization
UNIFORM_SHARE = 0.5  # of the uniform distribution in q
PRIOR_SAMPLES = 100.0  # added to the joint histogram
NUM_ESTIMATES = 4  # of the joint histogram
MAX_EVIDENCE = 3.0  # of one sample
MIN_SPREADS = 3.0  # distance of the evidence from its median, in spreads, at which the probability is one half
MAX_SPREADS = 9.0  # distance at which the evidence is clipped, so that strong evidence does not spread to the neighborhood
MIN_SPREAD = 0.1  # of the evidence
STEEPNESS = 2.0  # of the probability as a function of the distance in spreads
MIN_CORE_SHARE = 0.5  # of likely samples in the neighborhood of the core of a place; about that of a ball of 1.5 sigma
MIN_PROBABILITY = 0.1  # at the border of a place
MIN_FOREGROUND = 0.05  # normalized intensity in either image; other samples are background


@dataclass(frozen=True, eq=False)
class MissingTissue:
    """The places of one image whose tissue the other image does not show.

    Attributes:
        probability: of every voxel, ``(1, *spatial)`` in [0, 1], on the grid of the prepared image.
        found: the probability in the places that are large and likely enough, elsewhere zero.
        ml: volume of these places where the probability is above one half, in 2-D images for a thickness of 1 mm.
    """

    probability: torch.Tensor
    found: torch.Tensor
    ml: float


@optimized
@torch.no_grad()
def estimate_missing(engine: RegistrationEngine) -> tuple[MissingTissue, MissingTissue]:
    """Estimate which places of the fixed and of the moving image the other one does not show, with the current transform.

    With two processes, each evaluates both directions.
    """
    images, maps = engine.unweighted, []
    for k, (reference, other) in enumerate((images, images[::-1])):
        level = make_level(reference, other, _factor(reference.grid), "both", region=engine.config.region)
        warped, weight = engine.sampled(k, level)
        target = level.reference[0]
        sigma = _neighborhood(reference.grid, level.grid)
        probability = missing_probability(_features(warped[0, : len(target)]), _features(target), weight[0], sigma)
        found = probability * _large(probability, sigma)
        ml = float((found > 0.5).sum()) * float(np.prod(level.grid.spacing)) / 1000
        whole, places = (warp(x, level.grid, None, reference.grid).clamp_(0, 1) for x in (probability, found))
        maps.append(MissingTissue(whole, places, ml))
    return maps[0], maps[1]


def missing_probability(pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Estimate the probability that an image does not depend on another.

    Args:
        pred, target: warped and target image, ``(C, F, *spatial)``: F features of each channel in about [0, 1], the first of
            which is the intensity. The evidence of all features is averaged.
        weight: weights of the samples, ``(1, *spatial)``.
        sigma: standard deviation of the neighborhood, samples, one per axis.

    Returns:
        ``(1, *spatial)``, zero where the weight is.
    """
    code = GaussianParzen(NUM_BINS, PARZEN_SIGMA_BINS)
    seen = (torch.maximum(pred, target)[:, 0].amax(0, keepdim=True) > MIN_FOREGROUND) & (weight > 0)
    foreground = weight * seen
    features = (x.flatten(0, 1) for x in (pred, target))
    pairs = [tuple(_equalized(x[None], weight) for x in pair) for pair in zip(*features, strict=True)]
    probability, most = torch.zeros_like(weight), torch.full((), MAX_EVIDENCE, device=weight.device)
    for _ in range(NUM_ESTIMATES):
        valid = (weight * (1 - probability)).flatten(1)
        evidence = torch.stack([_evidence(code, m, t, valid) for m, t in pairs]).mean(0).view_as(weight).minimum(most)
        mean, reached = weighted_gaussian(evidence, foreground, sigma)
        inside = seen & reached
        middle, spread = _middle_and_spread(mean[inside])
        probability = torch.sigmoid(STEEPNESS * ((mean - middle) / spread - MIN_SPREADS)) * inside
        most = middle + MAX_SPREADS * spread
    return probability


def _features(image: torch.Tensor) -> torch.Tensor:
    """Separate intensities and derivative magnitudes, given in turn, ``(2 C, *spatial)``; ``(C, 2, *spatial)``.

    Most magnitudes are small; their square roots use more of the bins.
    """
    intensity, magnitude = image.unflatten(0, (-1, 2)).unbind(1)
    return torch.stack((intensity, magnitude.clamp_min(0).sqrt()), 1)


def _large(probability: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Return a mask of the places that are likely and about as large as the neighborhood, ``(1, *spatial)`` bool."""
    likely = probability > 0.5
    inside = probability > MIN_PROBABILITY
    share, _ = weighted_gaussian(likely.to(probability), torch.ones_like(probability), sigma)
    grown = likely & (share > MIN_CORE_SHARE)
    pool = (torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d, torch.nn.functional.max_pool3d)[len(sigma) - 1]
    for _ in range(sum(probability.shape)):  # at most, until nothing is added
        before, grown = grown, (pool(grown.to(probability)[None], 3, 1, 1)[0] > 0) & inside
        if bool((grown == before).all()):
            break
    return grown


def _evidence(code: GaussianParzen, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the evidence of every sample against the joint histogram of the weighted samples; all ``(1, N)``."""
    joint = joint_histogram(code, code, target, pred, weight)[0].double() + PRIOR_SAMPLES / NUM_BINS**2
    joint = joint / joint.sum()
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    uniform = UNIFORM_SHARE / NUM_BINS
    by_target = (uniform + (1 - UNIFORM_SHARE) * rows) * columns / joint  # q(t) / p(t | m)
    by_pred = (uniform + (1 - UNIFORM_SHARE) * columns) * rows / joint
    table = torch.stack((by_target, by_pred)).log().clamp(-MAX_EVIDENCE, MAX_EVIDENCE).mean(0).to(target)
    return ((table.T @ code.encode(target)[0]) * code.encode(pred)[0]).sum(0, keepdim=True)


def _equalized(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Spread the frequent intensities over more bins, ``(1, N)`` in [0, 1], monotonically and with a limited slope."""
    u = values.flatten(1).clamp(0, 1).contiguous()
    index = (u * NUM_INTENSITIES).long().clamp_max(NUM_INTENSITIES - 1)
    counts = torch.zeros(NUM_INTENSITIES, dtype=torch.float64, device=u.device)
    counts.index_add_(0, index[0], weight.flatten().double())
    for _ in range(5):  # limiting raises the share of the others
        counts = (counts / counts.sum()).clamp_max(MAX_SLOPE / NUM_INTENSITIES)
    steps = (counts / counts.sum()).to(u)
    below = steps.cumsum(0) - steps
    return below[index] + steps[index] * (u * NUM_INTENSITIES - index)


def _middle_and_spread(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the median, and a robust standard deviation of the larger values."""
    if not len(values):
        return values.new_zeros(()), values.new_ones(())
    middle = values.median()
    return middle, (1.4826 * (values[values >= middle] - middle).median()).clamp_min(MIN_SPREAD)


def _size(grid: Grid) -> float:
    """Geometric mean of the sides of a field of view, mm."""
    return float(np.prod(grid.extent) ** (1 / grid.dims))


def _factor(grid: Grid) -> float:
    """Sample distance in units of the smallest voxel side."""
    return max(1.0, _size(grid) / NUM_SAMPLES ** (1 / grid.dims) / float(grid.spacing.min()))


def _neighborhood(image: Grid, samples: Grid) -> list[float]:
    """Standard deviation of the neighborhood along each axis, samples."""
    return (NEIGHBORHOOD_SHARE * _size(image) / samples.spacing).tolist()
