# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Basis functions evaluated on one portion of voxels after another, and differentiated there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import nn
from torch.func import functional_call

from .basis import LearnedBasis

__all__ = ["AutogradTape", "BasisTape", "LearnedBasisTape", "basis_tape", "tape_numbers_per_voxel"]


class BasisTape(Protocol):
    """Evaluates a basis on a portion of voxels and keeps what the derivative there needs."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``(C, N)`` intensities to ``(J, N)`` basis values, valid until the next call."""

    def pullback(self, gradient: torch.Tensor, need_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """From the gradient ``(J, N)`` of the last call's output to those of its input ``(C, N)`` and of the parameters."""


def basis_tape(
    basis: Callable[[torch.Tensor], torch.Tensor], parameters: Mapping[str, torch.Tensor], like: torch.Tensor, voxels: int
) -> BasisTape:
    """The fastest tape for a basis.

    Args:
        basis: voxel-wise module, ``(1, C, *spatial)`` to ``(1, J, *spatial)``.
        parameters: values of its parameters whose gradients are wanted, by name.
        like: the images, ``(B, C, *spatial)``; gives number of axes, dtype and device.
        voxels: of the largest portion.
    """
    if type(basis) is LearnedBasis and not basis.changed() and len(parameters) == 2 * len(basis.layers):
        return LearnedBasisTape(list(parameters.values()), like, voxels)
    return AutogradTape(basis, parameters, like.ndim - 2)


def tape_numbers_per_voxel(basis: Callable[[torch.Tensor], torch.Tensor], num_basis: int) -> int:
    """Numbers that a tape holds per voxel of a portion; for a basis of an unknown kind, an estimate."""
    if isinstance(basis, LearnedBasis):
        return LearnedBasisTape.numbers_per_voxel(basis)
    return 4 * num_basis  # the values, what autograd keeps for their derivative, and the gradients


class AutogradTape:
    """Tape of any voxel-wise module, differentiated by autograd.

    Args:
        basis: the module.
        parameters: take the place of its own parameters, by name.
        dims: number of spatial axes of an image.
    """

    def __init__(
        self, basis: Callable[[torch.Tensor], torch.Tensor], parameters: Mapping[str, torch.Tensor], dims: int
    ) -> None:
        self.basis, self.ones = basis, (1,) * (dims - 1)
        self.named = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        self.parameters = list(self.named.values())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See :class:`BasisTape`."""
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            given = self.x.reshape(1, len(x), *self.ones, -1)
            values = functional_call(self.basis, self.named, (given,)) if self.named else self.basis(given)  # type: ignore[arg-type]
            self.out = values.flatten(2)[0]
        return self.out.detach()

    def pullback(self, gradient: torch.Tensor, need_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """See :class:`BasisTape`."""
        wanted = [self.x] * need_input + self.parameters
        if not wanted or not self.out.requires_grad:
            return torch.zeros_like(self.x) if need_input else None, [torch.zeros_like(p) for p in self.parameters]
        found = torch.autograd.grad(self.out, wanted, gradient, allow_unused=True)
        filled = [torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True)]
        return (filled[0], filled[1:]) if need_input else (None, filled)


class LearnedBasisTape:
    """Tape of a :class:`LearnedBasis` that uses the same memory for every portion.

    It avoids the copies and allocations of autograd, which cost more than the arithmetic of layers this narrow. Biases are
    the last column of the weights, their input a row of ones.

    Args:
        parameters: weight and bias of each layer, in order, on the device of ``like``.
        like: gives the dtype to compute in.
        voxels: of the largest portion.

    Raises:
        RuntimeError: if the parameters are on another device, where no gradient would reach them.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], like: torch.Tensor, voxels: int) -> None:
        elsewhere = next((p.device for p in parameters if p.device != like.device), None)
        if elsewhere is not None:
            raise RuntimeError(f"the basis is on {elsewhere}, the images on {like.device}; move the loss with loss.to(device)")
        layers = zip(parameters[::2], parameters[1::2], strict=True)
        self.weights = [torch.cat((w.detach(), b.detach()[:, None]), 1).to(like.dtype) for w, b in layers]
        inputs, outputs = [w.shape[1] for w in self.weights], len(self.weights[-1])
        self.values: list[torch.Tensor] = []
        self._room = _Room([*inputs, outputs], voxels, like)
        self._gradient_room = _Room([*(n - 1 for n in inputs), outputs], voxels, like)

    @staticmethod
    def numbers_per_voxel(basis: LearnedBasis) -> int:
        """Numbers held per voxel of the largest portion."""
        layers = cast("list[nn.Linear]", basis.layers)
        return sum(2 * layer.in_features + 1 for layer in layers) + 2 * basis.num_basis

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``(C, N)`` intensities to ``(J, N)`` basis values, valid until the next call."""
        if not self.values or self.values[0].shape[1] != x.shape[1]:
            self.values = self._room.matrices(x.shape[1])
            for value in self.values[:-1]:
                value[-1].fill_(1)
        self.values[0][:-1].copy_(x)
        for number, weight in enumerate(self.weights):
            last = number == len(self.weights) - 1
            out = self.values[number + 1] if last else self.values[number + 1][:-1]
            torch.mm(weight, self.values[number], out=out)
            _ = out.sigmoid_() if last else out.clamp_min_(0)
        return self.values[-1]

    def pullback(self, gradient: torch.Tensor, need_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """From the gradient ``(J, N)`` of the last call's output to those of its input ``(C, N)`` and of the parameters."""
        gradients = self._gradient_room.matrices(gradient.shape[1])
        outward = gradients[-1]
        torch.ops.aten.sigmoid_backward.grad_input(gradient, self.values[-1], grad_input=outward)
        found: list[torch.Tensor] = []
        for number in reversed(range(len(self.weights))):
            both = outward @ self.values[number].T
            found[:0] = [both[:, :-1], both[:, -1]]
            if number == 0 and not need_input:
                return None, found
            inward = gradients[number]
            torch.mm(self.weights[number][:, :-1].T, outward, out=inward)
            if number:
                torch.ops.aten.threshold_backward.grad_input(inward, self.values[number][:-1], 0, grad_input=inward)
            outward = inward
        return outward, found


class _Room:
    """Memory for matrices with these numbers of rows and up to ``columns`` columns, allocated on first use."""

    def __init__(self, rows: Sequence[int], columns: int, like: torch.Tensor) -> None:
        self.rows, self.columns, self.like = rows, columns, like
        self.flat: list[torch.Tensor] = []

    def matrices(self, columns: int) -> list[torch.Tensor]:
        """Contiguous matrices with this number of columns, in the memory of those of the last call."""
        if not self.flat:
            self.flat = [self.like.new_empty(n * self.columns) for n in self.rows]
        return [flat[: n * columns].view(n, columns) for flat, n in zip(self.flat, self.rows, strict=True)]
