# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The base of the losses: checks, weights of voxels, precision and reduction."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..autograd import transforms_active
from ..precision import full_precision
from ..tensors import plain
from .options import BinOptions, RangeOptions, WindowOptions, check_options, settings_text
from .streaming import StreamedWindows, slab_budget
from .window_grid import StaticWindows, WindowGrid

__all__ = ["PairLoss", "clamped_weight", "finite_in_both", "reduced"]

MIN_TOTAL_WEIGHT = 1e-30  # where nothing counts, the mean is 0 / this


class PairLoss(_Loss):
    """Base of the losses of this package: similarity of two images, to be minimized.

    It checks inputs and options, excludes voxels, computes in full precision and reduces. Subclasses implement
    :meth:`_measure`. Nothing here or there waits for a GPU: no value comes back to the host and no shape depends on data.

    Args:
        spatial_dims: one of ``dims``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        groups: option dataclasses of :mod:`.options`.
        dims: numbers of spatial axes for which the measure is defined.
        options: further options of the subclass. All options are checked by :func:`.options.check_options` and become
            attributes of the loss.

    Raises:
        ValueError: for an option out of its range.
    """

    rescale: bool
    eps: float
    min_mass: float
    memory_budget_mb: float | None
    generator: torch.Generator | None
    grid: WindowGrid | None = None  # of the measures that average over windows
    _static: StaticWindows | None = None

    def __init__(
        self,
        spatial_dims: int,
        reduction: LossReduction | str,
        *groups: BinOptions | RangeOptions | WindowOptions,
        dims: Sequence[int] = (1, 2, 3),
        **options: Any,
    ) -> None:
        super().__init__(reduction=LossReduction(reduction).value)
        if spatial_dims not in dims:
            raise ValueError(f"spatial_dims must be one of {tuple(dims)}, got {spatial_dims}.")
        every = {name: value for group in groups for name, value in vars(group).items()} | options
        check_options(**every)
        self.spatial_dims = spatial_dims
        for name, value in every.items():
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return settings_text(self)

    def static_windows(
        self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> StaticWindows | None:
        """The random windows of this loss in memory that stays in place, for a CUDA graph.

        ``static.draw()`` before each replay draws the next shift, in the order of ordinary calls, and copies the windows to
        the device.

        Args:
            shape: of the images, without batch and channels.
            device: of the images.
            dtype: of the images, at least float32.

        Returns:
            the windows, see :meth:`windows_from`; None if no windows are drawn: by a measure without windows, in ``eval()``,
            and with a window on every voxel of a measure that does not shift those.

        Example:
            >>> from monai_locor.losses import LocalNCCLoss
            >>> loss, image = LocalNCCLoss(spatial_dims=2, stride=3), torch.rand(1, 1, 20, 20)
            >>> static = loss.static_windows((20, 20), "cpu")
            >>> static.draw()
            >>> with loss.windows_from(static):
            ...     value = loss(image, image)
        """
        if self.grid is None:
            return None
        placed = torch.empty(0, device=device).device  # with its index
        return self.grid.static(shape, self.training, placed, dtype, self.generator)

    @contextlib.contextmanager
    def windows_from(self, static: StaticWindows | None) -> Iterator[None]:
        """Context manager: calls use these windows instead of drawing their own.

        Args:
            static: of :meth:`static_windows`; None changes nothing.
        """
        before, self._static = self._static, static
        try:
            yield
        finally:
            self._static = before

    def _windows(self, image: torch.Tensor) -> StreamedWindows:
        """The windows of a call with images ``(B, C, *spatial)``, drawn here if they are random."""
        assert self.grid is not None
        static = self._static
        axes = self.grid.axes(image, self.training, self.generator) if static is None else static.axes(image)
        return StreamedWindows(axes, slab_budget(image.device, self.memory_budget_mb))

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
            target: fixed image, of the same shape; a loss with ``in_channels`` takes that many channels of ``pred`` and any
                number of ``target``.
            mask: weights of the voxels, clamped to [0, 1], shape ``(1 or B, 1, H[, W[, D]])``; carries no gradient. Voxels
                that are not finite in either image get weight zero.
            return_weights: with reduction ``"none"``, also return the weights of the values, of their shape. A value that
                does not count is 0 and has weight 0, which distinguishes it from a value of 0.

        Returns:
            The loss, see :func:`reduced`; or the pair of values and weights.

        Raises:
            ValueError: when shapes do not fit, a dtype is not floating point, or weights are asked for with a reduction.
        """
        pred, target, mask = plain(pred), plain(target), None if mask is None else plain(mask)
        self._check_input(pred, target, mask)
        with full_precision(pred.device):
            dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
            values, weights, some = self._evaluate(pred.to(dtype), target.to(dtype), mask)
            return _result(values, weights, some, self.reduction, return_weights)

    def _evaluate(
        self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Values and weights of :meth:`_measure`; and whether any voxel is finite in both images, a tensor of one bool."""
        finite = finite_in_both(pred, target)
        weight = finite.to(pred.dtype) if mask is None else torch.where(finite, clamped_weight(mask, pred.dtype), 0)
        valid = weight > 0
        # a NaN of weight zero would still be a NaN
        pred, target = torch.where(valid, pred, 0), torch.where(valid, target, 0)
        return *self._measure(pred, target, weight), finite.any()

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
        self._check_shapes(pred, target)
        if 0 in pred.shape or 0 in target.shape:
            raise ValueError(f"pred and target must not be empty, got {tuple(pred.shape)} and {tuple(target.shape)}.")
        for name, image in (("pred", pred), ("target", target)):
            if not image.is_floating_point():
                raise ValueError(f"{name} must be a floating point tensor, got {image.dtype}; convert it with .float().")
        if mask is not None and (
            mask.ndim != pred.ndim or mask.shape[0] not in (1, len(pred)) or mask.shape[1:] != (1, *pred.shape[2:])
        ):
            raise ValueError(f"mask must be (1 or {len(pred)}, 1, {tuple(pred.shape[2:])}), got {tuple(mask.shape)}.")

    def _check_shapes(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        if pred.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"pred must be (batch, channels, {self.spatial_dims} spatial axes), got shape {tuple(pred.shape)}."
            )
        if target.shape != pred.shape:
            raise ValueError(f"target must have the shape of pred, got {tuple(target.shape)} and {tuple(pred.shape)}.")


def finite_in_both(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Whether all channels of both images are finite, ``(B, 1, *spatial)`` bool."""
    first, second = (
        image.detach().isfinite() if image.shape[1] == 1 else image.detach().isfinite().all(1, keepdim=True)
        for image in (pred, target)
    )
    return first & second


def clamped_weight(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as weights in [0, 1], without gradient; NaN becomes zero. A mask of such weights is not copied on a CPU."""
    weight = mask.detach().to(dtype)
    # elsewhere, the comparison would wait for the device; a dispatch mode may record what is repeated with other masks
    if weight.device.type == "cpu" and not transforms_active() and _get_current_dispatch_mode() is None:
        low, high = weight.aminmax()
        if bool(low >= 0) and bool(high <= 1):  # false for NaN
            return weight
    return weight.nan_to_num(0).clamp_(0, 1)


def reduced(values: torch.Tensor, weights: torch.Tensor | None, reduction: str) -> torch.Tensor:
    """The reduction of a loss's values, the same for all measures.

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
        values = values.masked_fill(~weights if weights.dtype == torch.bool else weights <= 0, 0)
    if reduction == LossReduction.NONE.value:
        return values
    if reduction == LossReduction.SUM.value:
        return values.sum()
    if reduction != LossReduction.MEAN.value:
        raise ValueError(f'Unsupported reduction: {reduction}, available options are ["mean", "sum", "none"].')
    if weights is None:
        return values.mean()
    total = weights.flatten(2).sum(2, dtype=values.dtype).clamp_min(MIN_TOTAL_WEIGHT)
    each = values.flatten(2).sum(2) / total
    return each.reshape(()) if each.numel() == 1 else each.mean()


def _result(
    values: torch.Tensor,
    weights: torch.Tensor | None,
    some: torch.Tensor | None,
    reduction: str,
    return_weights: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """:func:`reduced`; with ``return_weights``, the values and their weights, ``(B, C, ...)`` in the dtype of the values.

    Args:
        values, weights, reduction: see :func:`reduced`.
        some: whether any voxel is finite in both images, a tensor of one bool. If none is, as after a training that diverged,
            the result is NaN, since 0 would look like a good score. No device is waited for.
        return_weights: see :meth:`PairLoss.forward`.

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
