# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Mutual information of two images at a coarse scale: for given matrices, or for all translations at once.

For one rotation, the joint histograms of two images at *all* translations are correlations of the indicator functions of
their gray levels, so a few small FFTs give the mutual information for all translations, regardless of the overlap in world
coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ...geometry import apply_affine
from ...networks.affine import MatrixExponential
from ...threads import each
from .coarse import CoarseImage
from .lags import Lags
from .prepare import PreparedImage

__all__ = ["StartSearch"]

MAX_VOLUME_RATIO = 2**4  # of the fields of view; samples are coarser above it
GRAY_LEVELS = 6
MIN_SCREEN_OVERLAP = 0.2  # fraction of the smaller image; translations with less are not evaluated
REFINEMENT_ITERATIONS = 30
REFINEMENT_RATE = 0.03  # learning rate, half fields of view
BLOCKS_PER_VIEW = 64  # of the fixed field of view, for the standard error of a difference


class StartSearch:
    """Coarse-scale evaluation of the alignment of two images under any matrix.

    The measure is normalized mutual information minus one (0: independent, 1: each determines the other), times the overlap
    as a fraction of the smaller image, because a small overlap can agree by chance.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare.prepare`.
        samples: approximate number of samples in the smaller field of view.
        levels: number of gray levels.
    """

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, samples: int, levels: int = GRAY_LEVELS) -> None:
        self.dims = dims = fixed.grid.dims
        self.num_levels = levels
        self.device = fixed.image.device
        volumes = [float(np.prod(i.grid.extent)) for i in (fixed, moving)]
        self.step = (max(min(volumes), max(volumes) / MAX_VOLUME_RATIO) / samples) ** (1 / dims)
        self.fixed, self.moving = (CoarseImage.of(i, self.step / 2, levels) for i in (fixed, moving))
        self.lattice = fixed.grid.resampled(np.full(dims, self.step))
        self.points = self._tensor(_centered_index(self.lattice.shape)).float()
        self.placed = _placed(self.lattice.affine[:-1, :-1], self.lattice.center)  # from points to fixed world
        self.levels = self.fixed.at(self._tensor(self.placed)[None], self.points)[0]
        mass = [float(c.channels[1].sum() * np.prod(c.grid.spacing)) for c in (self.fixed, self.moving)]
        self.mass = max(min(mass) / self.step**dims, 1e-6)
        self.axes = tuple(range(-dims, 0))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float64)).to(self.device, non_blocking=True)

    def _measure(self, joint: torch.Tensor) -> torch.Tensor:
        """Compute the measure, ``(B,)``, from joint histograms ``(levels, levels, B)``."""
        count = joint.sum((0, 1)).clamp_min(1e-6)
        both, first, second = (_entropy(h / count) for h in (joint.flatten(0, 1), joint.sum(0), joint.sum(1)))
        return ((first + second) / both.clamp_min(1e-3) - 1) * count / self.mass

    def _scores(self, to_world: torch.Tensor) -> torch.Tensor:
        return self._measure(torch.einsum("nk,bnl->klb", self.levels, self.moving.at(to_world, self.points)))

    @torch.no_grad()
    def scores(self, matrices: list[np.ndarray]) -> np.ndarray:
        """Compute the measure, ``(len(matrices),)``, of matrices from fixed to moving world points."""
        return self._scores(self._tensor(np.stack(matrices) @ self.placed)).cpu().numpy()

    @torch.no_grad()
    def lead(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return by how many standard errors a matrix agrees better than another, negative if worse.

        The measure is the mutual information as a mean over the fixed image of the pointwise mutual information, 0 outside the
        overlap. The standard error is that of the differences of :data:`BLOCKS_PER_VIEW` blocks, as neighboring samples are not
        independent.

        Args:
            first, second: fixed to moving world points, ``(D + 1, D + 1)``.
        """
        moved = self.moving.at(self._tensor(np.stack((first, second)) @ self.placed), self.points)
        joint = torch.einsum("nk,bnl->bkl", self.levels, moved).double()
        joint = joint / joint.sum((1, 2), keepdim=True).clamp_min(1e-6)
        ratio = joint / (joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)).clamp_min(1e-12)
        pointwise = torch.einsum("nk,bkl,bnl->bn", self.levels, ratio.clamp_min(1e-6).log().to(moved), moved)
        blocks = self._blocks()
        sums = pointwise.new_zeros(int(blocks.max()) + 1).index_add_(0, blocks, pointwise[0] - pointwise[1]).double()
        error = float((sums.var() * len(sums)).sqrt())
        return float(sums.sum()) / error if error > 0 else 0.0

    def _blocks(self) -> torch.Tensor:
        """Return the block of every sample, ``(N,)``."""
        per_axis = round(BLOCKS_PER_VIEW ** (1 / self.dims))
        index = torch.zeros((), dtype=torch.int64, device=self.device)
        for n in self.lattice.shape:
            index = index[..., None] * per_axis + torch.arange(n, device=self.device) * per_axis // n
        return index.flatten()

    def screened(self, linear: Iterable[np.ndarray], count: int) -> list[np.ndarray]:
        """Return the best matrices over given linear parts ``(D, D)``, each with its best translation; best first."""
        found = each(self._translated, list(linear), self.device)
        return [matrix for _, matrix in sorted(found, key=lambda pair: -pair[0])[:count]]

    @torch.no_grad()
    def _translated(self, linear: np.ndarray) -> tuple[float, np.ndarray]:
        """Return measure and matrix of the best translation after a linear map ``(D, D)`` of world mm."""
        grid, shape = self.moving.grid, self.lattice.shape
        axes = linear @ self.placed[:-1, :-1]  # steps of the lattice in the moving world
        reach = np.abs((grid.corners() - grid.center) @ np.linalg.inv(axes).T).max(0)
        own = tuple(int(n) for n in np.ceil(2 * reach - 1e-6) + 1)  # a lattice that covers the whole moving image
        levels = self.moving.at(self._tensor(_placed(axes, grid.center))[None], self._tensor(_centered_index(own)).float())[0]
        needed = MIN_SCREEN_OVERLAP * self.mass
        lags = Lags.of(self._profiles(self.levels, shape), self._profiles(levels, own), needed)
        spectra = self._spectrum(self.levels, shape, lags.size)[:, None] * self._spectrum(levels, own, lags.size).conj()
        joint = torch.fft.irfftn(spectra, s=lags.size, dim=self.axes).flatten(2)
        indices = torch.from_numpy(lags.indices()).to(self.device, non_blocking=True)
        overlap = joint.sum((0, 1))[indices]
        used = indices[overlap >= min(needed, float(overlap.max()))]
        score = self._measure(joint[..., used].clamp_min(0))
        best = int(score.argmax())
        lag = lags.at(int(used[best]))  # sample i of the fixed lattice coincides with i - lag of the other
        start = _placed(axes, grid.center + axes @ ((np.array(shape) - 1) / 2 - (np.array(own) - 1) / 2 - lag))
        return float(score[best]), start @ np.linalg.inv(self.placed)

    def _spectrum(self, levels: torch.Tensor, shape: Sequence[int], size: tuple[int, ...]) -> torch.Tensor:
        """Fourier transform of gray levels ``(samples, levels)`` of a lattice, padded to a size."""
        return torch.fft.rfftn(levels.T.reshape(self.num_levels, *shape), s=size, dim=self.axes)

    def _profiles(self, levels: torch.Tensor, shape: Sequence[int]) -> list[np.ndarray]:
        """Sums of the weights of a lattice over all axes but one, for each axis."""
        weight = levels.sum(1).double().reshape(*shape)
        profiles = [weight.sum([other for other in range(self.dims) if other != axis]) for axis in range(self.dims)]
        return np.split(torch.cat(profiles).cpu().numpy(), np.cumsum(shape)[:-1])

    @torch.enable_grad()
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


def _entropy(shares: torch.Tensor) -> torch.Tensor:
    """Return the entropies ``(B,)`` of distributions ``(K, B)``, nats."""
    return -(shares * shares.clamp_min(1e-9).log()).sum(0)


def _placed(linear: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the matrix ``(D + 1, D + 1)`` with this linear part and image of the origin."""
    return np.vstack((np.column_stack((linear, center)), np.eye(1, len(center) + 1, len(center))))


def _centered_index(shape: tuple[int, ...]) -> np.ndarray:
    """Return the indices of a lattice relative to its center, ``(N, D)``."""
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
