# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The local fit in one window, with its inputs and results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ...geometry import Grid
from ...losses.functional import WindowFit, ridge_solution
from ...losses.windows import AxisWindows
from .residual import basis_of, fit_windows, residual_map, sample_positions
from .samples import Samples

__all__ = ["LocalFit", "fit_at", "interesting_point", "plane_residual", "voxel_point"]


@dataclass(frozen=True, eq=False)
class LocalFit:
    """The fixed image around a point as a function of the moving one. N samples, C channels, J basis functions; float64.

    Attributes:
        point_mm: center of the window, ``(D,)`` RAS mm.
        positions_mm: of the samples, ``(N, D)`` RAS mm.
        moving: input of the basis functions, ``(N, C)``: intensity, derivative magnitude.
        fixed: target of the fit, ``(N,)``.
        weights: Gaussian weight times the weight of the voxel, ``(N,)``, positive, sum one.
        psi: basis functions at the samples, ``(N, J)``.
        theta: ridge solution ``(A + ridge I)^-1 c``, ``(J,)``; of the standardized target in the normalized form.
        fitted: values of the fitted function at the samples, ``(N,)``.
        residual: R as in the loss: weighted mean of ``(fixed - fitted)^2``, divided by the variance in the normalized form.
        basis: module of the basis functions.
        mean, deviation: the fitted function is ``mean + deviation psi^T theta``; zero and one except in the normalized form.
    """

    point_mm: np.ndarray
    positions_mm: np.ndarray
    moving: np.ndarray
    fixed: np.ndarray
    weights: np.ndarray
    psi: np.ndarray
    theta: np.ndarray
    fitted: np.ndarray
    residual: float
    basis: nn.Module
    mean: float
    deviation: float

    @property
    def mean_square(self) -> float:
        """Weighted mean of ``(fixed - fitted)^2``."""
        return float(self.weights @ (self.fixed - self.fitted) ** 2)

    @property
    def explained(self) -> float:
        """Share of the variance of the fixed image in the window that the fit explains; NaN without variance."""
        variance = float(self.weights @ (self.fixed - self.weights @ self.fixed) ** 2)
        return 1 - self.mean_square / variance if variance > 1e-12 else math.nan

    def psi_at(self, moving: np.ndarray) -> np.ndarray:
        """The basis functions at points ``(M, C)``, ``(M, J)``."""
        return _psi(self.basis, torch.from_numpy(np.ascontiguousarray(moving, dtype=np.float64))).numpy()

    def __call__(self, moving: np.ndarray) -> np.ndarray:
        """The fitted function at points ``(M, C)``, ``(M,)``."""
        return self.mean + self.deviation * self.psi_at(moving) @ self.theta


def fit_at(
    samples: Samples,
    point_mm: Sequence[float] | np.ndarray,
    basis: str | nn.Module | None = None,
    *,
    degree: int | None = None,
    channel: int = 0,
) -> LocalFit:
    """Fit the window around a point as the loss does.

    Args:
        samples: see :func:`.samples_of_result`.
        point_mm: ``(D,)`` RAS mm, not necessarily at a voxel.
        basis: ``"learned"``, ``"polynomial"`` or a voxel-wise module; by default the learned one, if any.
        degree: of the polynomials, by default that of the settings.
        channel: of the fixed image: 0, intensity, or with ``derivative="both"`` 1, derivative magnitude.

    Raises:
        InputError: if the point lies outside the fixed image, too little of the window is valid, or the basis does not fit
            the images.
    """
    index = samples.index(point_mm)
    module = basis_of(samples, basis, degree)
    if not 0 <= channel < samples.fixed.shape[1]:
        raise InputError(f"channel must be below {samples.fixed.shape[1]}, got {channel}.")
    if (index < -0.5).any() or (index > np.array(samples.grid.shape) - 0.5).any():
        raise _no_data(point_mm, "outside the foreground of the fixed image")
    box = _around(samples, index)
    part = samples.cropped(box).double()
    windows = [_window(part, axis, float(index[axis]) - b.start) for axis, b in enumerate(box)]
    fit = fit_windows(part, module, windows)
    if not bool(fit.counts):
        assert fit.moments.mass is not None  # samples have weights
        raise _no_data(point_mm, f"only {float(fit.moments.mass):.0%} of the window is valid")
    return _local_fit(part, windows, fit, module, np.asarray(point_mm, dtype=np.float64), channel)


def _no_data(point_mm: Sequence[float] | np.ndarray, why: str) -> InputError:
    point = np.round(np.asarray(point_mm, dtype=np.float64), 2).tolist()
    return InputError(f"no local fit at {point} mm: the images have too little valid data there ({why}); give another point.")


def _window_radii(samples: Samples) -> list[float]:
    return [max(samples.config.truncated * sigma, 0.5) for sigma in samples.windows.sigma]


def _around(samples: Samples, index: np.ndarray) -> list[slice]:
    """Box of all samples of a window around an index."""
    axes = list(zip(index, samples.grid.shape, _window_radii(samples), strict=True))
    low = [max(0, min(n - 1, math.floor(p - radius))) for p, n, radius in axes]
    high = [max(1, min(n, math.ceil(p + radius) + 1)) for p, n, radius in axes]
    return [slice(a, b) for a, b in zip(low, high, strict=True)]


def _window(samples: Samples, axis: int, position: float) -> AxisWindows:
    """One window along an axis, centered at an index."""
    sigma, size = samples.windows.sigma[axis], samples.grid.shape[axis]
    shift = torch.tensor(position - (size - 1) / 2, dtype=samples.moving.dtype)
    return AxisWindows.gaussian(size, sigma, size, samples.config.truncated, shift)


def _local_fit(
    part: Samples, windows: list[AxisWindows], fit: WindowFit, module: nn.Module, point_mm: np.ndarray, channel: int
) -> LocalFit:
    weights = part.weight[0, 0]
    for axis, (window, size) in enumerate(zip(windows, part.grid.shape, strict=True)):
        row = window.part(slice(0, size))[1][0]
        weights = weights * row.reshape(-1, *[1] * (part.dims - 1 - axis))
    keep = weights > 0
    moving, fixed = part.moving[0][:, keep].T, part.fixed[0, channel][keep]
    psi = _psi(module, moving)
    theta = ridge_solution(fit.moments.psi_psi, fit.psi_t, part.config.ridge)[0, :, channel].flatten()
    mean = 0.0 if fit.mean is None else float(fit.mean[0, channel])
    deviation = 1.0 if fit.deviation is None else float(fit.deviation[0, channel])
    return LocalFit(
        point_mm=point_mm,
        positions_mm=part.grid.points()[keep.numpy()],
        moving=moving.numpy(),
        fixed=fixed.numpy(),
        weights=(weights[keep] / weights.sum()).numpy(),
        psi=psi.numpy(),
        theta=theta.numpy(),
        fitted=(mean + deviation * (psi @ theta)).numpy(),
        residual=float(fit.residual[0, channel]),
        basis=module,
        mean=mean,
        deviation=deviation,
    )


@torch.no_grad()
def _psi(basis: nn.Module, moving: torch.Tensor) -> torch.Tensor:
    """``(M, C)`` to ``(M, J)``."""
    return basis(moving.T[None, :, :, None])[0, :, :, 0].T


def voxel_point(grid: Grid, voxel: Sequence[float]) -> np.ndarray:
    """World point of a voxel of an image, ``(D,)`` RAS mm.

    Raises:
        InputError: if the image has no such voxel.
    """
    index = np.asarray(voxel, dtype=np.float64)
    if index.shape != (grid.dims,) or not ((index >= 0) & (index <= np.array(grid.shape) - 1)).all():
        raise InputError(f"voxel must lie in the image of shape {list(grid.shape)}, got {index.tolist()}.")
    return grid.affine[:-1, :-1] @ index + grid.affine[:-1, -1]


def interesting_point(before: Samples, after: Samples, choose: str = "gain") -> np.ndarray:
    """Find the point where the registration lowered the residual most, or where the residual is highest at its end.

    Windows that lie completely inside the samples are preferred.

    Args:
        before, after: of :func:`.samples_of_result`.
        choose: ``"gain"``, the largest decrease; or ``"worst"``, the highest residual, also used if no point has a residual
            both before and after.

    Returns:
        ``(D,)`` RAS mm, center of a voxel.

    Raises:
        InputError: if no window is valid, or for another choice.
    """
    if choose not in ("gain", "worst"):
        raise InputError(f"choose must be gain or worst, got {choose!r}.")
    now = residual_map(after)[0]
    gain = residual_map(before)[0] - now
    score = gain if choose == "gain" and bool(gain.isfinite().any()) else now
    if not bool(score.isfinite().any()):
        raise InputError("no valid overlap between the images or masks after registration; check both.")
    whole = torch.where(_whole_windows(after), score, torch.nan)
    score = whole if bool(whole.isfinite().any()) else score
    best = int(score.nan_to_num(-torch.inf).argmax())
    stored = after.prepared.stored
    return voxel_point(stored, [int(i) for i in np.unravel_index(best, stored.shape)])


def _whole_windows(samples: Samples) -> torch.Tensor:
    """Voxels of the stored fixed image whose windows lie completely inside the samples, ``(*fixed)``."""
    out = torch.ones(samples.prepared.grid.shape, dtype=torch.bool)
    axes = zip(samples.grid.shape, sample_positions(samples), _window_radii(samples), strict=True)
    for axis, (size, where, radius) in enumerate(axes):
        inner = torch.from_numpy((where >= radius) & (where <= size - 1 - radius))
        out &= inner.reshape(-1, *[1] * (samples.dims - 1 - axis))
    return samples.prepared.to_stored(out[None])[0]


def plane_residual(
    samples: Samples, basis: str | nn.Module | None = None, axis: int | None = None, index: int = 0
) -> np.ndarray:
    """The exact residual of the windows around all samples of a plane; NaN where a window is not valid.

    Args:
        samples: see :func:`.samples_of_result`.
        basis: see :func:`fit_at`.
        axis: normal of the plane; None for 2-D images.
        index: of the plane along the axis.

    Returns:
        ``(*grid)`` without that axis.
    """
    part, windows = samples, []
    if axis is not None:
        box = [slice(0, n) for n in samples.grid.shape]
        middle = [(n - 1) / 2 for n in samples.grid.shape]
        middle[axis] = index
        box[axis] = _around(samples, np.array(middle))[axis]
        part = samples.cropped(box)
        index -= box[axis].start
    config, sigmas, shift = samples.config, samples.windows.sigma, torch.zeros((), dtype=part.moving.dtype)
    for number, size in enumerate(part.grid.shape):
        every = AxisWindows.gaussian(size, sigmas[number], 1, config.truncated, shift)
        windows.append(_window(part, number, index) if number == axis else every)
    found = fit_windows(part, basis_of(samples, basis), windows)
    out = torch.where(found.counts, found.residual[:, :1], torch.nan)[0, 0]
    return (out if axis is None else out.squeeze(axis)).numpy()
