# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Residual displacement of two aligned images, and how well they determine it, by a linearized local fit.

In every window, the target t is modeled as a polynomial of the displaced source m, ``t(x) = p(m(x + d))``. To first order,
``p(m(x + d)) = p(m(x)) + d . g(x)`` with the gradient g of ``p(m)``. First p is fitted at ``d = 0``, then d together with a
correction of p. The normal matrix H of d (after elimination of p) is the curvature of the local fit. With n independent
samples of residual variance r, the covariance of d is ``(n H / r + I / s^2)^-1``: the bound of Cramer and Rao, with a normal
prior of standard deviation s, so that it stays finite where there is no contrast (Robinson and Milanfar 2004,
doi 10.1109/TIP.2004.832923).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..geometry import Grid, separable

__all__ = ["MIN_RESIDUAL", "LocalShift", "aligned_windows", "local_shift"]

DEGREE = 3  # of the polynomial
FITS = 2**13  # windows that are fitted at once
PRODUCTS = 4  # channels whose products with another one are in memory at once
RIDGE = 1e-3  # added to the diagonal of the normal matrix of the polynomial, squared intensities
MIN_RESIDUAL = 1e-4  # added to residual variances, squared intensities: the noise of a clean image
TRUNCATED = 3.0  # where a Gaussian window ends, standard deviations
PRIOR_STEPS = 2.0  # standard deviation of the prior along an axis, distances of the samples
MIN_MASS = 1e-6


@dataclass(frozen=True)
class LocalShift:
    """Local fits on a lattice of windows.

    Attributes:
        shift: estimated residual displacement along the axes of the grid, ``(D, *lattice)``, mm.
        deviation: its standard deviation, the root of the trace of its covariance, ``(*lattice)``, mm.
        unexplained: unexplained share of the variance of the target without displacement, ``(*lattice)``.
        contrast: standard deviation of the target, ``(*lattice)``.
        mass: weighted share of the samples of a window, ``(*lattice)``.
    """

    shift: torch.Tensor
    deviation: torch.Tensor
    unexplained: torch.Tensor
    contrast: torch.Tensor
    mass: torch.Tensor


def aligned_windows(grid: Grid, lattice: Grid, sigma: float) -> list[torch.Tensor]:
    """Gaussian windows around the nodes of a lattice with the axes and the center of a grid: a matrix per axis.

    Args:
        grid, lattice: grids with parallel axes and the same center.
        sigma: standard deviation, mm.

    Returns:
        ``(lattice.shape[a], grid.shape[a])`` float32 per axis, rows sum to one.
    """
    out = []
    for axis in range(grid.dims):
        nodes, samples = (
            s * (np.arange(n) - (n - 1) / 2) for s, n in ((g.spacing[axis], g.shape[axis]) for g in (lattice, grid))
        )
        distance = np.abs(samples - nodes[:, None]) / sigma
        # a node always has a sample within half a distance of the samples
        reach = max(TRUNCATED, 0.5 * float(grid.spacing[axis]) / sigma) + 1e-9
        weights = np.exp(-0.5 * distance**2) * (distance <= reach)
        out.append(torch.from_numpy(weights / weights.sum(1, keepdims=True)).float())
    return out


def local_shift(
    target: torch.Tensor, source: torch.Tensor, weight: torch.Tensor, grid: Grid, lattice: Grid, sigma: float
) -> LocalShift:
    """Fit the target by a polynomial of the displaced source in every window.

    Args:
        target, source: intensities, about [-1, 1], ``(*grid)`` float32.
        weight: of the samples, ``(*grid)``: 0 or 1. Samples whose neighbors along an axis have no weight do not count.
        grid: isotropic grid of the samples.
        lattice: centers of the windows, see :func:`aligned_windows`.
        sigma: standard deviation of the Gaussian windows, mm.
    """
    dims = grid.dims
    channels = _channels(target, source, grid)
    windows = [w.to(channels, non_blocking=True) for w in aligned_windows(grid, lattice, sigma)]
    covariance, mass = _covariances(channels, _with_neighbors(weight), windows), separable(windows, weight[None])[0]
    del channels  # the fits need much memory as well
    samples = (4 * math.pi) ** (dims / 2) * math.prod(sigma / s for s, n in zip(grid.spacing, grid.shape, strict=True) if n > 1)
    parts = [_fitted(part, dims, samples, PRIOR_STEPS * float(grid.spacing.max())) for part in _parts(covariance)]
    shift, *others = (torch.cat(found) for found in zip(*parts, strict=True))
    deviation, unexplained, contrast = (x.reshape(lattice.shape) for x in others)
    return LocalShift(shift.T.reshape(dims, *lattice.shape), deviation, unexplained, contrast, mass)


def _channels(target: torch.Tensor, source: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The powers of the source, their slopes along each axis, and the target, ``(DEGREE * (1 + D) + 1, *grid)``."""
    out = source.new_empty(DEGREE * (1 + grid.dims) + 1, *grid.shape)
    powers, *slopes = out[:-1].split(DEGREE)
    for k, power in enumerate(powers):
        torch.pow(source, k + 1, out=power)
    for axis, slope in enumerate(slopes):
        _difference(powers, axis, float(grid.spacing[axis]), slope)
    out[-1] = target
    return out


def _difference(values: torch.Tensor, axis: int, step: float, out: torch.Tensor) -> None:
    """Write central differences of ``(C, *grid)`` along an axis, zero at its ends."""
    here, there = out.zero_().movedim(axis + 1, 0), values.movedim(axis + 1, 0)
    if len(there) > 2:
        torch.sub(there[2:], there[:-2], out=here[1:-1]).mul_(0.5 / step)


def _with_neighbors(weight: torch.Tensor) -> torch.Tensor:
    """The weights of the samples whose neighbors along all axes have weight; axes of one or two samples have none."""
    out = weight
    for axis, n in enumerate(weight.shape):
        if n > 2:
            there = out.movedim(axis, 0)
            inner = there[2:] * there[1:-1] * there[:-2]
            out = torch.cat((torch.zeros_like(there[:1]), inner, torch.zeros_like(there[:1]))).movedim(0, axis)
    return out.contiguous()


def _covariances(channels: torch.Tensor, weight: torch.Tensor, windows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Covariance matrices of all channels in all windows, ``(windows, C, C)`` float64."""
    scale = 1 / separable(windows, weight[None])[0].clamp_min(MIN_MASS).double().flatten()
    count = len(channels)
    step = PRODUCTS if channels.device.type == "cpu" else count  # a GPU needs few launches
    parts = [slice(first, min(first + step, count)) for first in range(0, count, step)]
    means = torch.cat([separable(windows, channels[part] * weight).double().flatten(1) for part in parts]).mul_(scale)
    out = channels.new_empty(count, count, len(scale), dtype=torch.float64)
    for row in range(count):
        weighted = channels[row] * weight
        for part in parts[row // step :]:
            products = separable(windows, channels[part] * weighted).double().flatten(1).mul_(scale)
            found = products.sub_(means[row] * means[part])
            out[row, part], out[part, row] = found, found
    return out.permute(2, 0, 1)


def _parts(covariance: torch.Tensor) -> Sequence[torch.Tensor]:
    """The windows that are fitted at once; on a GPU all, for few launches."""
    return covariance.split(FITS) if covariance.device.type == "cpu" else [covariance]


def _fitted(covariance: torch.Tensor, dims: int, samples: float, prior: float) -> tuple[torch.Tensor, ...]:
    """Shift ``(N, D)``, deviation, unexplained share and contrast ``(N,)`` from ``(N, C, C)``; float32."""
    slopes = slice(DEGREE, -1)
    own, cross, variance = covariance[:, :DEGREE, :DEGREE], covariance[:, :DEGREE, -1], covariance[:, -1, -1].clamp_min(0)
    inverse = torch.linalg.inv_ex(own + RIDGE * torch.eye(DEGREE, device=own.device, dtype=own.dtype))[0]
    theta = torch.einsum("nij,nj->ni", inverse, cross)
    residual = (variance - (theta * cross).sum(1)).clamp_min(0) + MIN_RESIDUAL
    # contract the slopes of the powers to those of the fitted polynomial
    mixed = torch.einsum("nipj,nj->nip", covariance[:, :DEGREE, slopes].unflatten(2, (dims, DEGREE)), theta)
    curved = covariance[:, slopes, slopes].unflatten(2, (dims, DEGREE)).unflatten(1, (dims, DEGREE))
    curved = torch.einsum("npiqj,ni,nj->npq", curved, theta, theta)
    pull = torch.einsum("npj,nj->np", covariance[:, slopes, -1].unflatten(1, (dims, DEGREE)), theta)
    # eliminate the correction of the polynomial
    reduced = torch.einsum("nij,njp->nip", inverse, mixed)
    curved = curved - torch.einsum("nip,niq->npq", mixed, reduced)
    pull = pull - torch.einsum("nip,ni->np", mixed, theta)
    damping, identity = residual / (samples * prior**2), torch.eye(dims, device=curved.device, dtype=curved.dtype)
    inverse = torch.linalg.inv_ex(curved + damping[:, None, None] * identity)[0]
    shift = torch.einsum("npq,nq->np", inverse, pull)
    rest = (residual - (shift * pull).sum(1)).clamp_min(MIN_RESIDUAL)
    deviation = (inverse.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0) * rest / samples).sqrt()
    return shift.float(), deviation.float(), (residual / (variance + MIN_RESIDUAL)).float(), variance.sqrt().float()
