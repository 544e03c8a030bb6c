# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the measures that compare images channel by channel have in common: checks, weights, precision, reduction."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from monai.utils import LossReduction
from torch import nn
from torch.nn.modules.loss import _Loss

from ..precision import full_precision
from ..tensors import plain

__all__ = ["PairLoss", "answer", "check_positive", "check_types", "reduced", "settings_text"]


def check_positive(**options: float | Sequence[float] | None) -> None:
    """Raise ValueError for an option, or an entry of one, that is not a positive finite number; None is allowed."""
    for name, value in options.items():
        values = () if value is None else value if isinstance(value, Sequence) else (value,)
        if not all(isinstance(v, int | float) and 0 < v < math.inf for v in values):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_types(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Raise ValueError for images that are not floating point, and for a mask that does not fit them."""
    for name, image in (("pred", pred), ("target", target)):
        if not image.is_floating_point():
            raise ValueError(f"{name} must be a floating point tensor, got {image.dtype}; convert it with .float().")
    if mask is not None and (
        mask.ndim != pred.ndim or mask.shape[0] not in (1, len(pred)) or mask.shape[1:] != (1, *pred.shape[2:])
    ):
        raise ValueError(f"mask must be (1 or {len(pred)}, 1, {tuple(pred.shape[2:])}), got {tuple(mask.shape)}.")


def reduced(values: torch.Tensor, weights: torch.Tensor | None, reduction: str) -> torch.Tensor:
    """What a loss returns of its values, the same for all measures.

    ``"none"`` is the values, ``"sum"`` their sum, and ``"mean"`` their sum divided by the sum of the weights. The mean is
    taken item by item and channel by channel first, so that a pair counts the same whatever the overlap of its neighbor in
    the batch. Where everything counts, it is the plain mean of the values.

    Args:
        values: one for each place, ``(B, C, ...)``, already multiplied by their weights.
        weights: in [0, 1] or bool, of that shape or with one channel; None where everything counts. Values of weight 0
            are set to zero.
        reduction: one of MONAI's ``LossReduction``.

    Raises:
        ValueError: for another reduction.
    """
    if weights is not None:
        values = torch.where(weights > 0, values, 0)
    if reduction == LossReduction.NONE.value:
        return values
    if reduction == LossReduction.SUM.value:
        return values.sum()
    if reduction != LossReduction.MEAN.value:
        raise ValueError(f'Unsupported reduction: {reduction}, available options are ["mean", "sum", "none"].')
    if weights is None:
        return values.mean()
    total = weights.flatten(2).sum(2)
    return (values.flatten(2).sum(2) / torch.where(total > 0, total, 1)).mean()


def answer(
    values: torch.Tensor,
    weights: torch.Tensor | None,
    reduction: str,
    return_weights: bool,
    some: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """:func:`reduced`; with ``return_weights``, the values and their weights, ``(B, C, ...)`` in the dtype of the values.

    Args:
        some: whether any voxel is finite in both images, a tensor of one bool. If none is, as after a training that diverged,
            the answer is NaN, since 0 would look like a good score. No device is waited for.

    Raises:
        ValueError: for another reduction, or for weights beside a single number.
    """
    out = reduced(values, weights, reduction)
    if some is not None:
        out = out + (some / some - 1).to(out.dtype)  # 0, or NaN, without a gradient
    if not return_weights:
        return out
    if reduction != LossReduction.NONE.value:
        raise ValueError(f'return_weights goes with reduction "none", got reduction {reduction!r}.')
    every = torch.ones_like(values) if weights is None else weights.to(values.dtype).expand_as(values)
    return out, every


def settings_text(module: nn.Module) -> str:
    """What a module was made with, for its ``extra_repr``: the arguments of its class that it has as plain attributes."""
    names = [name for name in inspect.signature(type(module)).parameters if name != "generator"]
    shown = {name: getattr(module, name, module) for name in names}
    return ", ".join(f"{name}={v!r}" for name, v in shown.items() if not isinstance(v, nn.Module))


class PairLoss(_Loss):
    """Base of the losses that compare channel c of one image with channel c of the other, to be minimized.

    Subclasses implement :meth:`_measure`. Nothing here or there waits for a GPU: no value comes back to the host and no
    shape depends on data.

    Args:
        spatial_dims: one of ``dims``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        dims: numbers of spatial axes for which the measure is defined.
    """

    def __init__(self, spatial_dims: int, reduction: LossReduction | str, dims: Sequence[int] = (1, 2, 3)) -> None:
        super().__init__(reduction=LossReduction(reduction).value)
        if spatial_dims not in dims:
            raise ValueError(f"spatial_dims must be one of {tuple(dims)}, got {spatial_dims}.")
        self.spatial_dims = spatial_dims

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return settings_text(self)

    @torch.compiler.disable(reason="the losses stream images through loops that are faster as they are")
    def forward(
        self,
        pred: torch.Tensor,
        target: torch.Tensor,
        mask: torch.Tensor | None = None,
        return_weights: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            pred: warped moving image, BCH[W[D]].
            target: fixed image, of the same shape.
            mask: weights of the voxels, clamped to [0, 1], shape ``(1 or B, 1, H[, W[, D]])``; carries no gradient. Voxels
                that are not finite in either image get weight zero.
            return_weights: with reduction ``"none"``, also return the weights of the values, of their shape. A value that
                does not count is 0 and has weight 0, which tells it from one that is 0.

        Returns:
            The loss, see :func:`reduced`; or the pair of values and weights.

        Raises:
            ValueError: when shapes do not fit, a dtype is not floating point, or weights are asked for with a reduction.
        """
        pred, target, mask = plain(pred), plain(target), None if mask is None else plain(mask)
        self._check_input(pred, target, mask)
        with full_precision(pred.device):
            dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
            pred, target = pred.to(dtype), target.to(dtype)
            weight, some = _weights(pred, target, mask)
            valid = weight > 0
            # a NaN of weight zero would still be a NaN
            pred, target = torch.where(valid, pred, 0), torch.where(valid, target, 0)
            return answer(*self._measure(pred, target, weight), self.reduction, return_weights, some)

    @abstractmethod
    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values ``(B, C, ...)`` and their weights, see :func:`reduced`.

        The images ``(B, C, *spatial)`` are finite, and zero where the weights ``(B, 1, *spatial)`` are.
        """

    @staticmethod
    def _flat(image: torch.Tensor) -> torch.Tensor:
        """Items and channels in one axis, voxels in another: ``(B, C, *spatial)`` to ``(B C, voxels)``."""
        return image.flatten(0, 1).flatten(1)

    def _check_input(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> None:
        if pred.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"pred must be (batch, channels, {self.spatial_dims} spatial axes), got shape {tuple(pred.shape)}."
            )
        if target.shape != pred.shape:
            raise ValueError(f"target must have the shape of pred, got {tuple(target.shape)} and {tuple(pred.shape)}.")
        if 0 in pred.shape:
            raise ValueError(f"pred and target must not be empty, got shape {tuple(pred.shape)}.")
        check_types(pred, target, mask)


def _weights(pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in the dtype of pred, in [0, 1], zero where an image is not finite, ``(B, 1, *spatial)``; and whether any is."""
    finite = (pred.detach().isfinite() & target.detach().isfinite()).all(1, keepdim=True)
    if mask is None:
        return finite.to(pred.dtype), finite.any()
    return torch.where(finite, mask.detach().to(pred.dtype).nan_to_num(0).clamp(0, 1), 0), finite.any()
