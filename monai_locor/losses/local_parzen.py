# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Window averages of the Parzen weights of one image with the intensities of another.

The local measures made of histograms need them: for every window and every bin, the mass of the voxels whose intensity
falls there, and the sum of the other image over them.
"""

from __future__ import annotations

from typing import Any

import torch

from ..autograd import StreamedFunction
from .parzen import Encoder
from .streaming import Portion, StreamedWindows

__all__ = ["LocalParzen", "local_parzen"]


class LocalParzen:
    """The products of :func:`local_parzen`, for bins of an encoder of size K.

    Args:
        parzen: code of the image whose intensities are binned.

    Attributes:
        layout: rows of the maps by name: ``mass``, ``w h_a`` of all bins; ``first``, ``w h_a f`` likewise. The last is ``w s``.
        count: number of maps, ``2 K + 1``.
    """

    def __init__(self, parzen: Encoder) -> None:
        self.parzen, bins = parzen, parzen.size
        self.layout = {"mass": slice(0, bins), "first": slice(bins, 2 * bins)}
        self.count = 2 * bins + 1

    def numbers_per_voxel(self, windows: StreamedWindows) -> int:
        """Numbers held per voxel of a slab, at most: maps, code, and one more code while either is made."""
        return self.parzen.size + max(windows.filter_numbers(self.count), self.count + 2 * self.parzen.size) + 8

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Weights of slabs, ``(G, *slab)`` to ``(G, K, *slab)``."""
        return self.parzen.encode(x.flatten(1)).view(len(x), -1, *x.shape[1:])

    def products(self, x: torch.Tensor, f: torch.Tensor, s: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """All maps of slabs, ``(G, 2 K + 1, *slab)``, from images ``(G, *slab)``."""
        code = self.encode(x)
        out = code.new_empty(len(f), self.count, *f.shape[1:])
        torch.mul(code, weight[:, None], out=out[:, self.layout["mass"]])
        torch.mul(out[:, self.layout["mass"]], f[:, None], out=out[:, self.layout["first"]])
        torch.mul(s, weight, out=out[:, -1])
        return out

    def gradients(
        self, grad: torch.Tensor, x: torch.Tensor, f: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, f and s of slabs from those of their maps, which are overwritten."""
        code = self.encode(x)
        mass, first = grad[:, self.layout["mass"]], grad[:, self.layout["first"]]
        df = torch.linalg.vecdot(first, code, dim=1) * weight
        mass.addcmul_(first, f[:, None])
        flat = mass.flatten(2)
        dx = self.parzen.pullback(flat, code.view_as(flat), x.flatten(1)).view(x.shape) * weight
        return dx, df, grad[:, -1] * weight


def local_parzen(
    maps: LocalParzen,
    windows: StreamedWindows,
    x: torch.Tensor,
    f: torch.Tensor,
    s: torch.Tensor,
    weight: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Window averages, differentiable in x, f and s.

    Args:
        maps: the products.
        windows: where they are averaged.
        x: ``(G, *spatial)``, in [0, 1]; its Parzen weights are ``h_a``.
        f: ``(G, *spatial)``.
        s: ``(G, *spatial)``.
        weight: ``(G, *spatial)``, not differentiated.

    Returns:
        ``mass``, averages of ``w h_a``, ``(G, K, *windows)``; ``first``, of ``w h_a f``, likewise; and ``second``, of
        ``w s``, ``(G, *windows)``.
    """
    found = _LocalParzenFunction.apply(maps, windows, x, f, s, weight)
    return {"mass": found[:, maps.layout["mass"]], "first": found[:, maps.layout["first"]], "second": found[:, -1]}


class _LocalParzenFunction(StreamedFunction):
    leading = (2, 3, 4, 5)
    differentiable = (2, 3, 4)

    @staticmethod
    def forward(maps: LocalParzen, windows: StreamedWindows, *images: torch.Tensor) -> torch.Tensor:
        return windows.average(maps, images[0], lambda at: maps.products(*(image[at] for image in images)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        maps, windows, x, f, _, weight = inputs
        ctx.options = {"maps": maps, "windows": windows}
        ctx.save_for_backward(x, f, weight)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, windows = ctx.options.values()
        x, f, weight = ctx.saved_tensors
        dx, df, ds = torch.empty_like(x), torch.empty_like(f), torch.empty_like(f)

        def consume(at: Portion, of_maps: torch.Tensor) -> None:
            dx[at], df[at], ds[at] = maps.gradients(of_maps, x[at], f[at], weight[at])

        windows.pull_back(maps, x, grad, consume)
        return None, None, dx, df, ds, None
