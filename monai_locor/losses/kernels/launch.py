# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Window averages of the products of a learned basis and a target, and their gradient, by the kernels of :mod:`.device`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch

from ...geometry import slabs
from ...networks.basis import LearnedBasis
from ...recent import Recent
from ..products import LocalGram
from ..ridge import gram_pairs
from ..streaming import StreamedWindows
from ..windows import AxisWindows
from .device import average_kernel, features_kernel, gradient_kernel, lists_kernel
from .lists import HEAD, AxisLists, WindowLists
from .network import PackedNetwork, power_of_two

__all__ = ["FusedGram"]

FEATURES_BUDGET_BYTES = 32 * 2**20  # of the features of a slab: a cache of the second level holds them
FEATURES_VOXELS, AVERAGE_WINDOWS, GRADIENT_VOXELS = 64, 32, 32  # per program, of one warp
LIST_ITEMS = 32  # windows and voxels of an axis, likewise
GRADIENT_PROGRAMS = 2048  # at most; each writes its share of the gradient of the weights

_ROWS = Recent[torch.Tensor](8)


class FusedGram:
    """The Gram matrices of some images.

    Args:
        gram: the products; its basis is a :class:`LearnedBasis`.
        windows: where they are averaged.
        images: pred ``(B, C, *spatial)``, target ``(B, T, *spatial)`` and the weights of the voxels ``(1 or B, 1, *spatial)``
            or None, float32.
        parameters: those of the basis that need a gradient, by name.
    """

    def __init__(
        self,
        gram: LocalGram,
        windows: StreamedWindows,
        images: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
        parameters: Mapping[str, torch.Tensor],
    ) -> None:
        self.gram, self.streamed = gram, windows
        self.pred, self.target = images[0].contiguous(), images[1].contiguous()
        self.root = None if images[2] is None else images[2].sqrt().contiguous()
        self.network = PackedNetwork(cast("LearnedBasis", gram.basis), parameters, self.pred.device)
        self.lists = _lists(windows)
        # products with the root make up the means and the mass
        self.features = gram.num_basis + gram.channels + (gram.first_moments or gram.masked)
        self.padded = power_of_two(self.features)

    def average(self) -> torch.Tensor:
        """The maps, ``(B, P, *windows)``."""
        voxels = math.prod(self.pred.shape[2:])
        out = self.pred.new_zeros(len(self.pred), self.gram.count, *self.streamed.window_shape)
        plane = math.prod(self.pred.shape[3:])
        budget = min(FEATURES_BUDGET_BYTES, self.streamed.budget)
        parts = slabs(self.streamed.shape, max(plane, budget // (4 * self.features)))
        scratch = self.pred.new_empty(self.features * plane * max(part.stop - part.start for part in parts))
        with torch.cuda.device_of(self.pred):
            for item in range(len(self.pred)):
                for part in parts:
                    self._features(scratch, item, part.start * plane, part.stop * plane, voxels)
                    self._average(scratch, out, item, part)
        return out

    def _features(self, out: torch.Tensor, item: int, begin: int, end: int, voxels: int) -> None:
        features_kernel[(-(-(end - begin) // FEATURES_VOXELS),)](
            *self._inputs(),
            out,
            *self._items(item),
            begin,
            end,
            voxels,
            **self._sizes(),
            F=self.features,
            M=FEATURES_VOXELS,
            num_warps=1,
        )

    def _average(self, features: torch.Tensor, out: torch.Tensor, item: int, part: slice) -> None:
        rows = self.streamed.windows[0].rows(part)
        n0, n1, n2 = self.streamed.window_shape
        average_kernel[(-(-(rows.stop - rows.start) * n1 * n2 // AVERAGE_WINDOWS),)](
            features,
            *(axis.first_voxel for axis in self.lists),
            *(axis.weights for axis in self.lists),
            out,
            item,
            *(part.start, part.stop, rows.start, rows.stop),
            *(*self.streamed.shape, n0, n1, n2),
            *(axis.weights.shape[1] for axis in self.lists),
            J=self.gram.num_basis,
            T=self.gram.channels,
            MEANS=int(self.gram.first_moments),
            MASS=int(self.gram.masked),
            F=self.features,
            FP=self.padded,
            R=AVERAGE_WINDOWS,
            num_warps=1,
        )

    def gradients(
        self, grad: torch.Tensor, need_pred: bool, need_target: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, list[torch.Tensor]]:
        """The gradients of pred, target and parameters from that of the maps, ``(B, P, *windows)``; None where not needed."""
        wanted = self.gram.num_basis + self.gram.channels * need_target
        slopes = self._slopes(grad, wanted)
        # the kernel takes an address even for a gradient that it does not write
        dpred, dtarget = (
            torch.empty_like(x) if need else x for x, need in ((self.pred, need_pred), (self.target, need_target))
        )
        programs = min(-(-math.prod(self.pred.shape[2:]) // GRADIENT_VOXELS), GRADIENT_PROGRAMS)
        partial = self.pred.new_empty(len(self.pred), programs, len(self.network.buffer))
        with torch.cuda.device_of(self.pred):
            for item in range(len(self.pred)):
                self._gradient(slopes[item], (dpred, dtarget, partial[item]), item, wanted, need_pred)
        found = self.network.unpacked(partial.sum((0, 1))) if self.network.parameters else []
        return dpred if need_pred else None, dtarget if need_target else None, found

    def _gradient(self, slopes: torch.Tensor, out: tuple[torch.Tensor, ...], item: int, wanted: int, need_pred: bool) -> None:
        gradient_kernel[(out[2].shape[0],)](
            *self._inputs(),
            slopes,
            *(axis.first_window for axis in self.lists),
            *(axis.voxel_weights for axis in self.lists),
            *out,
            *self._items(item),
            *(*self.streamed.shape, *self.streamed.window_shape),
            0,
            *(axis.voxel_weights.shape[1] for axis in self.lists),
            **self._sizes(),
            F=self._contributing(),
            N=wanted,
            NEED_PRED=need_pred,
            NEED_WEIGHTS=bool(self.network.parameters),
            PRECISION="tf32x3",
            M=GRADIENT_VOXELS,
            num_warps=1,
            num_stages=1,
        )

    def _slopes(self, grad: torch.Tensor, wanted: int) -> torch.Tensor:
        """Derivatives by the entries of the Gram matrix, ``(B, F, wanted, windows)``, those on the diagonal doubled."""
        gram, count = self.gram, self._contributing()
        key = gram.num_basis, gram.channels, gram.first_moments, wanted, grad.device
        rows = _ROWS.get(key, lambda: _entries(gram, count, wanted).to(grad.device))
        out = grad.flatten(2)[:, rows]
        out[:, : wanted * wanted : wanted + 1].mul_(2)
        if wanted > gram.num_basis and gram.channels > 1:
            entries = out.unflatten(1, (count, wanted))[:, gram.num_basis : gram.num_basis + gram.channels, gram.num_basis :]
            for c in range(gram.channels):
                entries[:, c, :c].zero_()
                entries[:, c, c + 1 :].zero_()
        return out

    def _contributing(self) -> int:
        """Number of features whose products have a gradient."""
        return self.gram.num_basis + self.gram.channels + self.gram.first_moments

    def _inputs(self) -> tuple[torch.Tensor, ...]:
        return self.pred, self.target, self.target if self.root is None else self.root, self.network.buffer

    def _items(self, item: int) -> tuple[int, int]:
        return item, 0 if self.root is None else item % len(self.root)

    def _sizes(self) -> dict[str, int | bool]:
        sizes = {"C": self.pred.shape[1], "J": self.gram.num_basis, "T": self.gram.channels, "FP": self.padded}
        return sizes | {"P1": self.network.units[0], "P2": self.network.units[1], "ROOT": self.root is not None}


def _lists(windows: StreamedWindows) -> list[AxisLists]:
    """The windows of all axes one by one."""
    plan, table = cast("AxisWindows", windows.windows[0]).source
    lists = plan.kept.get("lists", lambda: WindowLists(plan))
    integers, weights = lists.empty(table)
    table = table.view(-1)  # not a wrapper of a transform that has ended
    with torch.cuda.device_of(table):
        lists_kernel[(-(-lists.longest // LIST_ITEMS), len(plan.plans))](
            table, lists.known, integers, weights, plan.width, lists.reach, M=LIST_ITEMS, HEAD=HEAD, num_warps=1
        )
    return lists.split(integers, weights)


def _entries(gram: LocalGram, count: int, wanted: int) -> torch.Tensor:
    """Rows of the maps of the products of ``count`` features with each of the first ``wanted``; 0 where there is none."""
    j, t = gram.num_basis, gram.channels
    rows = torch.zeros(j + t + 1, j + t + 1, dtype=torch.int64, device="cpu")
    for row, (a, b) in enumerate(gram_pairs(j)):
        rows[a, b] = row
    rows[:j, j : j + t] = torch.arange(j * t, device="cpu").view(j, t) + gram.layout["psi_t"].start
    rows[range(j, j + t), range(j, j + t)] = torch.arange(t, device="cpu") + gram.layout["t_t"].start
    if gram.first_moments:
        rows[: j + t, -1] = torch.arange(j + t, device="cpu") + gram.layout["psi"].start
    rows = torch.maximum(rows, rows.T)
    return rows[:count, :wanted].flatten()
