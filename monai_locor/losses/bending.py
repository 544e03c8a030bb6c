# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Bending energy of a displacement, with its gradient in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch

from ..autograd import StreamedFunction, transforms_active

__all__ = ["bending_energies", "bending_energy"]

MAX_POINTS_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}  # fits the CPU cache; large kernels on a GPU
MIXED_WEIGHT = 1 / 8  # 2 for the two orders of differentiation, 1 / 16 for the square of the central differences


def bending_energy(displacement: torch.Tensor) -> torch.Tensor:
    """The value of MONAI's ``BendingEnergyLoss``, for the inner loop of a registration.

    MONAI's loss copies a scalar from the host in every call, which blocks a GPU, and holds all terms at once. Here the
    gradient is computed together with the value; it cannot be differentiated again.
    Source: Rueckert et al. 1999, doi 10.1109/42.796284, equation 3, without its constant.

    Args:
        displacement: ``(B, D, *spatial)``, more than two voxels along each axis.

    Returns:
        scalar, the sum of the squared second differences, averaged over inner voxels, components and items.

    Raises:
        ValueError: if an axis has fewer than three voxels.
    """
    energies = bending_energies(displacement)
    return energies.reshape(()) if len(energies) == 1 else energies.mean()


def bending_energies(displacement: torch.Tensor) -> torch.Tensor:
    """:func:`bending_energy` of each item, ``(B,)``."""
    if displacement.ndim < 3 or min(displacement.shape[2:]) < 3:
        raise ValueError(f"displacement must have three voxels or more along each axis, got {tuple(displacement.shape)}.")
    with_gradient = transforms_active() or (torch.is_grad_enabled() and displacement.requires_grad)
    return _BendingFunction.apply(displacement, with_gradient)[0]


class _BendingFunction(StreamedFunction):
    """Energy of each item, ``(B,)``, and its gradient up to a factor: the transposed differences of the differences."""

    leading = differentiable = (0,)

    @staticmethod
    def forward(displacement: torch.Tensor, with_gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
        components, count = displacement.flatten(0, 1), _inner_values(displacement)
        energies, gradients = [], []
        for part in components.split(_components_at_once(components)):
            differences = _Differences(part)
            energies.append(differences.energy())
            gradients.append(differences.transposed() if with_gradient else part[:0])
        energy = _joined(energies).view(displacement.shape[:2]).sum(1) / count
        return energy, (_joined(gradients).view_as(displacement) if with_gradient else displacement[:0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.options = {"scale": 2 / _inner_values(inputs[0])}
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad * ctx.options["scale"]).view(-1, *(1,) * (gradient.ndim - 1)), None


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _components_at_once(components: torch.Tensor) -> int:
    budget = MAX_POINTS_AT_ONCE.get(components.device.type, MAX_POINTS_AT_ONCE["cpu"])
    return max(1, budget // components[0].numel())


def _inner_values(displacement: torch.Tensor) -> int:
    """Number of values of an item at inner voxels."""
    count = displacement.shape[1]
    for n in displacement.shape[2:]:
        count *= n - 2
    return count


class _Differences:
    """Second differences of components at their inner voxels.

    They are stored with two zeros on each side, so that the transposed differences read neighbors beyond the inner voxels.

    Args:
        u: components, ``(N, *spatial)``.

    Attributes:
        pure: ``[1, -2, 1]`` along each axis, ``(N, D, *(spatial + 2))``.
        mixed: products of ``[-1, 0, 1]`` along each pair of axes, ``(N, pairs, *(spatial + 2))``.
        all: both in one tensor, ``(N, D + pairs, *(spatial + 2))``.
    """

    def __init__(self, u: torch.Tensor) -> None:
        self.shape, axes = u.shape[1:], range(u.ndim - 1)
        self.pairs = list(combinations(axes, 2))
        padded, inner = [n + 2 for n in self.shape], [n - 2 for n in self.shape]
        self.all = u.new_zeros(len(u), len(axes) + len(self.pairs), *padded)
        self.pure, self.mixed = self.all[:, : len(axes)], self.all[:, len(axes) :]
        for i in axes:
            ends = [_window(u, [1 + by * (a == i) for a in axes], inner) for by in (1, -1)]
            out = _window(self.pure[:, i], [2] * len(axes), inner)
            _write(torch.add, ends, out).sub_(_window(u, [1] * len(axes), inner), alpha=2)
        for i in axes[:-1]:
            sizes = [n if a > i else n - 2 for a, n in enumerate(self.shape)]  # neighbors are needed along later axes
            ends = [_window(u, [1 + by if a == i else int(a < i) for a in axes], sizes) for by in (1, -1)]
            first = torch.sub(*ends)
            for j in axes[i + 1 :]:
                ends = [_window(first, [1 + by * (a == j) if a > i else 0 for a in axes], inner) for by in (1, -1)]
                _write(torch.sub, ends, _window(self.mixed[:, self.pairs.index((i, j))], [2] * len(axes), inner))

    def energy(self) -> torch.Tensor:
        """The energy of each component, times the number of inner voxels, ``(N,)``."""
        # not a norm or dot product, which add up float32 one after the other on a CPU
        square, axes, count = self.all.square(), tuple(range(1, self.all.ndim)), self.pure.shape[1]
        pure = square[:, :count].sum(axes)
        return pure.add_(square[:, count:].sum(axes), alpha=MIXED_WEIGHT) if self.pairs else pure

    def transposed(self) -> torch.Tensor:
        """Half the gradient of :meth:`energy`: the transposed differences of the differences, ``(N, *spatial)``."""
        axes = range(len(self.shape))
        before, after, *others = (self._window(self.pure[:, i], {i: by}) for i in axes for by in (-1, 1))
        out = before + after
        for other in others:
            out += other
        out.sub_(self._window(self.pure.sum(1), {}), alpha=2)
        for i in axes[:-1]:
            first = None  # padded along axis i
            for j in axes[i + 1 :]:
                mixed = self.mixed[:, self.pairs.index((i, j))]
                before, after = (self._window(mixed, {j: by}, i) for by in (-1, 1))
                first = before - after if first is None else first.add_(before).sub_(after)
            assert first is not None  # an axis follows
            for by, sign in ((-1, 1), (1, -1)):
                out.add_(first.narrow(i + 1, 1 + by, self.shape[i]), alpha=sign * MIXED_WEIGHT)
        return out

    def _window(self, padded: torch.Tensor, by: dict[int, int], whole: int | None = None) -> torch.Tensor:
        """Shifted values at all voxels, ``(N, *spatial)``, with the padding along the axis ``whole``."""
        sizes = [n + 2 if a == whole else n for a, n in enumerate(self.shape)]
        return _window(padded, [0 if a == whole else 1 + by.get(a, 0) for a in range(len(sizes))], sizes)


def _write(operation: Callable[..., torch.Tensor], ends: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """Write a sum or difference into a part of a tensor; in compiled code, which knows no such ``out``, by a copy."""
    return out.copy_(operation(*ends)) if torch.compiler.is_compiling() else operation(*ends, out=out)


def _window(x: torch.Tensor, starts: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        x = x.narrow(axis + 1, start, size)
    return x
