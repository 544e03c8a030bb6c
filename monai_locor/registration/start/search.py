# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Multi-start search over all translations and many rotations, and the choice between two affines.

For one rotation, the joint histograms of two images at *all* translations are correlations of the indicator functions of
their gray levels, so a few small FFTs give the mutual information for all translations, regardless of the overlap in world
coordinates. The best candidates and the affine to check are refined in the same way and compared at a finer scale.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry import Grid, apply_affine, sample_normalized, to_normalized
from ...networks.affine import MatrixExponential, matrix_exponential
from ...tensors import on_device
from .prepare import SOFT_LIMITS, PreparedImage

__all__ = ["StartSearch", "better_start", "second_is_better"]

logger = logging.getLogger(__name__)

SEARCH_SAMPLES, COMPARE_SAMPLES = 2**11, 2**16  # number in the smaller field of view
MAX_VOLUME_RATIO = 2**4  # of the fields of view; samples are coarser above it
GRAY_LEVELS = 6
START_ANGLES = {2: (-36, -30, -24, -18, -12, -6, 0, 6, 12, 18, 24, 30, 36), 3: (-20, 0, 20)}  # degrees, about every axis
MAX_CANDIDATES = 5  # refined
REFINEMENT_ITERATIONS = 30
REFINEMENT_RATE = 0.03  # learning rate, half fields of view
PLAUSIBLE_STRETCH = (0.6, 1.6)  # along any direction
MIN_START_DISTANCE = 0.6  # samples; closer starts converge to the same affine
MIN_RELATIVE_SCORE = 0.95  # of another start, relative to the affine
CLEARLY_WORSE_SCORE = 0.8  # relative to the better affine; below it, the loss is not used
CLEARLY_BETTER_SCORE = 1.1  # of a start relative to the affine; above it, the loss is not used; up to 1.05 by chance
CHANCE_SCORE = 5e-4  # typical of unrelated images


def better_start(
    fixed: PreparedImage, moving: PreparedImage, affine: np.ndarray, initial: np.ndarray, scaling: bool = True
) -> np.ndarray | None:
    """Compare an affine with the result of a global search.

    The measure is coarse and differs from the loss of the registration, so it cannot decide between nearly equal alignments.
    Therefore a start that is nearly as good is also returned, and :func:`second_is_better` decides after its registration.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        affine: affine to be checked, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        initial: its initial affine. The search covers rotations up to about 35 degrees relative to its linear part and all
            translations.
        scaling: whether the scale of a start may differ from that of ``initial``.

    Returns:
        the other initial affine, ``(D + 1, D + 1)`` RAS mm; None if none of similar quality was found.
    """
    search = StartSearch(fixed, moving, SEARCH_SAMPLES)
    matrices = search.refined([affine, *search.screened(initial)], scaling)
    elsewhere = [m for m in matrices if search.distance(affine, m) > MIN_START_DISTANCE * search.step]
    scores = StartSearch(fixed, moving, COMPARE_SAMPLES).scores([affine, *elsewhere])
    stretch = _stretch(affine, initial)
    enough = MIN_RELATIVE_SCORE * scores[0] + CHANCE_SCORE if _plausible(stretch) else CHANCE_SCORE
    best = int(scores[1:].argmax()) if elsewhere else None
    found = None if best is None or scores[best + 1] < enough else elsewhere[best]
    logger.info(
        "affine scores %.4f, stretch %.2f to %.2f; other starts %s: %s",
        *(scores[0], stretch[-1], stretch[0], scores[1:].round(4), "kept" if found is None else "restarting"),
    )
    return found


def second_is_better(
    fixed: PreparedImage,
    moving: PreparedImage,
    affines: tuple[np.ndarray, np.ndarray],
    losses: tuple[float, float],
    initial: np.ndarray,
    start: np.ndarray,
) -> bool:
    """Choose between two affines by the measure of the search or, if neither is clearly better, by the loss.

    The loss alone is not sufficient, because it is a mean over the overlap, and air has small residuals.

    Args:
        affines: both affines, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        losses: final losses of both; may be NaN.
        initial: initial affine of the first.
        start: initial affine of the second.
    """
    plausible = [_plausible(_stretch(affine, initial)) for affine in affines]
    if plausible[0] != plausible[1]:
        return plausible[1]
    first, second, started = StartSearch(fixed, moving, COMPARE_SAMPLES).scores([*affines, start])
    logger.info("two affines: scores %.4f and %.4f, losses %.4f and %.4f", first, second, *losses)
    if min(first, second) < CLEARLY_WORSE_SCORE * max(first, second):
        return bool(second > first)
    if started > CLEARLY_BETTER_SCORE * first:
        return True
    return losses[1] < losses[0] or (math.isnan(losses[0]) and not math.isnan(losses[1]))


def _stretch(affine: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Return the principal stretches of a matrix relative to another, largest first, ``(D,)``."""
    return np.linalg.svd(affine[:-1, :-1] @ np.linalg.inv(initial[:-1, :-1]), compute_uv=False)


def _plausible(stretch: np.ndarray) -> bool:
    return bool(PLAUSIBLE_STRETCH[0] <= stretch[-1] and stretch[0] <= PLAUSIBLE_STRETCH[1])


@dataclass(frozen=True)
class _Coarse:
    """A low-resolution version of an image.

    Attributes:
        channels: ``(2, *grid.shape)``: gray level, 0 to ``GRAY_LEVELS - 1``, times weight; weight.
        grid: of the channels.
    """

    channels: torch.Tensor
    grid: Grid

    @classmethod
    def of(cls, image: PreparedImage, size_mm: float) -> _Coarse:
        """Average the first channel over blocks of about ``size_mm`` or one voxel, whichever is larger."""
        grid, first = image.grid, image.image[:1]
        size = [min(n, max(1, round(size_mm / s))) for n, s in zip(grid.shape, grid.spacing, strict=True)]
        pool = F.avg_pool3d if grid.dims == 3 else F.avg_pool2d
        if image.weight is None:
            mean = pool(first, size)
            mass = torch.ones_like(mean)
        else:
            mass = pool(image.weight, size)
            mean = pool(first * image.weight, size) / mass.clamp_min(1e-6)
        level = _levels(mean, mass)
        affine = grid.affine @ np.diag([*size, 1.0])
        affine[:-1, -1] = apply_affine(grid.affine, (np.array(size) - 1) / 2)
        return cls(torch.cat((level * mass, mass)), Grid(tuple(mass.shape[1:]), affine))

    def at(self, to_world: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Return the fraction of every gray level times the weight, ``(B, N, GRAY_LEVELS)``.

        Args:
            to_world: matrices ``(B, D + 1, D + 1)`` float64, from points to world mm.
            points: sample points, ``(N, D)``.
        """
        dims = self.grid.dims
        scale, offset = to_normalized(self.grid.shape)
        normalizing = np.diag([*scale, 1.0])
        normalizing[:-1, -1] = offset
        matrix = (on_device(normalizing @ np.linalg.inv(self.grid.affine), to_world) @ to_world).float()
        where = points @ matrix[:, :dims, :dims].mT + matrix[:, None, :dims, dims]
        sampled = sample_normalized(self.channels.expand(len(matrix), *self.channels.shape), where.flip(-1))
        level, weight = sampled[:, 0] / sampled[:, 1].clamp_min(1e-3), sampled[:, 1]
        levels = torch.arange(GRAY_LEVELS, device=level.device)
        return (1 - (level[..., None] - levels).abs()).clamp_min(0) * weight[..., None]


def _levels(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Map intensities to gray levels 0 ... ``GRAY_LEVELS - 1``, a compromise between equal steps and equal counts.

    The density of levels is proportional to the cube root of that of the intensities, which minimizes the quantization error
    (Panter and Dite 1951, doi 10.1109/JRPROC.1951.230419): air is assigned little more than one level, the soft tissue of a
    CT, a fortieth of the range, several.
    """
    low, high = SOFT_LIMITS
    counts = torch.histc(values[weight > 0.5], 256, low, high)
    curve = F.pad(counts.pow(1 / 3).cumsum(0), (1, 0))
    curve = curve / curve[-1].clamp_min(1e-12) * (GRAY_LEVELS - 1)
    position = ((values - low) / (high - low) * 256).clamp(0, 256 - 1e-3)
    index = position.long()
    return torch.lerp(curve[index], curve[index + 1], position - index)


class StartSearch:
    """Coarse-scale evaluation of the alignment of two images under any matrix.

    The measure is normalized mutual information minus one (0: independent, 1: each determines the other), times the overlap
    as a fraction of the smaller image, because a small overlap can agree by chance.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        samples: approximate number of samples in the smaller field of view.
    """

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, samples: int) -> None:
        self.dims = dims = fixed.grid.dims
        self.device = fixed.image.device
        volumes = [float(np.prod(i.grid.extent)) for i in (fixed, moving)]
        self.step = (max(min(volumes), max(volumes) / MAX_VOLUME_RATIO) / samples) ** (1 / dims)
        self.fixed, self.moving = (_Coarse.of(i, self.step / 2) for i in (fixed, moving))
        self.lattice = fixed.grid.resampled(np.full(dims, self.step))
        self.points = self._tensor(_centered_index(self.lattice.shape)).float()
        self.placed = _placed(self.lattice.affine[:-1, :-1], self.lattice.center)  # from points to fixed world
        self.levels = self.fixed.at(self._tensor(self.placed)[None], self.points)[0]
        mass = [float(c.channels[1].sum() * np.prod(c.grid.spacing)) for c in (self.fixed, self.moving)]
        self.mass = max(min(mass) / self.step**dims, 1e-6)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float64)).to(self.device, non_blocking=True)

    def _measure(self, joint: torch.Tensor) -> torch.Tensor:
        """Compute the measure from joint histograms ``(B, GRAY_LEVELS, GRAY_LEVELS)``."""
        count = joint.sum((1, 2)).clamp_min(1e-6)
        both, first, second = (
            -torch.special.xlogy(p, p.clamp_min(1e-9)).flatten(1).sum(1)
            for p in (h / count.view(-1, *[1] * (h.ndim - 1)) for h in (joint, joint.sum(1), joint.sum(2)))
        )
        return ((first + second) / both.clamp_min(1e-3) - 1) * count / self.mass

    def _scores(self, to_world: torch.Tensor) -> torch.Tensor:
        return self._measure(torch.einsum("nk,bnl->bkl", self.levels, self.moving.at(to_world, self.points)))

    @torch.no_grad()
    def scores(self, matrices: list[np.ndarray]) -> np.ndarray:
        """Compute the measure, ``(len(matrices),)``, of matrices from fixed to moving world points."""
        return self._scores(self._tensor(np.stack(matrices) @ self.placed)).cpu().numpy()

    def screened(self, initial: np.ndarray) -> list[np.ndarray]:
        """Return the best matrices over rotations of an initial matrix and all translations, best first."""
        found = [self._translated(initial[:-1, :-1] @ rotation) for rotation in _rotations(self.dims)]
        return [matrix for _, matrix in sorted(found, key=lambda pair: -pair[0])[:MAX_CANDIDATES]]

    @torch.no_grad()
    def _translated(self, linear: np.ndarray) -> tuple[float, np.ndarray]:
        """Return measure and matrix of the best translation after a linear map ``(D, D)`` of world mm."""
        grid, shape = self.moving.grid, self.lattice.shape
        axes = linear @ self.placed[:-1, :-1]  # steps of the lattice in the moving world
        reach = np.abs((grid.corners() - grid.center) @ np.linalg.inv(axes).T).max(0)
        own = tuple(int(n) for n in np.ceil(2 * reach - 1e-6) + 1)  # a lattice that covers the whole moving image
        levels = self.moving.at(self._tensor(_placed(axes, grid.center))[None], self._tensor(_centered_index(own)).float())[0]
        size = [_smooth_length(n + m - 1) for n, m in zip(shape, own, strict=True)]
        along = tuple(range(-self.dims, 0))
        f, m = (
            torch.fft.rfftn(v.T.reshape(GRAY_LEVELS, *s), s=size, dim=along) for v, s in ((self.levels, shape), (levels, own))
        )
        joint = torch.fft.irfftn(f[:, None] * m.conj(), s=size, dim=along).clamp_min(0)
        score = self._measure(joint.flatten(2).movedim(-1, 0))
        best = int(score.argmax())
        lag = np.array(np.unravel_index(best, size))
        lag = np.where(lag < shape, lag, lag - size)  # sample i of the fixed lattice coincides with i - lag of the other
        start = _placed(axes, grid.center + axes @ ((np.array(shape) - 1) / 2 - (np.array(own) - 1) / 2 - lag))
        return float(score[best]), start @ np.linalg.inv(self.placed)

    def refined(self, starts: list[np.ndarray], scaling: bool = True) -> list[np.ndarray]:
        """Refine matrices by gradient ascent in rotation, translation and, with ``scaling``, scale."""
        dims = self.dims
        i, j = np.triu_indices(dims, 1)
        scale = float(self.lattice.extent.max()) / 2
        center = self._tensor(_placed(np.eye(dims) * scale, self.lattice.center))
        left, right = self._tensor(np.stack(starts)) @ center, torch.linalg.inv(center)
        parameters = torch.zeros(len(starts), len(i) + dims + 1, dtype=torch.float64, device=self.device, requires_grad=True)
        optimizer = torch.optim.Adam([parameters], lr=REFINEMENT_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, REFINEMENT_ITERATIONS, REFINEMENT_RATE / 10)
        best = torch.full((len(starts),), -torch.inf, dtype=torch.float32, device=self.device)
        kept, exponential = left @ right, MatrixExponential(dims + 1).to(self.device)
        for _ in range(REFINEMENT_ITERATIONS):
            turn, shift, size = parameters.split((len(i), dims, 1), dim=1)
            log = F.pad(torch.diag_embed((size if scaling else 0 * size).expand(-1, dims)), (0, 1, 0, 1))
            log[:, i, j], log[:, j, i], log[:, :dims, dims] = turn, -turn, shift
            matrices = left @ exponential(log) @ right
            score = self._scores(matrices @ self._tensor(self.placed))
            better = score.detach() > best
            best = torch.where(better, score.detach(), best)
            kept = torch.where(better[:, None, None], matrices.detach(), kept)
            optimizer.zero_grad()
            (-score.sum()).backward()
            optimizer.step()
            schedule.step()
        return list(kept.cpu().numpy())

    def distance(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return the mean distance, mm, between points of the fixed field of view mapped by two matrices."""
        moved = [apply_affine(m @ self.placed, _centered_index(self.lattice.shape)) for m in (first, second)]
        return float(np.linalg.norm(moved[0] - moved[1], axis=1).mean())


def _placed(linear: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the matrix ``(D + 1, D + 1)`` with this linear part and image of the origin."""
    return np.vstack((np.column_stack((linear, center)), np.eye(1, len(center) + 1, len(center))))


def _centered_index(shape: tuple[int, ...]) -> np.ndarray:
    """Return the indices of a lattice relative to its center, ``(N, D)``."""
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def _rotations(dims: int) -> list[np.ndarray]:
    """Return the rotation matrices ``(D, D)`` on a grid of rotation vectors."""
    i, j = np.triu_indices(dims, 1)
    out = []
    for angles in product(START_ANGLES[dims], repeat=len(i)):
        log = torch.zeros(dims, dims, dtype=torch.float64, device="cpu")
        log[i, j] = torch.deg2rad(torch.tensor(angles, dtype=torch.float64, device="cpu"))
        out.append(matrix_exponential(log - log.T).numpy())
    return out


def _smooth_length(n: int) -> int:
    """Return the smallest length >= ``n`` with no prime factors other than 2, 3 and 5, for fast FFTs.

    >>> _smooth_length(13)
    15
    """
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
