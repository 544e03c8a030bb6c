# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Maps of the local residual: how well the fixed image is locally a function of the moving one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ...geometry import interpolation_matrix, separable, voxel_to_voxel
from ...io import ImageSource
from ...losses.functional import WindowFit, local_fit, local_moments
from ...losses.streaming import StreamedWindows, slab_budget
from ...losses.windows import AxisWindows, window_count
from ...networks.basis import PolynomialBasis
from ...precision import full_precision
from ...registration.basis_pair import BasisPair
from ...registration.config import RegistrationConfig
from ...registration.result import RegistrationResult
from .samples import Samples, samples_of_images, samples_of_result

__all__ = [
    "basis_of",
    "fit_windows",
    "local_residual",
    "residual_map",
    "residual_maps",
    "sample_positions",
]

DEFAULT_DEGREE = 3  # of the polynomial basis, unless set in the settings, as in the loss


def local_residual(
    fixed: torch.Tensor,
    moving_on_fixed: torch.Tensor,
    *,
    basis: BasisPair | None,
    config: RegistrationConfig,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Residual R of the local fits of the fixed image by functions of the moving one.

    Windows, ridge and form are those of the settings, the resolution is that of their last stage; values are interpolated
    linearly between the windows. The unit is the squared intensity after normalization to about [0, 1]; the normalized form
    lies in [0, 1].

    Args:
        fixed: ``(1, *spatial)``; a MetaTensor's affine gives the voxel sizes.
        moving_on_fixed: the moving image on the fixed grid, before or after registration, ``(1, *spatial)``; not finite where
            it has no data.
        basis: learned basis of the registration (:attr:`monai_locor.RegistrationResult.basis`); None for polynomials.
        config: settings of the registration.
        mask: weights of the fixed image's voxels, ``(1, *spatial)``.

    Returns:
        ``(1, *spatial)`` float32, NaN where no window is valid: outside the mask, where the moving image has no data, and
            outside the foreground of the fixed image.

    Raises:
        InputError: if no valid voxel is left, or the basis does not fit the settings.
        ValueError: if the images do not share a grid.
    """
    return residual_map(samples_of_images(fixed, moving_on_fixed, basis=basis, config=config, mask=mask))


def residual_maps(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`local_residual` before and after a registration, from images prepared exactly as in the engine.

    Args:
        result, fixed, moving, fixed_mask, moving_mask, initial: see :func:`.samples_of_result`.

    Returns:
        two maps ``(1, *fixed)``.
    """
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    before, after = samples_of_result(result, fixed, moving, **masks, initial=initial)
    return residual_map(before), residual_map(after)


def basis_of(samples: Samples, name: str | nn.Module | None = None, degree: int | None = None) -> nn.Module:
    """Select a basis: ``"learned"``, ``"polynomial"`` or a module; by default the learned one, if any.

    The degree of the polynomials is by default that of the settings.

    Raises:
        InputError: if no basis was learned, the name is unknown, or the number of channels differs.
    """
    if name is None:
        name = "polynomial" if samples.learned is None else "learned"
    channels = samples.moving.shape[1]
    if isinstance(name, nn.Module):
        wanted = getattr(name, "in_channels", channels)
        if wanted != channels:
            raise InputError(
                f"the basis is for {wanted} channels, the moving image has {channels}; give a basis with that number."
            )
        return name
    if name == "polynomial":
        settings = samples.config.similarity_options
        return PolynomialBasis(channels, int(settings.get("degree", DEFAULT_DEGREE)) if degree is None else degree)
    if name != "learned":
        raise InputError(f"basis must be learned, polynomial or a module, got {name!r}.")
    if samples.learned is None:
        raise InputError("this registration learned no basis; use the polynomial one.")
    return samples.learned


@torch.no_grad()
def fit_windows(samples: Samples, basis: nn.Module, windows: Sequence[AxisWindows]) -> WindowFit:
    """Fit windows as in :class:`monai_locor.losses.LocalLearnedBasisCRLoss`.

    Args:
        samples: images and settings.
        basis: see :func:`basis_of`.
        windows: one per axis.
    """
    config, pred = samples.config, samples.moving
    streamed, means = StreamedWindows(windows, slab_budget(pred.device, None)), config.form != "log"
    parameters = dict(basis.named_parameters())
    with full_precision(pred.device):
        moments = local_moments(basis, pred, samples.fixed, samples.weight, streamed, config.min_mass, means, parameters)
        return local_fit(moments, config.form, config.ridge, config.eps)


def sample_positions(samples: Samples) -> list[np.ndarray]:
    """Positions of the voxels of the prepared fixed image, as indices of the samples, one array per axis."""
    matrix = voxel_to_voxel(samples.prepared.grid, samples.grid)  # diagonal: the samples follow the image's axes
    return [matrix[i, -1] + matrix[i, i] * np.arange(n) for i, n in enumerate(samples.prepared.grid.shape)]


def residual_map(samples: Samples, basis: str | nn.Module | None = None) -> torch.Tensor:
    """:func:`local_residual` of samples: ``(1, *fixed)``, in the order in which the fixed image is stored."""
    config, grid, full = samples.config, samples.grid, samples.prepared.grid
    shift = torch.zeros((), dtype=samples.moving.dtype)
    axes = list(zip(grid.shape, samples.windows.sigma, samples.windows.stride, strict=True))
    windows = [AxisWindows.gaussian(n, sigma, stride, config.truncated, shift) for n, sigma, stride in axes]
    found = fit_windows(samples, basis_of(samples, basis), windows)
    matrices, near = [], torch.ones(full.shape, dtype=torch.bool)
    for axis, ((size, _, stride), where) in enumerate(zip(axes, sample_positions(samples), strict=True)):
        count = window_count(size, stride)
        steps = (where - (size - 1) / 2) / stride + (count - 1) / 2
        matrices.append(torch.from_numpy(interpolation_matrix(steps, count)).to(samples.moving))
        seen = torch.from_numpy((where >= -0.5) & (where <= size - 0.5))
        near &= seen.reshape(-1, *[1] * (grid.dims - 1 - axis))
    counts = found.counts[0].to(samples.moving)
    share = separable(matrices, counts)
    total = separable(matrices, found.residual[0, :1] * counts)
    # a voxel belongs to the map if at least half of its neighboring windows are valid, by interpolation weight
    out = torch.where((share >= 0.5) & near, total / share.clamp_min(1e-6), torch.nan)
    return samples.prepared.to_stored(out)
