# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local Gram matrices: window averages of products of voxel-wise features, streamed through the volume.

One primitive serves every measure that is made of local second moments. With the features ``[psi, t]`` it gives the
``A``, ``c`` and ``b`` of the local least squares fit. The features and their products exist for one slab at a time,
in forward and in backward, where they are computed anew; only inputs and per-window sums are kept.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call

from ..autograd import StreamedFunction
from ..geometry import slabs
from ..networks.basis import LearnedBasis, LearnedBasisTape
from ..precision import full_precision
from .windows import BandedMatrix

__all__ = ["LocalGram", "local_gram"]

LONGEST = 512  # planes of a slab: its part of the first axis's matrix is dense, which long images could not afford


class LocalGram:
    """What a local Gram matrix consists of: which products, over which windows, in which portions.

    Args:
        basis: voxel-wise module, ``(1, C, *spatial)`` to ``(1, num_basis, *spatial)``.
        num_basis: J.
        channels: channels T of the target.
        windows: the window matrices of the spatial axes.
        budget: bytes that a call may hold beside its inputs, its results and what is the same for all slabs: features of
            a slab, activations of the basis, products, their filtered forms and gradients. One plane of the first axis is
            the least, whatever it takes. Activations of a basis of an unknown kind are estimated.
        masked: whether voxels carry weights; adds the map ``mass``.
        first_moments: adds the maps ``psi`` and ``t``, plain averages.
    """

    def __init__(
        self,
        basis: Callable[[torch.Tensor], torch.Tensor],
        num_basis: int,
        channels: int,
        windows: Sequence[BandedMatrix],
        budget: int,
        masked: bool = False,
        first_moments: bool = False,
    ) -> None:
        self.basis, self.num_basis, self.channels, self.windows = basis, num_basis, channels, windows
        self.budget, self.masked, self.first_moments = budget, masked, first_moments
        self.shape = tuple(w.size for w in windows)
        self.window_shape = tuple(w.count for w in windows)
        self.layout = self._layout()
        self.maps = max(rows.stop for rows in self.layout.values())

    def _layout(self) -> dict[str, slice]:
        """Rows of the maps: ``psi_i psi_j`` for i <= j row by row, ``psi_j t_c`` with j outer, ``t_c t_c``, and so on."""
        j, t = self.num_basis, self.channels
        sizes = {"psi_psi": j * (j + 1) // 2, "psi_t": j * t, "t_t": t}
        sizes |= {"psi": j, "t": t} if self.first_moments else {}
        sizes |= {"mass": 1} if self.masked else {}
        stops = list(itertools.accumulate(sizes.values()))
        return {name: slice(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}

    def slabs(self, itemsize: int) -> list[slice]:
        """Portions of the first axis that the budget allows; never less than one plane."""
        voxels = math.prod(self.shape[1:])
        # a plane also has its columns of the first axis's matrix, which is made from a few others of its size
        columns = 5 * LONGEST * min(1.0, self.windows[0].count / self.windows[0].size)
        plane = math.ceil(itemsize * (self.numbers_per_voxel() * voxels + columns))
        return slabs(self.shape, min(max(1, self.budget // plane), LONGEST) * voxels)

    def numbers_per_voxel(self) -> int:
        """What forward or backward hold at most of a slab, per voxel."""
        features = self.num_basis + self.channels
        gradients = self.maps + 2 * features  # of the maps, of psi and t, and what these are added up from
        channels = getattr(self.basis, "in_channels", self.num_basis)
        return channels + self._activations() + features + max(self._filtering(), gradients)

    def _activations(self) -> int:
        if isinstance(self.basis, LearnedBasis):
            return LearnedBasisTape.numbers_per_voxel(self.basis)
        return 4 * self.num_basis  # the values, what autograd keeps for their derivative, and the gradients

    def _filtering(self) -> int:
        """Maps before, between and after the filters of the axes, the first axis last; features that are being multiplied."""
        shares = (w.count / w.size for w in (*self.windows[1:], self.windows[0]))
        held = self.maps * sum(itertools.accumulate(shares, operator.mul, initial=1.0))
        return math.ceil(held) + (self.num_basis if self.first_moments else 0)

    def products(self, psi: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None) -> torch.Tensor:
        """All maps of a slab, ``(P, *slab)``, from weighted features ``(J, *slab)``, ``(T, *slab)`` and root weights."""
        out = psi.new_empty(self.maps, *psi.shape[1:])
        row = 0
        for j in range(len(psi)):
            torch.mul(psi[j:], psi[j], out=out[row : row + len(psi) - j])
            row += len(psi) - j
        torch.mul(psi[:, None], target, out=out[self.layout["psi_t"]].unflatten(0, (len(psi), -1)))
        torch.mul(target, target, out=out[self.layout["t_t"]])
        if self.first_moments:
            out[self.layout["psi"]] = psi if root is None else psi * root
            out[self.layout["t"]] = target if root is None else target * root
        if root is not None:
            torch.mul(root, root, out=out[self.layout["mass"]])
        return out

    def psi_gradient(
        self, grad: torch.Tensor, psi: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None
    ) -> torch.Tensor:
        """Adjoint of :meth:`products` in psi, ``(J, *slab)``, from the gradients of the maps."""
        out = torch.zeros_like(psi)
        row = 0
        for j in range(len(psi)):
            part = grad[row : row + len(psi) - j]
            out[j:].addcmul_(part, psi[j])
            for k, values in enumerate(part, j):
                out[j].addcmul_(values, psi[k])
            row += len(psi) - j
        cross = grad[self.layout["psi_t"]].unflatten(0, (len(psi), -1))
        for c in range(len(target)):
            out.addcmul_(cross[:, c], target[c])
        if self.first_moments:
            part = grad[self.layout["psi"]]
            out.add_(part if root is None else part * root)
        return out

    def target_gradient(
        self, grad: torch.Tensor, psi: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None
    ) -> torch.Tensor:
        """Adjoint of :meth:`products` in the target, ``(T, *slab)``."""
        out = 2 * grad[self.layout["t_t"]] * target
        for values, part in zip(psi, grad[self.layout["psi_t"]].unflatten(0, (len(psi), -1)), strict=True):
            out.addcmul_(part, values)
        if self.first_moments:
            part = grad[self.layout["t"]]
            out.add_(part if root is None else part * root)
        return out

    def filter(self, maps: torch.Tensor) -> torch.Tensor:
        """Window averages along all axes but the first: ``(P, S, ...)`` to ``(P, S, windows)``."""
        out = maps
        for axis in range(1, len(self.shape)):
            out = self.windows[axis].filter(out, axis + 1)
        return out.reshape(*maps.shape[:2], -1)

    def adjoint(self, maps: torch.Tensor) -> torch.Tensor:
        """Transpose of :meth:`filter`: ``(P, S, windows)`` to ``(P, S, ...)``."""
        out = maps.reshape(*maps.shape[:2], *self.window_shape[1:])
        for axis in range(len(self.shape) - 1, 0, -1):
            out = self.windows[axis].adjoint(out, axis + 1)
        return out.reshape(*maps.shape[:2], *self.shape[1:])


def local_gram(
    gram: LocalGram,
    pred: torch.Tensor,
    target: torch.Tensor,
    root: torch.Tensor | None,
    parameters: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Window averages of the products of ``[basis(pred), target]``, differentiable in pred, target and the basis.

    Args:
        gram: products and windows.
        pred: ``(B, C, *spatial)``, what the basis functions see.
        target: ``(B, T, *spatial)``.
        root: square roots of the voxel weights, ``(1 or B, 1, *spatial)``, or None; not differentiated.
        parameters: those of the basis that want a gradient, by name.

    Returns:
        ``(B, P, *windows)``, rows as in ``gram.layout``.
    """
    parameters = parameters or {}
    return _LocalGramFunction.apply(gram, tuple(parameters), pred, target, root, *parameters.values())


class _AutogradTape:
    """The interface of :class:`monai_locor.networks.basis.LearnedBasisTape` for any voxel-wise module.

    Args:
        basis: the module.
        parameters: what stands for its own parameters, by name.
        dims: of an image.
    """

    def __init__(
        self, basis: Callable[[torch.Tensor], torch.Tensor], parameters: Mapping[str, torch.Tensor], dims: int
    ) -> None:
        self.basis, self.ones = basis, (1,) * (dims - 1)
        self.named = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        self.parameters = list(self.named.values())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            self.x = x.detach().requires_grad_()
            given = self.x.reshape(1, len(x), *self.ones, -1)
            values = functional_call(self.basis, self.named, (given,)) if self.named else self.basis(given)  # type: ignore[arg-type]
            self.out = values.flatten(2)[0]
        return self.out.detach()

    def pullback(self, gradient: torch.Tensor, need_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        wanted = [self.x] * need_input + self.parameters
        if not wanted or not self.out.requires_grad:
            return torch.zeros_like(self.x) if need_input else None, [torch.zeros_like(p) for p in self.parameters]
        found = torch.autograd.grad(self.out, wanted, gradient, allow_unused=True)
        filled = [torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True)]
        return (filled[0], filled[1:]) if need_input else (None, filled)


def _tape(
    gram: LocalGram, names: Sequence[str], parameters: Sequence[torch.Tensor], like: torch.Tensor
) -> LearnedBasisTape | _AutogradTape:
    """The fast tape where the basis is what it looks like, and all of it learns."""
    if type(gram.basis) is LearnedBasis and not gram.basis.changed():
        if len(parameters) == 2 * len(gram.basis.layers):
            planes = max(part.stop - part.start for part in gram.slabs(like.element_size()))
            return LearnedBasisTape(parameters, like, planes * math.prod(gram.shape[1:]))
    return _AutogradTape(gram.basis, dict(zip(names, parameters, strict=True)), len(gram.shape))


class _Slab:
    """Weighted features of one portion of an item: psi ``(J, *slab)``, t ``(T, *slab)``, root weights or None."""

    def __init__(
        self,
        tape: LearnedBasisTape | _AutogradTape,
        pred: torch.Tensor,
        target: torch.Tensor,
        root: torch.Tensor | None,
        item: int,
        part: slice,
    ) -> None:
        self.tape, self.root = tape, None if root is None else root[item % len(root), :, part]
        self.psi, self.t = tape(pred[item, :, part].flatten(1)).view(-1, *pred[item, 0, part].shape), target[item, :, part]
        if self.root is not None:
            self.psi, self.t = self.psi * self.root, self.t * self.root


# what a slab takes is given back before the next one: its variables end with these functions


def _add_moments(gram: LocalGram, slab: _Slab, out: torch.Tensor, part: slice) -> None:
    """Add what a portion contributes to the maps of an item, ``(P, windows, windows of the other axes)``."""
    low = gram.filter(gram.products(slab.psi, slab.t, slab.root))
    rows, matrix = gram.windows[0].part(part)
    out[:, rows].add_(torch.matmul(matrix, low))


def _add_gradients(
    gram: LocalGram,
    slab: _Slab,
    grad: torch.Tensor,
    part: slice,
    dpred: torch.Tensor | None,
    dtarget: torch.Tensor | None,
    dparameters: Sequence[torch.Tensor],
) -> None:
    """Write the gradients of a portion of both images, and add those of the parameters."""
    rows, matrix = gram.windows[0].part(part)
    maps = gram.adjoint(torch.matmul(matrix.T, grad[:, rows]))
    if dtarget is not None:
        dt = gram.target_gradient(maps, slab.psi, slab.t, slab.root)
        dtarget.copy_(dt if slab.root is None else dt.mul_(slab.root))
    if dpred is not None or dparameters:
        dpsi = gram.psi_gradient(maps, slab.psi, slab.t, slab.root)
        dpsi = dpsi if slab.root is None else dpsi.mul_(slab.root)
        dx, found = slab.tape.pullback(dpsi.flatten(1), dpred is not None)
        if dpred is not None and dx is not None:
            dpred.copy_(dx.view(dpred.shape))
        for total, value in zip(dparameters, found, strict=True):
            total.add_(value)


class _LocalGramFunction(StreamedFunction):
    leading = (2, 3, 4)
    differentiable = (2, 3)
    shared_from = 5
    saved_leading = 3

    @staticmethod
    def forward(
        gram: LocalGram,
        names: tuple[str, ...],
        pred: torch.Tensor,
        target: torch.Tensor,
        root: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        tape = _tape(gram, names, parameters, pred)
        out = pred.new_zeros(len(pred), gram.maps, gram.window_shape[0], math.prod(gram.window_shape[1:]))
        for item in range(len(pred)):
            for part in gram.slabs(pred.element_size()):
                _add_moments(gram, _Slab(tape, pred, target, root, item, part), out[item], part)
        return out.view(len(pred), gram.maps, *gram.window_shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"gram": inputs[0], "names": inputs[1]}
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gram: LocalGram = ctx.options["gram"]
        pred, target, root, *parameters = ctx.saved_tensors
        need_pred, need_target = ctx.needs_input_grad[2:4]
        tape = _tape(gram, ctx.options["names"], parameters, pred)
        dpred = torch.empty_like(pred) if need_pred else None
        dtarget = torch.empty_like(target) if need_target else None
        dparameters = [torch.zeros_like(p) for p in parameters]
        grad = grad.reshape(*grad.shape[:2], gram.window_shape[0], -1)
        with full_precision(pred.device):
            for item in range(len(pred)):
                for part in gram.slabs(pred.element_size()):
                    dx, dt = (None if x is None else x[item, :, part] for x in (dpred, dtarget))
                    slab = _Slab(tape, pred, target, root, item, part)
                    _add_gradients(gram, slab, grad[item], part, dx, dt, dparameters)
        return None, None, dpred, dtarget, None, *dparameters
