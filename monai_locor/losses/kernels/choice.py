# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whether a local Gram matrix is computed by the Triton kernels or by the portable path."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import nn

from ...networks.basis import LearnedBasis
from ..products import LocalGram
from ..streaming import StreamedWindows

if TYPE_CHECKING:
    from .launch import FusedGram

__all__ = [
    "FitOptions",
    "fused_average",
    "fused_gradients",
    "fused_residual",
    "fused_residual_gradient",
    "is_plain",
    "solves",
    "unsupported",
]

Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
T = TypeVar("T")

HIDDEN_LAYERS, MAX_HIDDEN_UNITS, MAX_INPUT_CHANNELS = 2, 32, 15
MAX_FEATURES = 12  # basis functions, target channels and root weights: their products are accumulated in registers
MAX_FIT_SIZE, MAX_FIT_CHANNELS = 8, 4  # basis functions and target channels of the systems that a thread holds in registers
MAX_WINDOW_VOXELS, MAX_VOXEL_WINDOWS = 1000, 64  # beyond, filtering one axis after another is faster
MIN_COMPUTE_CAPABILITY = (8, 0)
MAX_INDEX = 2**31 - 1

_logger = logging.getLogger(__name__)
_failed: set[torch.device] = set()


def fused_average(
    gram: LocalGram, windows: StreamedWindows, images: Images, parameters: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, FusedGram] | None:
    """The maps ``(B, P, *windows)`` from the kernels, and what made them; None where the portable path is to compute them.

    Args:
        gram: the products; ``gram.fused`` is the caller's choice.
        windows: where they are averaged.
        images: pred, target and the weights of the voxels or None.
        parameters: those of the basis that need a gradient, by name.

    Raises:
        ValueError: if ``gram.fused`` is True where the kernels cannot compute this.
    """
    return _attempt(gram, windows, images, parameters, None, lambda fused: (fused.average(), fused))


def fused_gradients(
    gram: LocalGram,
    windows: StreamedWindows,
    images: Images,
    parameters: Mapping[str, torch.Tensor],
    grad: torch.Tensor,
    needs: tuple[bool, bool],
    made: FusedGram | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None, list[torch.Tensor]] | None:
    """The gradients of pred, target and parameters from that of the maps; arguments as in :func:`fused_average`.

    Args:
        grad: gradient of the maps.
        needs: whether pred and target need a gradient.
        made: of the forward pass; by default made again.
    """
    return _attempt(gram, windows, images, parameters, made, lambda fused: fused.gradients(grad, *needs))


@dataclass(frozen=True)
class FitOptions:
    """The ridge regressions of windows.

    Attributes:
        size: basis functions J.
        channels: of the target, T.
        ridge: positive.
        eps: floor of the variance that the target is standardized by; None if it is not.
    """

    size: int
    channels: int
    ridge: float
    eps: float | None = None

    @property
    def rows(self) -> list[int]:
        """Numbers of rows of the maps that are read: of A, c, b and, to standardize, the means of the basis and the target."""
        sizes = [self.size * (self.size + 1) // 2, self.size * self.channels, self.channels]
        return sizes if self.eps is None else [*sizes, self.size, self.channels]


def solves(options: FitOptions, maps: torch.Tensor, fused: bool | None) -> bool:
    """Whether the kernels compute the residuals from these maps; larger systems are left to the portable path.

    Args:
        options: the regressions.
        maps: rows of A, c, b and, to standardize, of the means, ``(B, P, ...)``.
        fused: the caller's choice.
    """
    if not _asked_for(fused, maps.device):
        return False
    plain = is_plain(maps) and maps.dtype == torch.float32 and maps[0].numel() <= MAX_INDEX
    small = options.size <= MAX_FIT_SIZE and options.channels <= MAX_FIT_CHANNELS
    return plain and small and not _of_machine(maps.device)


def fused_residual(options: FitOptions, maps: torch.Tensor, fused: bool | None) -> torch.Tensor | None:
    """The residuals, ``(B, T, windows)``, from maps ``(B, P, windows)``; None if the kernels fail."""

    def run() -> torch.Tensor:
        from .launch_fit import residual

        return residual(options, maps)

    return _unless_it_fails(run, fused, maps.device)


def fused_residual_gradient(
    options: FitOptions, maps: torch.Tensor, residual: torch.Tensor, grad: torch.Tensor, fused: bool | None
) -> torch.Tensor | None:
    """The gradient of the maps from that of the residuals; None if the kernels fail or have failed."""
    if not _asked_for(fused, maps.device):
        return None

    def run() -> torch.Tensor:
        from .launch_fit import residual_gradient

        return residual_gradient(options, maps, residual, grad)

    return _unless_it_fails(run, fused, maps.device)


def _attempt(
    gram: LocalGram,
    windows: StreamedWindows,
    images: Images,
    parameters: Mapping[str, torch.Tensor],
    made: FusedGram | None,
    compute: Callable[[FusedGram], T],
) -> T | None:
    device = images[0].device
    if not _asked_for(gram.fused, device):
        return None
    reason = "" if made is not None else unsupported(gram, windows, images, parameters)
    if reason:
        if gram.fused:
            raise ValueError(f"fused=True is not possible: {reason}; use fused=None, which then computes without Triton.")
        return None

    def run() -> T:
        from .launch import FusedGram

        return compute(made or FusedGram(gram, windows, images, parameters))

    return _unless_it_fails(run, gram.fused, device)


def _unless_it_fails(run: Callable[[], T], fused: bool | None, device: torch.device) -> T | None:
    """What kernels return; None if they fail, in which case a device is not given to them again."""
    try:
        return run()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver raises must not end a registration
        if fused:
            raise
        _failed.add(device)
        text = str(error).strip().split("\n")[0]
        _logger.warning(f"Triton failed on {device} ({type(error).__name__}: {text}); the loss is computed without it.")
        return None


def _asked_for(fused: bool | None, device: torch.device) -> bool:
    """Whether the kernels are to be used if they can be."""
    return device.type == "cuda" and device not in _failed if fused is None else fused


def unsupported(gram: LocalGram, windows: StreamedWindows, images: Images, parameters: Mapping[str, torch.Tensor]) -> str:
    """Why the kernels cannot compute this; empty if they can. Waits for no device."""
    checks = (
        lambda: _of_basis(gram),
        lambda: _of_tensors(images, parameters, gram),
        lambda: _of_machine(images[0].device),
        lambda: _of_windows(windows, gram),
    )
    return next((reason for reason in (check() for check in checks) if reason), "")


def _of_machine(device: torch.device) -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device.type != "cuda" or not torch.version.cuda:
        return f"the images are on {device}, and it needs a GPU of NVIDIA"
    if torch.cuda.get_device_capability(device) < MIN_COMPUTE_CAPABILITY:
        return f"{device} has a compute capability below {MIN_COMPUTE_CAPABILITY[0]}.{MIN_COMPUTE_CAPABILITY[1]}"
    return ""


def _of_basis(gram: LocalGram) -> str:
    basis = gram.basis
    if type(basis) is not LearnedBasis or basis.changed():
        return "the basis is not a plain LearnedBasis"
    hidden = [layer.out_features for layer in cast("list[nn.Linear]", basis.layers)][:-1]
    if len(hidden) != HIDDEN_LAYERS or max(hidden) > MAX_HIDDEN_UNITS:
        return f"the hidden layers are {hidden}, not {HIDDEN_LAYERS} of at most {MAX_HIDDEN_UNITS} units"
    if basis.in_channels > MAX_INPUT_CHANNELS:
        return f"the basis has {basis.in_channels} input channels, more than {MAX_INPUT_CHANNELS}"
    features = gram.num_basis + gram.channels + (gram.first_moments or gram.masked)
    return f"{features} features, more than {MAX_FEATURES}" if features > MAX_FEATURES else ""


def _of_tensors(images: Images, parameters: Mapping[str, torch.Tensor], gram: LocalGram) -> str:
    given = [image for image in images if image is not None]
    weights = [*gram.basis.parameters(), *parameters.values()]  # type: ignore[attr-defined]
    if not is_plain(*given, *weights):
        return "a tensor is of a class of its own"
    if any(image.dtype != torch.float32 for image in given):
        return "the images are not float32"
    if any(x.device != images[0].device for x in (*given, *weights)):
        return "images and basis are on different devices"
    if images[0].ndim != 5:
        return "the images do not have three axes"
    largest = max(image[0].numel() for image in given)
    return "the images have too many voxels" if largest > MAX_INDEX else ""


def is_plain(*tensors: torch.Tensor) -> bool:
    """Whether tensors are of no class of their own, whose memory a kernel could not read."""
    return all(type(x) in (torch.Tensor, nn.Parameter) for x in tensors)


def _of_windows(windows: StreamedWindows, gram: LocalGram) -> str:
    overlaps = [axis.overlap for axis in windows.windows]
    if any(overlap is None for overlap in overlaps) or len({id(getattr(axis, "source", axis)) for axis in windows.windows}) > 1:
        return "the windows are not of one kernel"
    voxels, covering = (math.prod(overlap[i] for overlap in overlaps if overlap) for i in (0, 1))
    if voxels > MAX_WINDOW_VOXELS or covering > MAX_VOXEL_WINDOWS:
        return f"windows of {voxels} voxels, {covering} around a voxel, are too large"
    largest = (gram.num_basis + gram.channels + 1) ** 2 * math.prod(windows.window_shape)
    return "there are too many windows" if largest > MAX_INDEX else ""
