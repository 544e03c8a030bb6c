# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Basis functions evaluated on one portion of voxels after another, and differentiated there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.func import functional_call

from ..recent import Recent
from .basis import BatchedBasis, LearnedBasis

__all__ = ["AutogradTape", "BasisTape", "LearnedBasisTape", "basis_tape", "tape_numbers_per_voxel"]


class BasisTape(Protocol):
    """Evaluates a basis on a portion of voxels and keeps what the derivative there needs."""

    def __call__(self, x: torch.Tensor, items: slice) -> torch.Tensor:
        """Basis values of some items.

        Args:
            x: ``(G, C, N)``, intensities of G items.
            items: which ones of the batch.

        Returns:
            ``(G, J, N)``, valid until the next call.
        """

    def pullback(self, gradient: torch.Tensor, scratch: torch.Tensor, out: torch.Tensor | None) -> None:
        """Write the gradient of the last call's input, and add that of the parameters; the values are lost.

        Args:
            gradient: of the last call's output, ``(G, J, N)``; may be overwritten.
            scratch: ``(numbers,)``, memory that may be overwritten.
            out: gradient of the input, ``(G, C, N)``; None where it is not needed.
        """

    def gradients(self) -> list[torch.Tensor]:
        """The gradients of the parameters, summed over all calls of :meth:`pullback`, at least one."""


def basis_tape(
    basis: Callable[[torch.Tensor], torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
    like: torch.Tensor,
    voxels: int,
    kept: Recent[Any] | None = None,
) -> BasisTape:
    """The fastest tape for a basis.

    Args:
        basis: voxel-wise module, ``(B, C, *spatial)`` to ``(B, J, *spatial)``.
        parameters: values of its parameters whose gradients are wanted, by name.
        like: the images, ``(B, C, *spatial)``; gives number of axes, dtype and device.
        voxels: of the largest portion, over all of its items.
        kept: keeps what depends on the sizes between calls.
    """
    if type(basis) is LearnedBasis and not basis.changed() and len(parameters) == 2 * len(basis.layers):
        return LearnedBasisTape(list(parameters.values()), like, voxels, kept)
    if isinstance(basis, BatchedBasis):
        if len(basis.stacked[0]) != len(like):
            raise ValueError(f"a batch of {len(basis.stacked[0])} bases takes as many items, got {len(like)}.")
        every = dict(basis.named_parameters()) | dict(parameters)
        wanted = [number for number, name in enumerate(every) if name in parameters]
        return LearnedBasisTape(list(every.values()), like, voxels, kept, wanted)
    return AutogradTape(basis, parameters, like.ndim - 2)


def tape_numbers_per_voxel(basis: Callable[[torch.Tensor], torch.Tensor], num_basis: int) -> int:
    """Numbers that a tape holds per voxel of a portion; for a basis of an unknown kind, an estimate."""
    if isinstance(basis, LearnedBasis | BatchedBasis):
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
        self.totals: list[torch.Tensor] | None = None

    def __call__(self, x: torch.Tensor, items: slice) -> torch.Tensor:
        """See :class:`BasisTape`."""
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            given = self.x.reshape(*x.shape[:2], *self.ones, -1)
            values = functional_call(self.basis, self.named, (given,)) if self.named else self.basis(given)  # type: ignore[arg-type]
            self.out = values.flatten(2)
        return self.out.detach()

    def pullback(self, gradient: torch.Tensor, scratch: torch.Tensor, out: torch.Tensor | None) -> None:
        """See :class:`BasisTape`."""
        wanted = [self.x] * (out is not None) + self.parameters
        found: Sequence[torch.Tensor | None] = [None] * len(wanted)
        if wanted and self.out.requires_grad:
            found = torch.autograd.grad(self.out, wanted, gradient, allow_unused=True)
        filled = [torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True)]
        if out is not None:
            out.copy_(filled.pop(0))
        self.totals = filled if self.totals is None else [a.add_(b) for a, b in zip(self.totals, filled, strict=True)]

    def gradients(self) -> list[torch.Tensor]:
        """See :class:`BasisTape`."""
        assert self.totals is not None
        return self.totals


class LearnedBasisTape:
    """Tape of a :class:`LearnedBasis` that uses the same memory for every portion.

    It avoids the copies and allocations of autograd, which cost more than the arithmetic of layers this narrow. Biases are
    the last column of the weights, their input a row of ones: of the images' channels one is appended, and a hidden layer
    has one more row, which passes it on.

    Args:
        parameters: weight and bias of each layer, in order, on the device of ``like``; or a stack of each, with one set for
            each item of the batch.
        like: gives the dtype to compute in.
        voxels: of the largest portion, over all of its items.
        kept: keeps what depends on the sizes between calls.
        wanted: numbers of the parameters whose gradients are wanted; None for all.

    Raises:
        RuntimeError: if the parameters are on another device, where no gradient would reach them.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        like: torch.Tensor,
        voxels: int,
        kept: Recent[Any] | None = None,
        wanted: Sequence[int] | None = None,
    ) -> None:
        self.wanted = range(len(parameters)) if wanted is None else wanted
        elsewhere = next((p.device for p in parameters if p.device != like.device), None)
        if elsewhere is not None:
            raise RuntimeError(f"the basis is on {elsewhere}, the images on {like.device}; move the loss with loss.to(device)")
        self.like, self.voxels = like, voxels
        self.layout = _Layout.kept(kept, parameters, like)
        self.weights, self.parameters = self.layout.packed(parameters), parameters
        self.flat: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.total: torch.Tensor | None = None

    @staticmethod
    def numbers_per_voxel(basis: LearnedBasis | BatchedBasis) -> int:
        """Numbers held per voxel of the largest portion."""
        widths = [int(p.shape[-1]) for p in list(basis.parameters())[::2]]
        # a gradient that does not fit into the values of the next layer, the last one into those of the maps
        rooms = [*(width + 1 for width in widths[2:]), basis.num_basis * (basis.num_basis + 1) // 2]
        more = sum(width for width, room in zip(widths[1:], rooms, strict=False) if width > room)
        return sum(width + 1 for width in widths) + basis.num_basis + more

    def __call__(self, x: torch.Tensor, items: slice) -> torch.Tensor:
        """See :class:`BasisTape`."""
        if not self.values or self.values[0].shape != (len(x), x.shape[1] + 1, x.shape[2]):
            self._make_room(x)
        self.items = items
        torch.cat((x, self.layout.one.expand(len(x), 1, x.shape[2])), 1, out=self.values[0])
        for number in range(len(self.weights)):
            out = self.values[number + 1]
            torch.bmm(self._of_items(number), self.values[number], out=out)
            _ = out.sigmoid_() if number == len(self.weights) - 1 else out.clamp_min_(0)
        return self.values[-1]

    def _of_items(self, number: int) -> torch.Tensor:
        """The matrix of a layer for each item of the last call, ``(G, rows, columns)``."""
        weight = self.weights[number]
        return weight[self.items] if len(weight) > 1 else weight.expand(len(self.values[0]), -1, -1)

    def _make_room(self, x: torch.Tensor) -> None:
        """Contiguous values ``(G, rows, N)`` of each layer, in memory allocated on first use."""
        rows = [weight.shape[2] for weight in self.weights] + [self.weights[-1].shape[1]]
        if not self.flat:
            self.flat = [self.like.new_empty(n * self.voxels) for n in rows]
        self.values = [_room(flat, len(x), n, x.shape[2]) for flat, n in zip(self.flat, rows, strict=True)]

    def pullback(self, gradient: torch.Tensor, scratch: torch.Tensor, out: torch.Tensor | None) -> None:
        """See :class:`BasisTape`."""
        items, _, voxels = gradient.shape
        # the memory of a layer's values is free for the gradient of the layer before it
        free, outward = scratch, gradient
        torch.ops.aten.sigmoid_backward.grad_input(gradient, self.values[-1], grad_input=outward)
        for number in reversed(range(len(self.weights))):
            values, weight = self.values[number], self._of_items(number)[:, : outward.shape[1], :-1]
            self._add(number, outward, values)
            if number == 0 and out is None:
                return
            inward = out if out is not None and number == 0 else _room(free, items, weight.shape[2], voxels)
            torch.bmm(weight.mT, outward, out=inward)
            if number:
                torch.ops.aten.threshold_backward.grad_input(inward, values[:, :-1], 0, grad_input=inward)
                free = self.flat[number]
            outward = inward

    def _add(self, number: int, outward: torch.Tensor, values: torch.Tensor) -> None:
        """Add the gradient of a layer's weights."""
        sets = len(self.weights[0])
        if self.total is None:
            self.total, self.totals = self.layout.room_for_gradients(outward, sets)
            self.empty = {(number, first) for number in range(len(self.weights)) for first in range(sets)}
        total = self.totals[number][self.items] if sets > 1 else self.totals[number]
        first = self.items.start if sets > 1 else 0
        if sets == 1 and len(outward) > 1:
            product = torch.bmm(outward, values.mT).sum(0, keepdim=True)
            _ = total.copy_(product) if (number, first) in self.empty else total.add_(product)
        else:
            torch.baddbmm(total, outward, values.mT, beta=0 if (number, first) in self.empty else 1, out=total)
        self.empty.discard((number, first))

    def gradients(self) -> list[torch.Tensor]:
        """See :class:`BasisTape`."""
        assert self.total is not None
        found = self.layout.unpacked(self.total, self.parameters)
        return [found[number] for number in self.wanted]


@dataclass(frozen=True)
class _Layout:
    """Where the numbers of weights and biases stand in the matrices of a tape, and their gradients' in those of a layer.

    Attributes:
        shapes: rows and columns of the matrices.
        source: for each number of all matrices, its position in the list of all parameters, a zero and a one.
        constants: zero and one, ``(1, 2)``.
        target: for each parameter, its position in the gradients of all matrices, without the row that is passed on.
    """

    shapes: list[tuple[int, int]]
    source: torch.Tensor
    constants: torch.Tensor
    target: torch.Tensor

    @classmethod
    def make(cls, sizes: Sequence[tuple[int, int]], like: torch.Tensor) -> _Layout:
        """The layout of layers of ``(outputs, inputs)``, on the device and in the dtype of a tensor."""
        shapes, source, target, first, begin = [], [], [], 0, 0
        count = sum(outputs * (inputs + 1) for outputs, inputs in sizes)
        for number, (outputs, inputs) in enumerate(sizes):
            weights = np.arange(first, first + outputs * inputs).reshape(outputs, inputs)
            biases = np.arange(outputs)[:, None] + first + outputs * inputs
            passed = [[count] * inputs + [count + 1]] * (number < len(sizes) - 1)
            matrix = np.concatenate([np.concatenate([weights, biases], 1), np.reshape(passed, (-1, inputs + 1)).astype(int)])
            found = np.arange(begin, begin + outputs * (inputs + 1)).reshape(outputs, -1)
            target += [found[:, :-1].ravel(), found[:, -1]]
            shapes.append(matrix.shape)
            source.append(matrix.ravel())
            first, begin = first + outputs * (inputs + 1), begin + found.size
        indices = (torch.tensor(np.concatenate(x), device="cpu").to(like.device, non_blocking=True) for x in (source, target))
        constants = torch.tensor([[0.0, 1.0]], dtype=like.dtype, device="cpu").to(like.device, non_blocking=True)
        return cls(shapes, next(indices), constants, next(indices))

    @classmethod
    def kept(cls, kept: Recent[Any] | None, parameters: Sequence[torch.Tensor], like: torch.Tensor) -> _Layout:
        """:meth:`make`, or what it returned before."""
        sizes = tuple((int(p.shape[-2]), int(p.shape[-1])) for p in parameters[::2])
        if kept is None:
            return cls.make(sizes, like)
        return kept.get((cls, sizes, like.device, like.dtype), lambda: cls.make(sizes, like))

    @property
    def one(self) -> torch.Tensor:
        """``(1, 1)``."""
        return self.constants[:, 1:]

    def packed(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The matrix of each layer, ``(L, rows, columns)``, for L sets of parameters."""
        sets = 1 if parameters[0].ndim == 2 else len(parameters[0])
        flat = [p.detach().reshape(sets, -1).to(self.constants.dtype) for p in parameters]
        numbers = torch.cat([*flat, self.constants.expand(sets, -1)], 1).index_select(1, self.source)
        parts = numbers.split([rows * columns for rows, columns in self.shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def room_for_gradients(self, like: torch.Tensor, sets: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Memory of the gradients of all matrices, ``(L, numbers)``, and its part for each layer."""
        shapes = [(rows - (number < len(self.shapes) - 1), columns) for number, (rows, columns) in enumerate(self.shapes)]
        room = like.new_empty(sets, sum(rows * columns for rows, columns in shapes))
        parts = room.split([rows * columns for rows, columns in shapes], 1)
        return room, [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def unpacked(self, room: torch.Tensor, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients of the parameters, from those of all matrices."""
        sets = len(room)
        parts = room.index_select(1, self.target).to(parameters[0].dtype).split([p.numel() // sets for p in parameters], 1)
        return [part.reshape(p.shape) for part, p in zip(parts, parameters, strict=True)]


def _room(flat: torch.Tensor, items: int, rows: int, columns: int) -> torch.Tensor:
    """A contiguous ``(items, rows, columns)`` in the memory of ``flat``, or in new memory where that is too small."""
    size = items * rows * columns
    return (flat if flat.numel() >= size else flat.new_empty(size))[:size].view(items, rows, columns)
