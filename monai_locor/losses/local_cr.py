# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The local learned-basis correlation ratio loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.utils import LossReduction, ensure_tuple_rep, look_up_option
from torch import nn
from torch.nn.modules.loss import _Loss

from ..autograd import transforms_active
from ..networks.basis import LearnedBasis, PolynomialBasis
from ..precision import full_precision
from ..recent import Recent
from ..tensors import plain
from .base import answer, check_types, settings_text
from .gram import LocalGram, local_gram
from .intensity import rescale
from .ridge import ridge_residual
from .window_grid import WindowGrid, per_mass, slab_budget
from .windows import WindowPlan

__all__ = ["LocalLearnedBasisCRLoss"]


class LocalLearnedBasisCRLoss(_Loss):
    """Local correlation ratio with basis functions that are learned together with the deformation.

    Around every window center the target (fixed image) is modeled as a linear combination of a few basis functions
    of the prediction (warped moving image); the coefficients are solved for in closed form and the loss is the
    mean over windows and target channels of ``log(R + eps)``, R being the residual of the fit. It needs no common
    intensity scale, only that locally the one image is a function of the other.

    Reference: Honkamaa & Marttinen, "New multimodal similarity measure for image registration via modeling local functional
    dependence with linear combination of learned basis functions" (Locor), https://arxiv.org/abs/2503.05335.

    The basis is an ordinary module: hand ``loss.parameters()`` to the optimizer beside those of the deformation and
    save ``loss.state_dict()`` beside the network's. In ``train()`` the window grid is shifted at random by up to half a
    stride in every call, so that all voxels count equally; in ``eval()`` it is centered. MONAI's engines never call either
    on a loss: it stays in ``train()``, and a validation that uses it sees random windows. Call ``loss.eval()`` before
    validation and ``loss.train()`` after it, as :class:`monai_locor.handlers.RegistrationMetrics` does.

    The gradient is the exact closed form, streamed through the volume in slabs: neither basis values nor their
    products are ever held for the whole volume. It can be taken once: a second derivative raises. ``torch.func.grad`` and
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
        stride: distance between windows, voxels, one value or one per axis. An axis of less than four strides has four
            windows all the same, or one for every voxel.
        ridge: added to the diagonal of each window's normal equations.
        eps: floor of the residual in the logarithm; its range is about ``[log(eps), log(1)]`` for rescaled images.
        form: ``"log"``, mean of ``log(R + eps)``; or ``"normalized"``, mean of one minus the correlation ratio of the
            window, in [0, 1].
        reduction: ``"mean"`` over windows, channels and items; ``"sum"``; or ``"none"``, the map over windows,
            ``(B, T, *windows)``, with 0 where a window does not count; see ``return_weights`` of :meth:`forward`.
        rescale: bring both images to about [0, 1] by robust quantiles and give voxels that are not finite no weight. The
            gradient includes that of the quantiles. Switch off when the images are finite and normalized already.
        min_mass: a window counts when the weighted mean of ``mask`` over its voxels is at least this.
        memory_budget_mb: MiB that a call may hold beside its inputs, results and the sums of the windows; by default 20 on a
            CPU and 2048 on a GPU.
        generator: CPU random generator of the window shift; by default torch's global one.

    Returns:
        A scalar, to be minimized (see ``reduction``).

    Example:
        >>> loss = LocalLearnedBasisCRLoss(spatial_dims=2)
        >>> pred, target = torch.rand(2, 1, 1, 16, 16)
        >>> loss(pred.requires_grad_(), target).backward()
        >>> pred.grad.shape, len(list(loss.parameters()))
        (torch.Size([1, 1, 16, 16]), 6)
    """

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
    ) -> None:
        super().__init__(reduction=LossReduction(reduction).value)
        if spatial_dims not in (1, 2, 3):
            raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}.")
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.kernel_sigma: tuple[float, ...] = ensure_tuple_rep(kernel_sigma, spatial_dims)
        self.stride: tuple[float, ...] = ensure_tuple_rep(stride, spatial_dims)
        self.form = look_up_option(form, ("log", "normalized"))
        self.truncated, self.ridge, self.eps = truncated, ridge, eps
        self.rescale, self.min_mass = rescale, min_mass
        self.memory_budget_mb, self.generator = memory_budget_mb, generator
        self._plans = Recent[WindowPlan](24)  # three axes of eight image sizes
        self._check_options()
        if isinstance(basis, nn.Module):
            self.basis = basis
        elif look_up_option(basis, ("learned", "polynomial")) == "learned":
            self.basis = LearnedBasis(in_channels, num_basis, hidden_channels)
        else:
            self.basis = PolynomialBasis(in_channels, degree)

    def _check_options(self) -> None:
        positive = {
            "kernel_sigma": self.kernel_sigma,
            "stride": self.stride,
            "truncated": (self.truncated,),
            "ridge": (self.ridge,),
            "eps": (self.eps,),
            "memory_budget_mb": (1 if self.memory_budget_mb is None else self.memory_budget_mb,),
            "in_channels": (self.in_channels,),
        }
        for name, values in positive.items():
            if not all(0 < v < math.inf for v in values):
                raise ValueError(f"{name} must be positive and finite, got {values if len(values) > 1 else values[0]}.")
        if not 0 < self.min_mass <= 1:
            raise ValueError(f"min_mass must be in (0, 1], got {self.min_mass}.")

    def extra_repr(self) -> str:
        """The settings, for ``repr``; those of the basis are shown by itself."""
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
            pred: warped moving image, BCH[W[D]] with C = ``in_channels``; the basis functions see this one.
            target: fixed image, BTH[W[D]]; T need not be C.
            mask: weights of the voxels, clamped to [0, 1], shape ``(1 or B, 1, H[, W[, D]])``; carries no gradient.
            return_weights: with reduction ``"none"``, also return the weights of the values, of their shape: 1 where a window
                counts and 0 where it does not, which tells a value of 0 from none.

        Raises:
            ValueError: when shapes or channel numbers do not fit, a dtype is not floating point, or weights are asked for
                with a reduction.
        """
        pred, target, mask = plain(pred), plain(target), None if mask is None else plain(mask)
        self._check_input(pred, target, mask)
        with full_precision(pred.device):
            dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
            pred, target = pred.to(dtype), target.to(dtype)
            some = None
            if self.rescale:
                some, mask = _finite(pred, target, mask)
                valid = None if mask is None else mask > 0
                pred, target = rescale(_clean(pred, valid), valid), rescale(_clean(target, valid), valid)
            return answer(*self._windows(pred, target, _root(mask, dtype)), self.reduction, return_weights, some)

    @torch.no_grad()
    def unexplained(
        self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How much of the target the fit leaves over: near 0 where each image is a function of the other.

        Args:
            pred, target, mask: as in :meth:`forward`, not rescaled here.

        Returns:
            one minus the correlation ratio of every window, in [0, 1], and the variance of the target in it; both
            ``(B, T, *windows)``, the variance zero where a window does not count.
        """
        with full_precision(pred.device):
            moments, counts = self._moments(pred, target, _root(mask, pred.dtype), with_means=True)
        share, variance = self._normalized(moments)
        return share, variance if counts is None else variance * counts

    def _windows(
        self, pred: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loss of each window ``(B, T, *windows)`` and, with a mask, which windows count ``(B, 1, *windows)``."""
        moments, counts = self._moments(pred, target, root, with_means=self.form == "normalized")
        return self._score(moments), counts

    def _moments(
        self, pred: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None, with_means: bool
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Averages over each window of the products of basis functions and target, by name, and which windows count."""
        grid = WindowGrid(self.kernel_sigma, self.truncated, self.stride, every=True, plans=self._plans)
        gram = LocalGram(
            self.basis,
            self._num_basis(pred),
            target.shape[1],
            grid.axes(pred, self.training, self.generator),
            slab_budget(pred.device, self.memory_budget_mb),
            root is not None,
            with_means,
        )
        every = transforms_active()  # they hide what needs a gradient, and must not be closed over
        learned = {name: p for name, p in self.basis.named_parameters() if every or p.requires_grad}
        maps = local_gram(gram, pred, target, root, learned)
        counts = None
        if root is not None:
            maps, counts = per_mass(maps, maps[:, gram.layout["mass"]], self.min_mass)
        moments = {name: maps[:, rows] for name, rows in gram.layout.items()}
        moments["psi_t"] = moments["psi_t"].unflatten(1, (gram.num_basis, gram.channels))
        return moments, counts

    def _score(self, m: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.form == "log":
            return torch.log(ridge_residual(m["psi_psi"], m["psi_t"], m["t_t"], self.ridge) + self.eps)
        return self._normalized(m)[0]

    def _normalized(self, m: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Residual of the target standardized in its window, and the target's variance there."""
        variance = (m["t_t"] - m["t"].square()).clamp_min(0)
        deviation = (variance + self.eps).sqrt()
        covariance = (m["psi_t"] - m["psi"][:, :, None] * m["t"][:, None]) / (deviation + self.eps)[:, None]
        return ridge_residual(m["psi_psi"], covariance, torch.ones_like(variance), self.ridge), variance

    def _num_basis(self, pred: torch.Tensor) -> int:
        known = getattr(self.basis, "num_basis", None)
        if isinstance(known, int):
            return known
        with torch.no_grad():
            return int(self.basis(pred[:1].detach().flatten(2)[..., :1].reshape(1, -1, *(1,) * self.spatial_dims)).shape[1])

    def _check_input(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None) -> None:
        if pred.ndim != self.spatial_dims + 2 or pred.shape[1] != self.in_channels:
            raise ValueError(
                f"pred must be (batch, {self.in_channels}, {self.spatial_dims} spatial axes), got shape {tuple(pred.shape)}."
            )
        if target.ndim != pred.ndim or target.shape[0] != pred.shape[0] or target.shape[2:] != pred.shape[2:]:
            raise ValueError(
                f"target must have the batch and spatial size of pred, got {tuple(target.shape)} and {tuple(pred.shape)}."
            )
        if 0 in pred.shape or 0 in target.shape:
            raise ValueError(f"pred and target must not be empty, got {tuple(pred.shape)} and {tuple(target.shape)}.")
        check_types(pred, target, mask)


def _finite(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Whether any voxel is finite in both images, and the mask without those that are not; None means all of them.

    Whether all are is asked only where nobody has to wait for the answer, and where there is one.
    """
    finite = pred.detach().isfinite().all(1, keepdim=True) & target.detach().isfinite().all(1, keepdim=True)
    if mask is not None:
        return finite.any(), torch.where(finite, mask, 0)
    asked = finite.device.type == "cpu" and not transforms_active()
    return (None, None) if asked and bool(finite.all()) else (finite.any(), finite)


def _root(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Square roots of the weights, by which both factors of a product are multiplied."""
    return None if mask is None else mask.detach().to(dtype).nan_to_num(0).clamp(0, 1).sqrt()


def _clean(image: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Zero where nothing counts: a NaN of weight zero would still be a NaN."""
    return image if valid is None else torch.where(valid, image, 0)
