# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The descent direction of a loss as input of a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.networks.utils import eval_mode
from torch import nn

from ..tensors import on_device

__all__ = ["force_channels", "forces"]

MIN_RELATIVE_SQUARED_FORCE = 0.05  # floor of the local mean square force, relative to that of the item


def force_channels(spatial_dims: int) -> int:
    """Number of channels of :func:`forces`."""
    return 2 * spatial_dims


def forces(
    loss: Callable[[torch.Tensor], torch.Tensor], field: torch.Tensor, modules: tuple[nn.Module, ...] = ()
) -> torch.Tensor:
    """The descent direction of a loss at a deformation, smoothed and independent of the loss's scale.

    Otherwise a network has to learn from many pairs how to compare two contrasts. With the gradient of the loss as input, it
    has to learn only how far to move each voxel and how to regularize.

    Args:
        loss: function of a field of that shape.
        field: where to differentiate, ``(B, D, *spatial)``, for instance zeros.
        modules: modules of the loss, put into ``eval()`` meanwhile.

    Returns:
        ``(B, 2 D, *spatial)``, without gradient: the negative gradient, smoothed by a Gaussian of one voxel, in units of
        its root mean square over the item; and the same divided by the local root mean square.
    """
    with torch.inference_mode(False), eval_mode(*modules), torch.enable_grad():
        here = field.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(here), here)
    axes = tuple(range(1, gradient.ndim))
    unit = gradient.square().mean(axes, keepdim=True).sqrt()
    force = -gradient / torch.where(unit > 0, unit, 1)
    kernel = [on_device(_kernel(), force)] * (force.ndim - 2)  # MONAI's GaussianFilter reads its width from the device
    average, squares = (separable_filtering(x, kernel) for x in (force, force.square().sum(1, keepdim=True)))
    return torch.cat((average, average / (squares + MIN_RELATIVE_SQUARED_FORCE).sqrt()), 1)


def _kernel() -> np.ndarray:
    """A Gaussian of one voxel, ``(9,)``."""
    return gaussian_1d(torch.ones((), dtype=torch.float32, device="cpu")).numpy()
