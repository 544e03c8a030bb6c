# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The mathematics of the local measures as functions: moments of windows, the fit, and the share that it leaves.

Used by the losses, by the engine and by the pictures of a fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..autograd import transforms_active
from ..recent import Recent
from .gram import local_gram
from .products import LocalGram
from .ridge import ridge_residual, ridge_solution, standardized, window_residual
from .robust import robust_shares
from .streaming import StreamedWindows

__all__ = [
    "FORMS",
    "LocalMoments",
    "WindowFit",
    "average_by_mass",
    "has_mass",
    "local_fit",
    "local_moments",
    "one_minus_correlation_ratio",
    "ridge_residual",
    "ridge_solution",
    "robust_shares",
    "safe_mass",
    "unexplained_share",
    "window_values",
]

FORMS = ("log", "normalized", "robust")
MASS_ROUNDING = 1e-5  # share of a window's mass that float32 may lose
MIN_DIVISOR = 1e-12


@dataclass(frozen=True)
class LocalMoments:
    """Weighted averages over each window of products of J basis functions psi and T target channels t.

    Attributes:
        maps: all of them, ``(B, P, *windows)``, divided by the mass.
        gram: tells which rows of the maps are which.
        mass: mean weight, ``(B, 1, *windows)``; None without weights.
        counts: bool, whether the window has enough mass, ``(B, 1, *windows)``; None without weights.
    """

    maps: torch.Tensor
    gram: LocalGram
    mass: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    @property
    def psi_psi(self) -> torch.Tensor:
        """``<psi_i psi_j>`` in the order of :func:`.ridge.gram_pairs`, ``(B, J (J + 1) / 2, *windows)``."""
        return self.maps[:, self.gram.layout["psi_psi"]]

    @property
    def psi_t(self) -> torch.Tensor:
        """``<psi_j t_c>``, ``(B, J, T, *windows)``."""
        return self.maps[:, self.gram.layout["psi_t"]].unflatten(1, (self.gram.num_basis, self.gram.channels))

    @property
    def t_t(self) -> torch.Tensor:
        """``<t_c^2>``, ``(B, T, *windows)``."""
        return self.maps[:, self.gram.layout["t_t"]]

    @property
    def psi(self) -> torch.Tensor | None:
        """The means of psi, ``(B, J, *windows)``; None where they were not asked for."""
        return self.maps[:, self.gram.layout["psi"]] if self.gram.first_moments else None

    @property
    def t(self) -> torch.Tensor | None:
        """The means of t, ``(B, T, *windows)``; None where they were not asked for."""
        return self.maps[:, self.gram.layout["t"]] if self.gram.first_moments else None


@dataclass(frozen=True)
class WindowFit:
    """The least squares problem of each window and what its solution leaves.

    Attributes:
        moments: what it was made from; ``psi_psi`` is the matrix of the normal equations without the ridge.
        residual: R at the ridge solution, ``(B, T, *windows)``.
        form: one of :data:`FORMS`.
        eps: floor of the residual in the form ``"log"``, of the variance in the others.
    """

    moments: LocalMoments
    residual: torch.Tensor
    form: str
    eps: float

    @cached_property
    def _standardized(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right-hand sides of the standardized target, its variance and deviation."""
        assert self.moments.psi is not None and self.moments.t is not None
        return standardized(self.moments.psi_t, self.moments.t_t, self.moments.psi, self.moments.t, self.eps)

    @property
    def psi_t(self) -> torch.Tensor:
        """Right-hand sides of the normal equations, ``(B, J, T, *windows)``; in the normalized form, of the standardized
        target.
        """
        return self._standardized[0] if self.form == "normalized" else self.moments.psi_t

    @property
    def mean(self) -> torch.Tensor | None:
        """What the target was standardized by, ``(B, T, *windows)``; None in the other forms."""
        return self.moments.t if self.form == "normalized" else None

    @property
    def deviation(self) -> torch.Tensor | None:
        """Likewise."""
        return self._standardized[2] if self.form == "normalized" else None

    @property
    def variance(self) -> torch.Tensor | None:
        """Of the target in the window, likewise."""
        return self._standardized[1] if self.form == "normalized" else None

    @property
    def counts(self) -> torch.Tensor:
        """Whether each window counts, bool, ``(B, 1, *windows)``; without weights all of them."""
        counts = self.moments.counts
        return torch.ones_like(self.residual[:, :1], dtype=torch.bool) if counts is None else counts


def local_moments(
    basis: nn.Module,
    pred: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    windows: StreamedWindows,
    min_mass: float,
    means: bool = False,
    parameters: Mapping[str, torch.Tensor] | None = None,
    kept: Recent[Any] | None = None,
    fused: bool | None = None,
    constant_means: bool = False,
    overwrite: bool = False,
) -> LocalMoments:
    """The moments of all windows, differentiable in pred, target and the basis.

    Args:
        basis: voxel-wise module, ``(B, C, *spatial)`` to ``(B, J, *spatial)``.
        pred: ``(B, C, *spatial)``, input of the basis functions.
        target: ``(B, T, *spatial)``, image that is modeled.
        weight: of the voxels, in [0, 1], ``(1 or B, 1, *spatial)``; None where all count.
        windows: where to average.
        min_mass: windows of less mean weight do not count.
        means: whether to average psi and t themselves as well.
        parameters: those of the basis that are differentiated, by name; by default all that require a gradient.
        kept: keeps between calls what depends on the sizes.
        fused: whether Triton kernels compute them; None where they can and the images are on a GPU.
        constant_means: whether the means of psi are not used.
        overwrite: whether the backward pass may write the gradient of pred into the memory of pred.
    """
    num_basis = _num_basis(basis, pred)
    gram = LocalGram(basis, num_basis, target.shape[1], weight is not None, means, kept, fused, constant_means, overwrite)
    if parameters is None:
        every = transforms_active()  # a transform hides what requires a gradient, and must not be closed over
        parameters = {name: p for name, p in basis.named_parameters() if every or p.requires_grad}
    maps = local_gram(gram, windows, pred, target, weight, parameters)
    if weight is None:
        return LocalMoments(maps, gram)
    mass = maps[:, gram.layout["mass"]].detach()
    maps, counts = average_by_mass(maps, mass, min_mass)
    return LocalMoments(maps, gram, mass, counts)


def local_fit(moments: LocalMoments, form: str, ridge: float, eps: float) -> WindowFit:
    """The target of each window as a linear combination of the basis functions.

    Args:
        moments: with the means, except in the form ``"log"``.
        form: ``"log"`` or ``"robust"``, the target itself; or ``"normalized"``, the target standardized in its window.
        ridge: added to the diagonal of the normal equations.
        eps: floor of the variance and of the deviation in the normalized form.
    """
    if form != "log" and not moments.gram.first_moments:
        raise ValueError(f"the {form} form needs the means of psi and t; call local_moments with means=True.")
    gram, standard = moments.gram, eps if form == "normalized" else None
    residual = window_residual(moments.maps, gram.num_basis, gram.channels, ridge, gram.kept, gram.fused, standard)
    return WindowFit(moments, residual, form, eps)


def window_values(fit: WindowFit) -> torch.Tensor:
    """The value of each window in the loss in the form of its fit, ``(B, T, *windows)``."""
    if fit.form == "log":
        return torch.log(fit.residual + fit.eps)
    if fit.form == "normalized":
        return fit.residual
    moments, layout = fit.moments, fit.moments.gram.layout
    target = moments.maps[:, layout["t_t"].start : layout["t"].stop]
    return robust_shares(fit.residual, target, moments.counts, fit.eps)


def unexplained_share(moments: LocalMoments, ridge: float, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One minus the correlation ratio of each window, and the variance of the target there.

    Args:
        moments: with the means.
        ridge, eps: see :func:`local_fit`.

    Returns:
        the share of the variance that the fit leaves, in [0, 1], and the variance, both ``(B, T, *windows)``; the variance is
        zero where a window does not count.
    """
    fit = local_fit(moments, "normalized", ridge, eps)
    assert fit.variance is not None
    return fit.residual, fit.variance if moments.counts is None else fit.variance * moments.counts


def one_minus_correlation_ratio(mass: torch.Tensor, first: torch.Tensor, second: torch.Tensor, eps: float) -> torch.Tensor:
    """The share of the target's variance that the bins of the other image do not explain.

    ``sum_a (E[h_a t^2] - E[h_a t]^2 / (E[h_a] + eps)) / (E[t^2] - E[t]^2 / (E[1] + eps) + eps)``, with
    ``sum_a h_a = 1``.

    Args:
        mass: ``E[h_a]``, bins along axis 1.
        first: ``E[h_a t]``, likewise.
        second: ``E[t^2]``, without that axis.
        eps: floor of the variance.

    Returns:
        The shape of ``second``, in [0, 1].
    """
    residual = second - (first.square() / (mass + eps)).sum(1)
    variance = second - first.sum(1).square() / (mass.sum(1) + eps)
    return residual.clamp_min(0) / (variance.clamp_min(0) + eps)


def has_mass(mass: torch.Tensor, min_mass: float) -> torch.Tensor:
    """Whether windows hold enough weight to count, bool, with a tolerance for rounding."""
    return mass >= min_mass * (1 - MASS_ROUNDING)


def average_by_mass(maps: torch.Tensor, mass: torch.Tensor, min_mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted averages of the voxels of each window, and whether it holds enough weight to count.

    Args:
        maps: window averages of weighted products, ``(G, P, *windows)``.
        mass: window averages of the weights, ``(G, 1, *windows)``.
        min_mass: windows of less mass do not count.

    Returns:
        maps, divided by the mass where it counts, finite elsewhere; and ``(G, 1, *windows)`` bool.
    """
    return maps / safe_mass(mass, min_mass), has_mass(mass, min_mass)


def safe_mass(mass: torch.Tensor, min_mass: float) -> torch.Tensor:
    """The mass of windows as a divisor: that of windows that do not count is replaced, so that it is never zero."""
    return mass.clamp_min(max(min_mass * (1 - MASS_ROUNDING), MIN_DIVISOR))


def _num_basis(basis: nn.Module, pred: torch.Tensor) -> int:
    """Number of basis functions; where the module does not tell it, from its output for one voxel."""
    known = getattr(basis, "num_basis", None)
    if isinstance(known, int):
        return known
    with torch.no_grad():
        voxel = pred[:1].detach().flatten(2)[..., :1]
        return int(basis(voxel.reshape(1, -1, *(1,) * (pred.ndim - 2))).shape[1])
