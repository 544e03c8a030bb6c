# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local Gram matrices: window averages of products of voxel-wise features.

One primitive serves every measure made of local second moments. With the features ``[psi, t]`` it gives the ``A``, ``c``
and ``b`` of the local least squares fit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..autograd import StreamedFunction
from ..networks.basis_tape import BasisTape, basis_tape, tape_numbers_per_voxel
from .streaming import StreamedWindows

__all__ = ["LocalGram", "local_gram"]


class LocalGram:
    """The products whose window averages make up a local Gram matrix.

    Args:
        basis: voxel-wise module, ``(1, C, *spatial)`` to ``(1, num_basis, *spatial)``.
        num_basis: J.
        channels: channels T of the target.
        masked: whether voxels carry weights; adds the map ``mass``.
        first_moments: adds the maps ``psi`` and ``t``, plain averages.

    Attributes:
        layout: rows of the maps by name: ``psi_psi``, ``psi_i psi_j`` for i <= j row by row; ``psi_t``, ``psi_j t_c`` with j
            outer; ``t_t``, ``t_c t_c``; and the optional ones.
        count: number of maps P.
    """

    def __init__(
        self,
        basis: Callable[[torch.Tensor], torch.Tensor],
        num_basis: int,
        channels: int,
        masked: bool = False,
        first_moments: bool = False,
    ) -> None:
        self.basis, self.num_basis, self.channels = basis, num_basis, channels
        self.masked, self.first_moments = masked, first_moments
        sizes = {"psi_psi": num_basis * (num_basis + 1) // 2, "psi_t": num_basis * channels, "t_t": channels}
        sizes |= {"psi": num_basis, "t": channels} if first_moments else {}
        sizes |= {"mass": 1} if masked else {}
        stops = list(itertools.accumulate(sizes.values()))
        self.layout = {name: slice(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}
        self.count = stops[-1]

    def numbers_per_voxel(self, windows: StreamedWindows) -> int:
        """Numbers that the forward or the backward pass holds per voxel of a slab, at most."""
        features = self.num_basis + self.channels
        filtering = windows.filter_numbers(self.count) + (self.num_basis if self.first_moments else 0)
        gradients = self.count + 2 * features  # of the maps, of psi and t, and what these are added up from
        channels = getattr(self.basis, "in_channels", self.num_basis)
        return channels + tape_numbers_per_voxel(self.basis, self.num_basis) + features + max(filtering, gradients)

    def products(self, psi: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None) -> torch.Tensor:
        """All maps of a slab, ``(P, *slab)``, from weighted features ``(J, *slab)``, ``(T, *slab)`` and root weights."""
        out = psi.new_empty(self.count, *psi.shape[1:])
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


def local_gram(
    gram: LocalGram,
    windows: StreamedWindows,
    pred: torch.Tensor,
    target: torch.Tensor,
    root: torch.Tensor | None,
    parameters: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Window averages of the products of ``[basis(pred), target]``, differentiable in pred, target and the basis.

    Args:
        gram: the products.
        windows: where they are averaged.
        pred: ``(B, C, *spatial)``, input of the basis functions.
        target: ``(B, T, *spatial)``.
        root: square roots of the voxel weights, ``(1 or B, 1, *spatial)``, or None; not differentiated.
        parameters: those of the basis that need a gradient, by name.

    Returns:
        ``(B, P, *windows)``, rows as in ``gram.layout``.
    """
    parameters = parameters or {}
    return _LocalGramFunction.apply(gram, windows, tuple(parameters), pred, target, root, *parameters.values())


class _Slabs:
    """Weighted features of the slabs of some images, and the gradients that come back through them."""

    def __init__(
        self,
        gram: LocalGram,
        windows: StreamedWindows,
        images: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
        parameters: Mapping[str, torch.Tensor],
    ) -> None:
        self.gram, (self.pred, self.target, self.root) = gram, images
        planes = max(part.stop - part.start for part in windows.slabs(gram, self.pred.element_size()))
        self.tape: BasisTape = basis_tape(gram.basis, parameters, self.pred, planes * math.prod(windows.shape[1:]))

    def features(self, item: int, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Psi ``(J, *slab)``, t ``(T, *slab)`` and root weights or None."""
        pred, t = self.pred[item, :, part], self.target[item, :, part]
        psi = self.tape(pred.flatten(1)).view(-1, *pred.shape[1:])
        if self.root is None:
            return psi, t, None
        root = self.root[item % len(self.root), :, part]
        return psi * root, t * root, root

    def products(self, item: int, part: slice) -> torch.Tensor:
        """The maps of a slab."""
        return self.gram.products(*self.features(item, part))

    def add_gradients(
        self,
        maps: torch.Tensor,
        at: tuple[int, slice],
        dpred: torch.Tensor | None,
        dtarget: torch.Tensor | None,
        dparameters: Sequence[torch.Tensor],
    ) -> None:
        """From the gradient of the maps of a slab, write those of both images there, and add those of the parameters."""
        item, part = at
        psi, t, root = self.features(item, part)
        if dtarget is not None:
            dt = self.gram.target_gradient(maps, psi, t, root)
            dtarget[item, :, part] = dt if root is None else dt.mul_(root)
        if dpred is None and not dparameters:
            return
        dpsi = self.gram.psi_gradient(maps, psi, t, root)
        dpsi = dpsi if root is None else dpsi.mul_(root)
        dx, found = self.tape.pullback(dpsi.flatten(1), dpred is not None)
        if dpred is not None and dx is not None:
            dpred[item, :, part] = dx.view_as(dpred[item, :, part])
        for total, value in zip(dparameters, found, strict=True):
            total.add_(value)


class _LocalGramFunction(StreamedFunction):
    leading = (3, 4, 5)
    differentiable = (3, 4)
    shared_from = 6
    saved_leading = 3

    @staticmethod
    def forward(
        gram: LocalGram,
        windows: StreamedWindows,
        names: tuple[str, ...],
        pred: torch.Tensor,
        target: torch.Tensor,
        root: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        slabs = _Slabs(gram, windows, (pred, target, root), dict(zip(names, parameters, strict=True)))
        return windows.average(gram, pred, slabs.products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = dict(zip(("gram", "windows", "names"), inputs[:3], strict=True))
        ctx.save_for_backward(*inputs[3:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gram, windows, names = ctx.options.values()
        pred, target, root, *parameters = ctx.saved_tensors
        need_pred, need_target = ctx.needs_input_grad[3:5]
        slabs = _Slabs(gram, windows, (pred, target, root), dict(zip(names, parameters, strict=True)))
        dpred = torch.empty_like(pred) if need_pred else None
        dtarget = torch.empty_like(target) if need_target else None
        dparameters = [torch.zeros_like(p) for p in parameters]

        def consume(item: int, part: slice, maps: torch.Tensor) -> None:
            slabs.add_gradients(maps, (item, part), dpred, dtarget, dparameters)

        windows.pull_back(gram, pred, grad, consume)
        return None, None, None, dpred, dtarget, None, *dparameters
