# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Does a registration need another start? A search over all translations and many rotations at once, and a verdict.

For one rotation, the joint histograms of two images at *all* translations are correlations of their indicator functions of
gray levels: a few small FFTs give the mutual information everywhere, whatever the fields of view share in world
coordinates. The best of them and the affine in question are refined alike and compared at a finer scale.
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
from ...networks.affine import matrix_exponential
from ...tensors import on_device
from .prepare import SOFT_LIMITS, PreparedImage

__all__ = ["StartSearch", "better_start", "second_is_better"]

logger = logging.getLogger(__name__)

SEARCHED, COMPARED = 2**11, 2**16  # samples of the smaller field of view
LARGER = 2**4  # times as many in the larger one, at most
LEVELS = 6  # of gray
ANGLES = {2: (-36, -30, -24, -18, -12, -6, 0, 6, 12, 18, 24, 30, 36), 3: (-20, 0, 20)}  # degrees, about every axis
CANDIDATES = 5
ITERATIONS, RATE = 30, 0.03  # of the refinement; step in units of half the field of view
PLAUSIBLE = (0.6, 1.6)  # stretch along any direction
APART = 0.6  # samples: from nearer starts the affine stages arrive where they were
RIVAL = 0.95  # share of the affine's measure that makes another start worth a try
CLEAR = 0.8  # share of the better one's measure below which an affine is worse, whatever its loss
GAIN = 1.1  # by which a start beats an affine so clearly that losses are not asked: over a good one it gains up to 1.05
CHANCE = 5e-4  # what the measure may be without any relation


def better_start(
    fixed: PreparedImage, moving: PreparedImage, affine: np.ndarray, initial: np.ndarray, scaling: bool = True
) -> np.ndarray | None:
    """Judge an affine by what a global search finds elsewhere.

    The measure is coarse and not the loss of the registration: of two alignments that are nearly equal in it the loss alone
    can tell the better one. So a rival is returned, too, and :func:`second_is_better` judges what came of it.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        affine: what is to be judged, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        initial: what it came from. The search covers the rotations up to about 35 degrees around its linear part, with any
            translation.
        scaling: whether a start may be larger or smaller than ``initial``.

    Returns:
        None when nothing as good was found elsewhere, else the matrix, ``(D + 1, D + 1)`` RAS mm, to start from again.
    """
    search = StartSearch(fixed, moving, SEARCHED)
    matrices = search.refined([affine, *search.screened(initial)], scaling)
    elsewhere = [m for m in matrices if search.distance(affine, m) > APART * search.step]
    scores = StartSearch(fixed, moving, COMPARED).scores([affine, *elsewhere])
    stretch = _stretch(affine, initial)
    enough = RIVAL * scores[0] + CHANCE if _plausible(stretch) else CHANCE
    best = int(scores[1:].argmax()) if elsewhere else None
    found = None if best is None or scores[best + 1] < enough else elsewhere[best]
    logger.info(
        "affine scores %.4f, stretch %.2f to %.2f; other starts %s: %s",
        *(scores[0], stretch[-1], stretch[0], scores[1:].round(4), "it stays" if found is None else "another try"),
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
    """Which of two affines to keep: if neither is clearly better by the measure of the search, the one with the lower loss.

    The loss alone would not do: it is a mean over what the images share, and air is easily explained.

    Args:
        affines: each ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        losses: what the registration made of each; may be NaN.
        initial: what the first came from.
        start: what the second came from.
    """
    plausible = [_plausible(_stretch(affine, initial)) for affine in affines]
    if plausible[0] != plausible[1]:
        return plausible[1]
    first, second, started = StartSearch(fixed, moving, COMPARED).scores([*affines, start])
    logger.info("two affines: scores %.4f and %.4f, losses %.4f and %.4f", first, second, *losses)
    if min(first, second) < CLEAR * max(first, second):
        return bool(second > first)
    if started > GAIN * first:
        return True
    return losses[1] < losses[0] or (math.isnan(losses[0]) and not math.isnan(losses[1]))


def _stretch(affine: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """By how much lengths change from one matrix to the other, largest first, ``(D,)``."""
    return np.linalg.svd(affine[:-1, :-1] @ np.linalg.inv(initial[:-1, :-1]), compute_uv=False)


def _plausible(stretch: np.ndarray) -> bool:
    return bool(PLAUSIBLE[0] <= stretch[-1] and stretch[0] <= PLAUSIBLE[1])


@dataclass(frozen=True)
class _Coarse:
    """A small version of an image.

    Attributes:
        channels: ``(2, *grid.shape)``: gray level, 0 to ``LEVELS - 1``, times weight; weight.
        grid: where they lie.
    """

    channels: torch.Tensor
    grid: Grid

    @classmethod
    def of(cls, image: PreparedImage, size_mm: float) -> _Coarse:
        """Averages over blocks of about ``size_mm`` or a voxel, whichever is larger; of several channels, of the first."""
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
        """Share of every gray level, times the weight, ``(B, N, LEVELS)``.

        Args:
            to_world: ``(B, D + 1, D + 1)`` float64, from points to world mm.
            points: ``(N, D)``.
        """
        dims = self.grid.dims
        scale, offset = to_normalized(self.grid.shape)
        normalizing = np.diag([*scale, 1.0])
        normalizing[:-1, -1] = offset
        matrix = (on_device(normalizing @ np.linalg.inv(self.grid.affine), to_world) @ to_world).float()
        where = points @ matrix[:, :dims, :dims].mT + matrix[:, None, :dims, dims]
        sampled = sample_normalized(self.channels.expand(len(matrix), *self.channels.shape), where.flip(-1))
        level, weight = sampled[:, 0] / sampled[:, 1].clamp_min(1e-3), sampled[:, 1]
        levels = torch.arange(LEVELS, device=level.device)
        return (1 - (level[..., None] - levels).abs()).clamp_min(0) * weight[..., None]


def _levels(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Intensities to gray levels 0 ... ``LEVELS - 1``, half way between equal steps and equal counts.

    The density of levels goes with the cube root of that of the intensities, which loses least to rounding (Panter and Dite
    1951, doi 10.1109/JRPROC.1951.230419): air gets little more than one, and the soft tissue of a CT, which fills a fortieth
    of the range, its share.
    """
    low, high = SOFT_LIMITS
    counts = torch.histc(values[weight > 0.5], 256, low, high)
    curve = F.pad(counts.pow(1 / 3).cumsum(0), (1, 0))
    curve = curve / curve[-1].clamp_min(1e-12) * (LEVELS - 1)
    position = ((values - low) / (high - low) * 256).clamp(0, 256 - 1e-3)
    index = position.long()
    return torch.lerp(curve[index], curve[index + 1], position - index)


class StartSearch:
    """Alignment of two images under any matrix, at a coarse scale.

    The measure is normalized mutual information less one (0 independent, 1 each determines the other), times the share of
    the smaller image that takes part: a small overlap can agree by chance, and then counts for little.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        samples: about how many the smaller field of view gets.
    """

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, samples: int) -> None:
        self.dims = dims = fixed.grid.dims
        self.device = fixed.image.device
        volumes = [float(np.prod(i.grid.extent)) for i in (fixed, moving)]
        self.step = (max(min(volumes), max(volumes) / LARGER) / samples) ** (1 / dims)
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
        """The measure of joint histograms ``(B, LEVELS, LEVELS)``."""
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
        """The measure, ``(len(matrices),)``, of matrices from fixed to moving world points."""
        return self._scores(self._tensor(np.stack(matrices) @ self.placed)).cpu().numpy()

    def screened(self, initial: np.ndarray) -> list[np.ndarray]:
        """The best matrices among rotations of an initial one and all translations, best first."""
        found = [self._translated(initial[:-1, :-1] @ rotation) for rotation in _rotations(self.dims)]
        return [matrix for _, matrix in sorted(found, key=lambda pair: -pair[0])[:CANDIDATES]]

    @torch.no_grad()
    def _translated(self, linear: np.ndarray) -> tuple[float, np.ndarray]:
        """Measure and matrix of the best translation after a linear map ``(D, D)`` of world mm."""
        grid, shape = self.moving.grid, self.lattice.shape
        axes = linear @ self.placed[:-1, :-1]  # steps of the lattice, seen in the moving world
        reach = np.abs((grid.corners() - grid.center) @ np.linalg.inv(axes).T).max(0)
        own = tuple(int(n) for n in np.ceil(2 * reach - 1e-6) + 1)  # a lattice around all of the moving image
        levels = self.moving.at(self._tensor(_placed(axes, grid.center))[None], self._tensor(_centered_index(own)).float())[0]
        size = [_smooth_length(n + m - 1) for n, m in zip(shape, own, strict=True)]
        along = tuple(range(-self.dims, 0))
        f, m = (torch.fft.rfftn(v.T.reshape(LEVELS, *s), s=size, dim=along) for v, s in ((self.levels, shape), (levels, own)))
        joint = torch.fft.irfftn(f[:, None] * m.conj(), s=size, dim=along).clamp_min(0)
        score = self._measure(joint.flatten(2).movedim(-1, 0))
        best = int(score.argmax())
        lag = np.array(np.unravel_index(best, size))
        lag = np.where(lag < shape, lag, lag - size)  # sample i of the fixed lattice meets i - lag of the other
        start = _placed(axes, grid.center + axes @ ((np.array(shape) - 1) / 2 - (np.array(own) - 1) / 2 - lag))
        return float(score[best]), start @ np.linalg.inv(self.placed)

    def refined(self, starts: list[np.ndarray], scaling: bool = True) -> list[np.ndarray]:
        """The same matrices, each after some steps of gradient ascent in rotation, translation and, with scaling, size."""
        dims = self.dims
        i, j = np.triu_indices(dims, 1)
        scale = float(self.lattice.extent.max()) / 2
        center = self._tensor(_placed(np.eye(dims) * scale, self.lattice.center))
        left, right = self._tensor(np.stack(starts)) @ center, torch.linalg.inv(center)
        parameters = torch.zeros(len(starts), len(i) + dims + 1, dtype=torch.float64, device=self.device, requires_grad=True)
        optimizer = torch.optim.Adam([parameters], lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS, RATE / 10)
        best = torch.full((len(starts),), -torch.inf, dtype=torch.float32, device=self.device)
        kept = left @ right
        for _ in range(ITERATIONS):
            turn, shift, size = parameters.split((len(i), dims, 1), dim=1)
            log = F.pad(torch.diag_embed((size if scaling else 0 * size).expand(-1, dims)), (0, 1, 0, 1))
            log[:, i, j], log[:, j, i], log[:, :dims, dims] = turn, -turn, shift
            matrices = left @ matrix_exponential(log) @ right
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
        """Mean distance, mm, between where two matrices take the fixed field of view."""
        moved = [apply_affine(m @ self.placed, _centered_index(self.lattice.shape)) for m in (first, second)]
        return float(np.linalg.norm(moved[0] - moved[1], axis=1).mean())


def _placed(linear: np.ndarray, center: np.ndarray) -> np.ndarray:
    """``(D + 1, D + 1)``: a linear map and where it takes the origin."""
    return np.vstack((np.column_stack((linear, center)), np.eye(1, len(center) + 1, len(center))))


def _centered_index(shape: tuple[int, ...]) -> np.ndarray:
    """Indices of a lattice, counted from its middle, ``(N, D)``."""
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def _rotations(dims: int) -> list[np.ndarray]:
    """``(D, D)`` matrices on a grid of rotation vectors."""
    i, j = np.triu_indices(dims, 1)
    out = []
    for angles in product(ANGLES[dims], repeat=len(i)):
        log = torch.zeros(dims, dims, dtype=torch.float64, device="cpu")
        log[i, j] = torch.deg2rad(torch.tensor(angles, dtype=torch.float64, device="cpu"))
        out.append(matrix_exponential(log - log.T).numpy())
    return out


def _smooth_length(n: int) -> int:
    """The least length from ``n`` on that factors into 2, 3 and 5, for which FFTs are fast.

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
