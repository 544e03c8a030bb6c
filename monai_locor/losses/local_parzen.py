# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Window averages of the Parzen weights of one image with the intensities of another, streamed through the volume.

They are what the local measures made of histograms need: for every window and every bin the mass of the voxels whose
intensity falls there, and the sum of the other image over them. The weights exist for one slab at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..autograd import StreamedFunction
from ..precision import full_precision
from .gram import LocalGram
from .parzen import Encoder
from .windows import BandedMatrix

__all__ = ["LocalParzen", "local_parzen"]


class LocalParzen(LocalGram):
    """Maps, windows and portions of :func:`local_parzen`.

    Args:
        parzen: code of the image whose intensities are binned, of size K.
        windows: the window matrices of the spatial axes.
        budget: see :class:`.LocalGram`.
    """

    def __init__(self, parzen: Encoder, windows: Sequence[BandedMatrix], budget: int) -> None:
        self.parzen = parzen
        super().__init__(parzen.encode, parzen.size, 1, windows, budget)

    def _layout(self) -> dict[str, slice]:
        """Rows of the maps: ``w h_a`` for all bins, ``w h_a f`` likewise, and ``w s``."""
        bins = self.parzen.size
        return {"mass": slice(0, bins), "first": slice(bins, 2 * bins), "second": slice(2 * bins, 2 * bins + 1)}

    def numbers_per_voxel(self) -> int:
        """What forward or backward hold at most of a slab, per voxel: maps, code, and one more code while either is made."""
        return self.num_basis + max(self._filtering(), self.maps + 2 * self.num_basis) + 8

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Weights of a slab, ``(*slab)`` to ``(K, *slab)``."""
        return self.parzen.encode(x.reshape(1, -1)).view(-1, *x.shape)

    def moments(self, code: torch.Tensor, f: torch.Tensor, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """All maps of a slab, ``(2 K + 1, *slab)``."""
        out = code.new_empty(self.maps, *f.shape)
        torch.mul(code, weight, out=out[self.layout["mass"]])
        torch.mul(out[self.layout["mass"]], f, out=out[self.layout["first"]])
        torch.mul(s, weight, out=out[-1])
        return out

    def filtered(
        self, x: torch.Tensor, f: torch.Tensor, s: torch.Tensor, weight: torch.Tensor, at: tuple[int, slice]
    ) -> torch.Tensor:
        """Window averages of the maps of a slab along all axes but the first."""
        return self.filter(self.moments(self.encode(x[at]), f[at], s[at], weight[at]))

    def gradients(
        self, grad: torch.Tensor, x: torch.Tensor, f: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, f and s of a slab from those of its maps, which are overwritten."""
        code = self.encode(x)
        mass, first = grad[self.layout["mass"]], grad[self.layout["first"]]
        df = torch.linalg.vecdot(first, code, dim=0) * weight
        mass.addcmul_(first, f)
        flat = mass.reshape(1, len(mass), -1)
        dx = self.parzen.pullback(flat, code.view_as(flat), x.reshape(1, -1)).view(x.shape) * weight
        return dx, df, grad[-1] * weight


def local_parzen(
    spec: LocalParzen, x: torch.Tensor, f: torch.Tensor, s: torch.Tensor, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Window averages, differentiable in x, f and s.

    Args:
        spec: bins and windows.
        x: ``(G, *spatial)``, in [0, 1]; its Parzen weights are ``h_a``.
        f: ``(G, *spatial)``.
        s: ``(G, *spatial)``.
        weight: ``(G, *spatial)``, not differentiated.

    Returns:
        ``mass``, averages of ``w h_a``, ``(G, K, *windows)``; ``first``, of ``w h_a f``, likewise; and ``second``, of
        ``w s``, ``(G, *windows)``.
    """
    maps = _LocalParzenFunction.apply(spec, x, f, s, weight)
    return {"mass": maps[:, spec.layout["mass"]], "first": maps[:, spec.layout["first"]], "second": maps[:, -1]}


class _LocalParzenFunction(StreamedFunction):
    leading = (1, 2, 3, 4)
    differentiable = (1, 2, 3)

    @staticmethod
    def forward(spec: LocalParzen, x: torch.Tensor, f: torch.Tensor, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(len(x), spec.maps, spec.window_shape[0], math.prod(spec.window_shape[1:]))
        for item in range(len(x)):
            for part in spec.slabs(x.element_size()):
                rows, matrix = spec.windows[0].part(part)
                out[item, :, rows].add_(torch.matmul(matrix, spec.filtered(x, f, s, weight, (item, part))))
        return out.view(len(x), spec.maps, *spec.window_shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        spec, x, f, _, weight = inputs
        ctx.options = {"spec": spec}
        ctx.save_for_backward(x, f, weight)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        spec: LocalParzen = ctx.options["spec"]
        x, f, weight = ctx.saved_tensors
        dx, df, ds = torch.empty_like(x), torch.empty_like(f), torch.empty_like(f)
        grad = grad.reshape(*grad.shape[:2], spec.window_shape[0], -1)
        with full_precision(x.device):
            for item in range(len(x)):
                for part in spec.slabs(x.element_size()):
                    rows, matrix = spec.windows[0].part(part)
                    at = (item, part)
                    # without names for what a slab takes, it is given back before the next one
                    dx[at], df[at], ds[at] = spec.gradients(
                        spec.adjoint(torch.matmul(matrix.T, grad[item, :, rows])), x[at], f[at], weight[at]
                    )
        return None, dx, df, ds, None
