# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which way the loss pulls, as input of a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.networks.utils import eval_mode
from torch import nn

from ..tensors import on_device

__all__ = ["force_channels", "forces"]

FLOOR = 0.05  # of the mean square force: where there is less, the direction alone is not made the whole


def force_channels(spatial_dims: int) -> int:
    """Number of channels of :func:`forces`."""
    return 2 * spatial_dims


def forces(
    loss: Callable[[torch.Tensor], torch.Tensor], field: torch.Tensor, modules: tuple[nn.Module, ...] = ()
) -> torch.Tensor:
    """The descent direction of a loss at a deformation, as smooth as its neighborhood and free of the loss's scale.

    A network of matching and smoothing has to learn from many pairs how to compare two contrasts. The loss knows: its
    gradient says at every voxel which way it falls, and a network that is given it has only to learn how far to go and
    what belongs together.

    Args:
        loss: of a field like the one below.
        field: where to look, ``(B, D, *spatial)``, for instance zeros.
        modules: what the loss consists of; put into ``eval()`` meanwhile.

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
    return torch.cat((average, average / (squares + FLOOR).sqrt()), 1)


def _kernel() -> np.ndarray:
    """A Gaussian of one voxel, ``(9,)``."""
    return gaussian_1d(torch.ones((), dtype=torch.float32, device="cpu")).numpy()
