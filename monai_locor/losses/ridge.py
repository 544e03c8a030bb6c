# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The closed form: how badly the best linear combination of basis functions fits, window by window.

Small dense systems, one per window, are factorized together: the entries of a matrix are rows of one tensor, the windows its
columns, and each pivot of the elimination is a few operations on whole tensors, on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..autograd import StreamedFunction
from ..recent import Recent
from .kernels import FitOptions, fused_residual, fused_residual_gradient, solves

__all__ = ["Systems", "gram_pairs", "ridge_residual", "ridge_solution", "standardized", "window_residual"]

PORTION_WINDOWS = {"cpu": 1 << 12, "cuda": 1 << 18}  # solved at once: the processor's cache; large launches on a GPU


def gram_pairs(size: int) -> list[tuple[int, int]]:
    """Pairs (i, j) of the entries of a symmetric matrix, each entry once, in the order in which this package stores them.

    One diagonal after the other, each continued cyclically, so that the entries of one have the same distance in a doubled
    list of rows: the whole diagonal is one product of two contiguous parts.

    >>> gram_pairs(3), gram_pairs(2)
    ([(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)], [(0, 0), (1, 1), (0, 1)])
    """
    return [(i, (i + d) % size) for d in range(size // 2 + 1) for i in range(size // 2 if 0 < d == size / 2 else size)]


@dataclass(frozen=True)
class Systems:
    """Conversion of the maps of a local Gram matrix to the linear systems of the windows, and back.

    Attributes:
        size: J.
        channels: T.
        ridge: added to the diagonal.
        source: rows of the maps that fill ``[A | c | anything]``, ``(J (2 J + T),)``.
        keep, constant: ``[A + ridge I | c | I]`` is ``keep`` times that plus ``constant``, ``(J (2 J + T), 1)``.
        gather: minus the sum of the entries (i, j) and (j, i) of a flattened ``(J, J)`` for each of :func:`gram_pairs`, on the
            diagonal minus the entry, ``(1, J (J + 1) / 2, J J)``.
    """

    size: int
    channels: int
    ridge: float
    source: torch.Tensor
    keep: torch.Tensor
    constant: torch.Tensor
    gather: torch.Tensor

    @classmethod
    def make(cls, size: int, channels: int, ridge: float, like: torch.Tensor) -> Systems:
        """The systems of J basis functions and T channels, on the device and in the dtype of a tensor."""
        pairs = gram_pairs(size)
        number = {frozenset(pair): row for row, pair in enumerate(pairs)}
        source: list[int] = []
        keep: list[float] = []
        constant: list[float] = []
        for i in range(size):
            source += [number[frozenset((i, j))] for j in range(size)]
            source += [len(pairs) + i * channels + c for c in range(channels)] + [0] * size
            keep += [1.0] * (size + channels) + [0.0] * size
            constant += [ridge * (i == j) for j in range(size)] + [0.0] * channels + [float(i == j) for j in range(size)]
        gather = torch.zeros(1, len(pairs), size, size, dtype=like.dtype, device="cpu")
        for row, (i, j) in enumerate(pairs):
            gather[0, row, i, j] = gather[0, row, j, i] = -1
        numbers = [torch.tensor(x, dtype=like.dtype, device="cpu")[:, None] for x in (keep, constant)]
        every = (torch.tensor(source, device="cpu"), *numbers, gather.flatten(2))
        return cls(size, channels, ridge, *(x.to(like.device, non_blocking=True) for x in every))

    @classmethod
    def kept(cls, kept: Recent[Any] | None, size: int, channels: int, ridge: float, like: torch.Tensor) -> Systems:
        """:meth:`make`, or what it returned before."""
        options = size, channels, ridge
        if kept is None:
            return cls.make(*options, like)
        return kept.get((cls, *options, like.device, like.dtype), lambda: cls.make(*options, like))

    def rows(self) -> tuple[slice, slice, slice]:
        """Rows of A, c and b in the maps."""
        first = self.size * (self.size + 1) // 2
        second = first + self.size * self.channels
        return slice(0, first), slice(first, second), slice(second, second + self.channels)

    def factored(self, maps: torch.Tensor) -> torch.Tensor:
        """``[N c | N]`` with ``N^T N = (A + ridge I)^-1``, ``(B, J, T + J, windows)``, from maps ``(B, P, windows)``.

        By elimination in ``[A + ridge I | c | I]``, whose third block becomes the inverse of the unit triangular factor.
        """
        size, reach = self.size, self.size + self.channels
        x = maps.index_select(1, self.source)
        x = torch.addcmul(self.constant, x, self.keep, out=x).unflatten(1, (size, -1))
        for k in range(size):
            pivot = x[:, k, k : k + 1]
            if k:  # the exact pivot is at least the ridge: a smaller one is rounding error
                pivot.clamp_min_(0.5 * self.ridge)
            if k < size - 1:
                active = slice(k + 1, k + 1 + reach)
                row = x[:, k, active] / pivot
                x[:, k + 1 :, active].addcmul_(x[:, k + 1 :, k, None], row[:, None], value=-1)
        pivots = x.flatten(1, 2)[:, :: x.shape[2] + 1]
        return x[:, :, size:] * pivots.rsqrt()[:, :, None]

    def solution(self, factor: torch.Tensor) -> torch.Tensor:
        """Theta, ``(B, J, T, windows)``, from :meth:`factored`."""
        return _transposed_times(factor[:, :, self.channels :], factor[:, :, : self.channels])

    def residual(self, maps: torch.Tensor, factor: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """``b - |N c|^2 - ridge |theta|^2``, ``(B, T, windows)``, not clamped."""
        explained = factor[:, :, : self.channels].square().addcmul_(theta, theta, value=self.ridge).sum(1)
        return maps[:, self.rows()[2]] - explained

    def gradient(
        self, out: torch.Tensor, factor: torch.Tensor, theta: torch.Tensor, residual: torch.Tensor, grad: torch.Tensor
    ) -> None:
        """Write the gradient of the maps, from that of the clamped residual."""
        inverse = factor[:, :, self.channels :]
        a, c, b = self.rows()
        torch.ops.aten.threshold_backward.grad_input(grad, residual, 0, grad_input=out[:, b])
        down = out[:, b].neg()[:, None]
        u = _transposed_times(inverse, _times(inverse, theta))
        # dR/dA = theta v^T + v theta^T and dR/dc = -theta - 2 v, with v = theta / 2 + ridge u
        double = torch.add(theta, u, alpha=2 * self.ridge).mul_(down)
        torch.add(double, theta * down, out=out[:, c].unflatten(1, (self.size, -1)))
        outer = theta[:, :, None, 0] * double[:, None, :, 0]
        for channel in range(1, self.channels):
            outer.addcmul_(theta[:, :, None, channel], double[:, None, :, channel])
        # off the diagonal an entry of the maps stands twice in A
        torch.bmm(self.gather.expand(len(outer), -1, -1), outer.flatten(1, 2), out=out[:, a])
        if b.stop < out.shape[1]:
            out[:, b.stop :].zero_()


def _times(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Products of matrices ``(B, K, J, windows)`` and ``(B, J, T, windows)``."""
    return (matrix[:, :, :, None] * x[:, None]).sum(2)


def _transposed_times(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Products of the transpose of matrices ``(B, K, J, windows)`` and ``(B, K, T, windows)``."""
    return (matrix[:, :, :, None] * x[:, :, None]).sum(1)


def ridge_residual(
    a: torch.Tensor, c: torch.Tensor, b: torch.Tensor, ridge: float, kept: Recent[Any] | None = None
) -> torch.Tensor:
    """Residual at the ridge solution, with the ridge term taken out again.

    With ``theta = (A + ridge I)^-1 c`` it is ``R = b - c^T theta - ridge |theta|^2`` (Locor, arXiv 2503.05335). The
    gradient is exact and needs no derivative of the solve: with ``u = (A + ridge I)^-1 theta``,
    ``dR/db = 1``, ``dR/dc = -2 theta - 2 ridge u``, ``dR/dA = theta theta^T + ridge (u theta^T + theta u^T)``.

    Args:
        a: entries of A in the order of :func:`gram_pairs`, ``(B, J (J + 1) / 2, ...)``.
        c: ``(B, J, C, ...)``.
        b: ``(B, C, ...)``.
        ridge: positive.
        kept: keeps what depends on the sizes between calls.

    Returns:
        ``(B, C, ...)``, clamped at zero.
    """
    size, channels = c.shape[1:3]
    return window_residual(torch.cat([a, c.flatten(1, 2), b], 1), size, channels, ridge, kept)


def window_residual(
    maps: torch.Tensor,
    size: int,
    channels: int,
    ridge: float,
    kept: Recent[Any] | None = None,
    fused: bool | None = False,
    eps: float | None = None,
) -> torch.Tensor:
    """:func:`ridge_residual` of maps that begin with the rows of a, c and b, ``(B, P, ...)``.

    Args:
        maps: see above. With ``eps``, the rows of the means of the basis functions and of the target follow; others have no
            influence.
        size: J.
        channels: C.
        ridge: positive.
        kept: keeps what depends on the sizes between calls.
        fused: whether Triton kernels compute it; None where they can and the images are on a GPU.
        eps: the target is standardized in its window first, see :func:`standardized`; None if it is not.
    """
    options = FitOptions(size, channels, ridge, eps)
    if solves(options, maps, fused):
        return _KernelResidual.apply(options, fused, maps.flatten(2)).unflatten(2, maps.shape[2:])
    if eps is not None:
        a, c, b, psi, t, _ = maps.split_with_sizes([*options.rows, maps.shape[1] - sum(options.rows)], 1)
        c = standardized(c.unflatten(1, (size, -1)), b, psi, t, eps)[0]
        return ridge_residual(a, c, torch.ones_like(b), ridge, kept)
    systems = Systems.kept(kept, size, channels, ridge, maps)
    return _WindowResidual.apply(systems, maps.flatten(2))[0].unflatten(2, maps.shape[2:])


def standardized(
    c: torch.Tensor, b: torch.Tensor, psi: torch.Tensor, t: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The right-hand sides for a target of mean 0 and variance 1 in each window, ``(B, J, C, ...)``.

    Args:
        c: ``(B, J, C, ...)``.
        b: mean square of the target, ``(B, C, ...)``.
        psi: means of the basis functions, ``(B, J, ...)``.
        t: means of the target, ``(B, C, ...)``.
        eps: floor of the variance and of the deviation.

    Returns:
        also the variance and the deviation that the target is divided by, ``(B, C, ...)``.
    """
    variance = (b - t.square()).clamp_min(0)
    deviation = (variance + eps).sqrt() + eps
    return (c - psi[:, :, None] * t[:, None]) / deviation[:, None], variance, deviation


def ridge_solution(a: torch.Tensor, c: torch.Tensor, ridge: float) -> torch.Tensor:
    """``theta = (A + ridge I)^-1 c``, ``(B, J, C, ...)``; arguments of :func:`ridge_residual`."""
    size, channels = c.shape[1:3]
    systems = Systems.make(size, channels, ridge, a)
    maps = torch.cat([a, c.flatten(1, 2)], 1).flatten(2)
    return systems.solution(systems.factored(maps)).view(c.shape)


def _portions(maps: torch.Tensor) -> Iterator[slice]:
    """Parts of the windows of maps ``(B, P, windows)``."""
    most = max(1, PORTION_WINDOWS.get(maps.device.type, PORTION_WINDOWS["cpu"]) // len(maps))
    return (slice(start, start + most) for start in range(0, maps.shape[2], most))


def _fit(systems: Systems, maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Residual, theta and factors of maps ``(B, P, windows)``."""
    factor = systems.factored(maps)
    theta = systems.solution(factor)
    return systems.residual(maps, factor, theta), theta, factor


def _fit_portions(systems: Systems, maps: torch.Tensor, portions: Sequence[slice]) -> tuple[torch.Tensor, ...]:
    """:func:`_fit` of one part of the windows after the other."""
    items, windows, size, channels = len(maps), maps.shape[2], systems.size, systems.channels
    shapes = (channels,), (size, channels), (size, channels + size)
    out = tuple(maps.new_empty(items, *shape, windows) for shape in shapes)
    for part in portions:
        for whole, own in zip(out, _fit(systems, maps[:, :, part]), strict=True):
            whole[..., part] = own
    return out


class _WindowResidual(StreamedFunction):
    """Also returns the unclamped residual, theta and the factors, for the backward pass."""

    leading = differentiable = (1,)

    @staticmethod
    def forward(systems: Systems, maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        portions = list(_portions(maps))
        found = _fit(systems, maps) if len(portions) == 1 else _fit_portions(systems, maps, portions)
        return found[0].clamp_min(0), *found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.options = {"systems": inputs[0], "rows": inputs[1].shape[1]}
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        residual, theta, factor = ctx.saved_tensors
        systems = ctx.options["systems"]
        out = residual.new_empty(len(residual), ctx.options["rows"], residual.shape[2])
        for part in _portions(out):
            saved = (x[..., part] for x in (factor, theta, residual, grad))
            systems.gradient(out[:, :, part], *saved)
        return None, out


class _KernelResidual(StreamedFunction):
    """:func:`window_residual` by the kernels of a GPU; should they fail, by the portable path."""

    leading = differentiable = (2,)

    @staticmethod
    def forward(options: FitOptions, fused: bool | None, maps: torch.Tensor) -> torch.Tensor:
        found = fused_residual(options, maps, fused)
        return _portable(options, maps) if found is None else found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"options": inputs[0], "fused": inputs[1]}
        ctx.save_for_backward(inputs[2], output)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        options, (maps, residual) = ctx.options["options"], ctx.saved_tensors
        found = fused_residual_gradient(options, maps, residual, grad, ctx.options["fused"])
        if found is None:
            with torch.enable_grad():
                maps = maps.detach().requires_grad_()
                (found,) = torch.autograd.grad(_portable(options, maps), maps, grad)
        return None, None, found


def _portable(options: FitOptions, maps: torch.Tensor) -> torch.Tensor:
    return window_residual(maps, options.size, options.channels, options.ridge, eps=options.eps)
