# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The options that losses have in common, checked in one place."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["BinOptions", "RangeOptions", "WindowOptions", "check_options", "check_positive", "settings_text"]

POSITIVE = frozenset(
    {
        *("eps", "in_channels", "kernel_sigma", "memory_budget_mb", "num_patches", "patch_size", "ridge", "sigma_ratio"),
        *("spacing", "stride", "truncated"),
    }
)
# further conditions on an option, and their description
CONDITIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "min_mass": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "quantile": (lambda value: 0 <= value < 0.5, "in [0, 0.5)"),
    "spacing": (lambda value: value == int(value), "a whole number of voxels"),
}


@dataclass(frozen=True)
class BinOptions:
    """The bins of a measure that is made of histograms.

    Attributes:
        num_bins: bins, at least two.
        kernel_type: Parzen window, ``"gaussian"`` (normalized over the bins) or ``"spline"`` (two bins wide).
        sigma_ratio: standard deviation of the Gaussian, in distances between bins.
    """

    num_bins: int
    kernel_type: str
    sigma_ratio: float


@dataclass(frozen=True)
class RangeOptions:
    """The intensity range over which bins are laid.

    Attributes:
        rescale: whether to bring images to [0, 1] between two quantiles; otherwise they are clamped to [0, 1].
        quantile: share of voxels below the low and above the high end, in [0, 0.5); 0 is minimum and maximum.
        freeze_range: whether to keep the range of the first call.
    """

    rescale: bool
    quantile: float
    freeze_range: bool


@dataclass(frozen=True)
class WindowOptions:
    """The windows of a local measure, and how they are evaluated.

    Attributes:
        kernel_sigma: standard deviation of the Gaussian window, voxels, one value or one per axis.
        truncated: where the window ends, in standard deviations.
        stride: distance between windows, voxels, one value or one per axis.
        min_mass: mean weight of its voxels from which a window counts, in (0, 1].
        memory_budget_mb: MiB of working memory of a call; None for the default of the device.
        generator: CPU random generator of the window shift; None for torch's global one.
    """

    kernel_sigma: float | Sequence[float]
    truncated: float
    stride: float | Sequence[float]
    min_mass: float
    memory_budget_mb: float | None
    generator: torch.Generator | None


def check_options(**options: Any) -> None:
    """Raise ValueError for an option of a loss that its name does not allow.

    Options of other names are not checked.
    """
    check_positive(**{name: value for name, value in options.items() if name in POSITIVE})
    for name, value in options.items():
        condition, description = CONDITIONS.get(name, (None, ""))
        if condition is not None and not condition(value):
            raise ValueError(f"{name} must be {description}, got {value}.")


def check_positive(**options: float | Sequence[float] | None) -> None:
    """Raise ValueError for an option, or an entry of one, that is not a positive finite number; None is allowed."""
    for name, value in options.items():
        values = () if value is None else value if isinstance(value, Sequence) else (value,)
        if not all(isinstance(v, int | float) and 0 < v < math.inf for v in values):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def settings_text(module: nn.Module) -> str:
    """The options of a module for its ``extra_repr``: arguments of its class that are plain attributes."""
    names = [name for name in inspect.signature(type(module)).parameters if name != "generator"]
    shown = {name: getattr(module, name, module) for name in names}
    return ", ".join(f"{name}={v!r}" for name, v in shown.items() if not isinstance(v, nn.Module))
