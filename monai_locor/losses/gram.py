# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Local Gram matrices: window averages of products of voxel-wise features, streamed through the volume.

One primitive serves every measure that is made of local second moments. With the features ``[psi, t]`` it gives the
``A``, ``c`` and ``b`` of the local least squares fit. The features and their products exist for one slab at a time,
in forward and in backward, where they are computed anew; only inputs and per-window sums are kept.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .windows import AxisWindows

__all__ = ["LocalGram", "full_precision", "local_gram"]

LONGEST = 512  # planes of a slab: its part of the first axis's matrix is dense, which long images could not afford


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast, TF32 and the CPU's bfloat16 products out of the moments, whatever the caller has switched on.

    Restored on leaving. ``torch.set_float32_matmul_precision("high")`` concerns the CPU too.
    """
    owner, name, full = _precision_setting(device)
    before = getattr(owner, name)
    with torch.autocast(device.type, enabled=False):
        if before in (full, "none"):
            yield
            return
        setattr(owner, name, full)
        try:
            yield
        finally:
            setattr(owner, name, before)


class _LegacyPrecision:
    """The one setting that torch before 2.9 has for all devices, as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


def _precision_setting(device: torch.device) -> tuple[Any, str, str]:
    """Owner and name of the precision of float32 matrix products on a device, and its value for full precision."""
    matmul = getattr(torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn, "matmul", None)
    if hasattr(matmul, "fp32_precision"):
        return matmul, "fp32_precision", "ieee"
    return _LegacyPrecision(), "precision", "highest"


class LocalGram:
    """What a local Gram matrix consists of: which products, over which windows, in which portions.

    Args:
        basis: voxel-wise module, ``(1, C, *spatial)`` to ``(1, num_basis, *spatial)``.
        num_basis: J.
        channels: channels T of the target.
        windows: the window matrices of the spatial axes.
        budget: bytes that the products of one slab may take.
        masked: whether voxels carry weights; adds the map ``mass``.
        first_moments: adds the maps ``psi`` and ``t``, plain averages.
    """

    def __init__(
        self,
        basis: Callable[[torch.Tensor], torch.Tensor],
        num_basis: int,
        channels: int,
        windows: Sequence[AxisWindows],
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

    def slabs(self, itemsize: int) -> Iterator[slice]:
        """Portions of the first axis whose products fit the budget; never less than one plane."""
        plane = self.maps * itemsize * math.prod(self.shape[1:])
        planes = max(1, min(self.shape[0], self.budget // plane, LONGEST))
        number = -(-self.shape[0] // planes)
        edges = [round(i * self.shape[0] / number) for i in range(number + 1)]
        return (slice(a, b) for a, b in itertools.pairwise(edges))

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
        for axis in range(len(self.shape) - 1, 0, -1):
            out = self.windows[axis].filter(out, axis + 1)
        return out.reshape(*maps.shape[:2], -1)

    def adjoint(self, maps: torch.Tensor) -> torch.Tensor:
        """Transpose of :meth:`filter`: ``(P, S, windows)`` to ``(P, S, ...)``."""
        out = maps.reshape(*maps.shape[:2], *self.window_shape[1:])
        for axis in range(1, len(self.shape)):
            out = self.windows[axis].adjoint(out, axis + 1)
        return out.reshape(*maps.shape[:2], *self.shape[1:])


def local_gram(
    gram: LocalGram,
    pred: torch.Tensor,
    target: torch.Tensor,
    root: torch.Tensor | None,
    parameters: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """Window averages of the products of ``[basis(pred), target]``, differentiable in pred, target and the basis.

    Args:
        gram: products and windows.
        pred: ``(B, C, *spatial)``, what the basis functions see.
        target: ``(B, T, *spatial)``.
        root: square roots of the voxel weights, ``(1 or B, 1, *spatial)``, or None; not differentiated.
        parameters: those of the basis that want a gradient.

    Returns:
        ``(B, P, *windows)``, rows as in ``gram.layout``.
    """
    return _LocalGramFunction.apply(gram, pred, target, root, *parameters)


def _features(
    gram: LocalGram, pred: torch.Tensor, target: torch.Tensor, root: torch.Tensor | None, item: int, slab: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Weighted ``psi`` and ``t`` of one slab, its root weights, and psi as the basis gave it (with its graph if any)."""
    psi = gram.basis(pred)
    values, t = psi.detach()[0], target[item, :, slab]
    if root is None:
        return values, t, None, psi
    weight = root[item % len(root), :, slab]
    return values * weight, t * weight, weight, psi


class _LocalGramFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gram: LocalGram,
        pred: torch.Tensor,
        target: torch.Tensor,
        root: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        ctx.gram = gram
        ctx.save_for_backward(pred, target, root, *parameters)
        out = pred.new_zeros(len(pred), gram.maps, gram.window_shape[0], math.prod(gram.window_shape[1:]))
        for item in range(len(pred)):
            for slab in gram.slabs(pred.element_size()):
                psi, t, weight, _ = _features(gram, pred[item : item + 1, :, slab], target, root, item, slab)
                low = gram.filter(gram.products(psi, t, weight))
                rows, matrix = gram.windows[0].part(slab)
                out[item, :, rows].add_(torch.matmul(matrix, low))
        return out.view(len(pred), gram.maps, *gram.window_shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gram: LocalGram = ctx.gram
        pred, target, root, *parameters = ctx.saved_tensors
        need_pred, need_target = ctx.needs_input_grad[1:3]
        dpred = torch.empty_like(pred) if need_pred else None
        dtarget = torch.empty_like(target) if need_target else None
        dparameters = [torch.zeros_like(p) for p in parameters]
        grad = grad.reshape(*grad.shape[:2], gram.window_shape[0], -1)
        with full_precision(pred.device):
            for item in range(len(pred)):
                for slab in gram.slabs(pred.element_size()):
                    x = pred[item : item + 1, :, slab].detach().requires_grad_(need_pred)
                    with torch.enable_grad():
                        psi, t, weight, out = _features(gram, x, target, root, item, slab)
                    rows, matrix = gram.windows[0].part(slab)
                    full = gram.adjoint(torch.matmul(matrix.T, grad[item, :, rows]))
                    if dtarget is not None:
                        dt = gram.target_gradient(full, psi, t, weight)
                        dtarget[item, :, slab] = dt if weight is None else dt * weight
                    wanted = [x] * need_pred + parameters
                    if wanted and out.requires_grad:
                        dpsi = gram.psi_gradient(full, psi, t, weight)
                        dpsi = dpsi if weight is None else dpsi.mul_(weight)
                        found = torch.autograd.grad(out, wanted, dpsi[None], allow_unused=True)
                        _deposit(found, None if dpred is None else dpred[item : item + 1, :, slab], dparameters)
                    elif dpred is not None:
                        dpred[item, :, slab] = 0
        return None, dpred, dtarget, None, *dparameters


def _deposit(found: Sequence[torch.Tensor | None], dpred: torch.Tensor | None, dparameters: Sequence[torch.Tensor]) -> None:
    if dpred is not None:
        first, *found = found
        dpred.copy_(first) if first is not None else dpred.zero_()
    for total, part in zip(dparameters, found, strict=True):
        if part is not None:
            total.add_(part)
