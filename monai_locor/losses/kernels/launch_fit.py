# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The residuals of the ridge regressions of all windows, and their gradient, by the kernels of :mod:`.device_fit`."""

from __future__ import annotations

from typing import Any

import torch

from .choice import FitOptions
from .device_fit import residual_gradient_kernel, residual_kernel
from .network import power_of_two

__all__ = ["residual", "residual_gradient"]

WINDOWS = 32  # per program, of one warp


def residual(options: FitOptions, maps: torch.Tensor) -> torch.Tensor:
    """The residuals, clamped at zero, ``(B, T, windows)``, from maps ``(B, P, windows)``."""
    maps = maps.contiguous()
    out = maps.new_empty(len(maps), options.channels, maps.shape[2])
    _launch(residual_kernel, options, maps, out)
    return out


def residual_gradient(options: FitOptions, maps: torch.Tensor, residual: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The gradient of the maps, ``(B, P, windows)``, from that of the residuals."""
    maps = maps.contiguous()
    out = torch.empty_like(maps)
    used = sum(options.rows)
    if used < maps.shape[1]:
        out[:, used:].zero_()
    _launch(residual_gradient_kernel, options, maps, residual, grad.contiguous(), out)
    return out


def _launch(kernel: Any, options: FitOptions, maps: torch.Tensor, *tensors: torch.Tensor) -> None:
    with torch.cuda.device_of(maps):
        kernel[(-(-maps.shape[2] // WINDOWS), len(maps))](
            maps,
            *tensors,
            *maps.shape[1:],
            float(options.ridge),
            float(options.eps or 0),
            J=options.size,
            T=options.channels,
            JP=power_of_two(options.size),
            TP=power_of_two(options.channels),
            STANDARDIZED=options.eps is not None,
            R=WINDOWS,
            num_warps=1,
        )
