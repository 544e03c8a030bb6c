# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The local learned-basis correlation ratio loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import LossReduction, ensure_tuple_rep, look_up_option
from torch import nn

from ..autograd import transforms_active
from ..networks.basis import LearnedBasis, PolynomialBasis
from ..precision import full_precision
from ..recent import Recent
from .base import PairLoss, clamped_weight
from .functional import FORMS, LocalMoments, local_fit, local_moments, unexplained_share, window_values
from .intensity import rescale
from .options import WindowOptions
from .window_grid import WindowGrid
from .windows import GridPlan

__all__ = ["LocalLearnedBasisCRLoss"]


class LocalLearnedBasisCRLoss(PairLoss):
    """Local correlation ratio with basis functions that are learned together with the deformation.

    Around every window center the target (fixed image) is modeled as a linear combination of a few basis functions
    of the prediction (warped moving image); the coefficients are solved for in closed form and the loss is the
    mean over windows and target channels of ``log(R + eps)``, R being the residual of the fit. It needs no common
    intensity scale, only that locally one image is a function of the other.

    Reference: Honkamaa & Marttinen, "New multimodal similarity measure for image registration via modeling local functional
    dependence with linear combination of learned basis functions" (Locor), https://arxiv.org/abs/2503.05335.

    The basis is an ordinary module: pass ``loss.parameters()`` to the optimizer together with those of the deformation, and
    save ``loss.state_dict()`` with the network's. In ``train()`` the window grid is shifted at random by up to half a
    stride in every call, so that all voxels count equally; in ``eval()`` it is centered. MONAI's engines call neither
    on a loss: it stays in ``train()``, and a validation would use random windows. Call ``loss.eval()`` before
    validation and ``loss.train()`` after it, as :class:`monai_locor.handlers.RegistrationMetrics` does.

    The gradient is computed in closed form and streamed through the volume in slabs: neither basis values nor their products
    are held for the whole volume. A second derivative raises. ``torch.func.grad`` and
    ``vmap`` work; ``torch.compile`` leaves the loss out of its graphs. A basis module must act voxel by voxel and give the
    same output when called again with the same input.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: channels of ``pred``; ``target`` may have another number.
        num_basis: basis functions J of the learned basis.
        hidden_channels: hidden layers of the learned basis.
        basis: ``"learned"``, ``"polynomial"`` or a module that maps ``(B, in_channels, *spatial)`` to ``(B, J, *spatial)``.
        degree: total degree of the polynomial basis.
        kernel_sigma: standard deviation of the Gaussian window, voxels, one value or one per axis.
        truncated: where the window ends, in standard deviations.
        stride: distance between windows, voxels, one value or one per axis. An axis shorter than four strides has
            four windows at a smaller distance, or one per voxel.
        ridge: added to the diagonal of each window's normal equations.
        eps: floor of the residual in the logarithm, for rescaled images the loss then lies in about ``[log(eps), log(1)]``; in
            the other forms, floor of the variance in a window.
        form: ``"log"``, mean of ``log(R + eps)``; ``"normalized"``, mean of one minus the correlation ratio of the
            window, in [0, 1]; or ``"robust"``, between the two depending on the images: mean of ``2 sqrt(s) log(1 + q / s)``,
            q being R relative to the variance V of the target in the window, ``R / (V + eps)``, and s the mean of q over the
            windows, see :func:`.robust.robust_shares`.
        reduction: ``"mean"`` over windows, channels and items; ``"sum"``; or ``"none"``, the map over windows,
            ``(B, T, *windows)``, with 0 where a window does not count; see ``return_weights`` of :meth:`forward`.
        rescale: bring both images to about [0, 1] between robust quantiles, and exclude voxels that are not finite. The
            gradient includes that of the quantiles. Switch it off for images that are finite and normalized already.
        min_mass: a window counts when the weighted mean of ``mask`` over its voxels is at least this.
        memory_budget_mb: MiB that a call may hold in addition to inputs, results and window sums; by default 20 on a
            CPU and 2048 on a GPU.
        generator: CPU random generator of the window shift; by default torch's global one.
        fused: whether Triton kernels compute the window averages, the fits and their gradients, to the same result within 1e-5
            without holding products in memory. They need Triton, an NVIDIA GPU, three axes, float32 and a learned basis with
            two hidden layers; the fits only the first two, float32 and at most eight basis functions. None uses them where
            they can be used and never on a CPU; if they fail, a warning is logged once and they are not used again. False
            never uses them; True raises a ``ValueError`` with the reason where they cannot be used.

    Returns:
        A scalar, to be minimized (see ``reduction``).

    Example:
        >>> loss = LocalLearnedBasisCRLoss(spatial_dims=2)
        >>> pred, target = torch.rand(2, 1, 1, 16, 16)
        >>> loss(pred.requires_grad_(), target).backward()
        >>> pred.grad.shape, len(list(loss.parameters()))
        (torch.Size([1, 1, 16, 16]), 6)
    """

    kernel_sigma: tuple[float, ...]
    truncated: float
    stride: tuple[float, ...]
    ridge: float
    form: str
    fused: bool | None

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        num_basis: int = 5,
        hidden_channels: Sequence[int] = (16, 16),
        basis: str | nn.Module = "learned",
        degree: int = 3,
        kernel_sigma: float | Sequence[float] = 0.8,
        truncated: float = 3.0,
        stride: float | Sequence[float] = 3,
        ridge: float = 1e-4,
        eps: float = 1e-4,
        form: str = "log",
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        min_mass: float = 0.25,
        memory_budget_mb: float | None = None,
        generator: torch.Generator | None = None,
        fused: bool | None = None,
    ) -> None:
        windows = WindowOptions(kernel_sigma, truncated, stride, min_mass, memory_budget_mb, generator)
        fit = {"in_channels": in_channels, "ridge": ridge, "eps": eps, "form": look_up_option(form, FORMS), "fused": fused}
        super().__init__(spatial_dims, reduction, windows, rescale=rescale, **fit)
        self.kernel_sigma, self.stride = (ensure_tuple_rep(value, spatial_dims) for value in (kernel_sigma, stride))
        self._plans = Recent[GridPlan](8)  # image sizes
        self._kept = Recent[Any](8)
        self.overwrite_pred = False  # for callers that do not use pred afterwards, see :func:`.functional.local_moments`
        if isinstance(basis, nn.Module):
            self.basis = basis
        elif look_up_option(basis, ("learned", "polynomial")) == "learned":
            self.basis = LearnedBasis(in_channels, num_basis, hidden_channels)
        else:
            self.basis = PolynomialBasis(in_channels, degree)

    @property
    def grid(self) -> WindowGrid:  # type: ignore[override]
        """The windows of the current options."""
        return WindowGrid(self.kernel_sigma, self.truncated, self.stride, every=True, plans=self._plans)

    @torch.no_grad()
    def unexplained_share(
        self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of the target's variance that the fit leaves: near 0 where each image is a function of the other.

        Args:
            pred, target, mask: as in :meth:`forward`, not rescaled here.

        Returns:
            one minus the correlation ratio of every window, in [0, 1], and the variance of the target in it; both
            ``(B, T, *windows)``, the variance zero where a window does not count.
        """
        with full_precision(pred.device):
            weight = None if mask is None else clamped_weight(mask, pred.dtype)
            return unexplained_share(self._moments(pred, target, weight, means=True), self.ridge, self.eps)

    def _evaluate(
        self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Skip the weights, which cost time, if no voxel is excluded; with ``rescale=False``, images are taken as finite."""
        if self.rescale and not (mask is None and _known_finite(pred, target)):
            return super()._evaluate(pred, target, mask)
        return *self._measure(pred, target, None if mask is None else clamped_weight(mask, pred.dtype)), None

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.rescale:
            valid = None if weight is None else weight > 0
            pred, target = rescale(pred, valid), rescale(target, valid)
        moments = self._moments(pred, target, weight, means=self.form != "log")
        fit = local_fit(moments, self.form, self.ridge, self.eps)
        return window_values(fit), moments.counts

    def _moments(self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, means: bool) -> LocalMoments:
        options: dict[str, Any] = {"kept": self._kept, "fused": self.fused, "constant_means": self.form == "robust"}
        options["overwrite"] = self.overwrite_pred
        return local_moments(self.basis, pred, target, weight, self._windows(pred), self.min_mass, means, **options)

    def _check_shapes(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        if pred.ndim != self.spatial_dims + 2 or pred.shape[1] != self.in_channels:
            raise ValueError(
                f"pred must be (batch, {self.in_channels}, {self.spatial_dims} spatial axes), got shape {tuple(pred.shape)}."
            )
        if target.ndim != pred.ndim or target.shape[0] != pred.shape[0] or target.shape[2:] != pred.shape[2:]:
            raise ValueError(
                f"target must have the batch and spatial size of pred, got {tuple(target.shape)} and {tuple(pred.shape)}."
            )


def _known_finite(*images: torch.Tensor) -> bool:
    """Whether all voxels are finite; False where finding out would wait for a device or a transform hides the values."""
    if images[0].device.type != "cpu" or transforms_active():
        return False
    return all(bool(image.detach().isfinite().all()) for image in images)
