# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Sampling of an image at positions interpolated from coarse nodes, in slabs of a few planes.

Positions and their gradient, D values per sample each, would need more memory than the loss itself. They are computed for one
slab of the samples at a time in the forward pass, and again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ..geometry import sample_gradient, sample_planar, separable, slabs

__all__ = ["Resampling", "slab_samples"]

BUDGET = {"cpu": 2**17, "cuda": 2**24}  # samples per slab: fits the CPU cache; large kernels on a GPU
THRIFTY_BUDGET = {"cpu": 2**17, "cuda": 2**20}  # where memory is short


def slab_samples(device_type: str, thrifty: bool = False) -> int:
    """Return the number of samples per slab on a type of device.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``; others are treated as a CPU.
        thrifty: whether memory is short.
    """
    budget = THRIFTY_BUDGET if thrifty else BUDGET
    return budget.get(device_type, budget["cpu"])


@dataclass(frozen=True)
class _Slab:
    """Samples ``rows`` of the first axis, the nodes ``columns`` that they depend on, and one matrix per axis."""

    rows: slice
    columns: slice
    matrices: list[torch.Tensor]

    def points(self, nodes: torch.Tensor) -> torch.Tensor:
        """Interpolate the positions of the samples, ``(D, *rows)``."""
        dims, first = len(nodes), self.matrices[0]
        # start with the first axis, along which a slab needs only a few nodes
        found = torch.bmm(first.expand(dims, -1, -1), nodes[:, self.columns].reshape(dims, first.shape[1], -1))
        found = found.view(-1, *nodes.shape[2:])
        return separable(self.matrices[1:], found).view(dims, len(first), *(len(m) for m in self.matrices[1:]))

    def adjoint(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient for the nodes ``columns``, ``(D, columns, *nodes)``, given that of :meth:`points`."""
        dims, first = len(gradient), self.matrices[0]
        found = separable([m.T for m in self.matrices[1:]], gradient.flatten(0, 1))
        nodes = found.shape[1:]
        return torch.bmm(first.T.expand(dims, -1, -1), found.view(dims, len(first), -1)).view(dims, -1, *nodes)


class Resampling:
    """Sample an image at positions interpolated from nodes.

    Args:
        upsample: one matrix ``(samples, nodes)`` per spatial axis, each row a weighted mean of neighboring nodes.
        budget: samples per slab; by default that of the device.
        used: where the matrix of the first axis is not zero, so that this need not be read from the device; None to read it.
    """

    def __init__(self, upsample: Sequence[torch.Tensor], budget: int | None = None, used: np.ndarray | None = None) -> None:
        self.shape = tuple(len(m) for m in upsample)
        budget = budget or slab_samples(upsample[0].device.type)
        self.slabs = list(self._divided(upsample, budget, (upsample[0] != 0).cpu().numpy() if used is None else used))

    def _divided(self, upsample: Sequence[torch.Tensor], budget: int, used: np.ndarray) -> Iterator[_Slab]:
        ranges = list(slabs(self.shape, budget))
        for rows in ranges:
            columns = used[rows].any(0).nonzero()[0].tolist()
            between = slice(columns[0], columns[-1] + 1) if len(ranges) > 1 else slice(0, used.shape[1])
            yield _Slab(rows, between, [upsample[0][rows, between].contiguous(), *upsample[1:]])

    def __call__(self, image: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            image: ``(1, C, *spatial)``; not differentiable.
            nodes: ``(D, *nodes)``, normalized positions, last axis of the image first; differentiable once.

        Returns:
            the image at the samples by linear interpolation, ``(1, C, *samples)``; and a mask without gradient,
            ``(1, 1, *samples)``, 1 for positions between the outermost voxels, else 0.
        """
        return _ResamplingFunction.apply(nodes, image, self)


class _ResamplingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nodes: torch.Tensor, image: torch.Tensor, plan: Resampling) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(nodes, image)
        ctx.plan = plan
        inside = image.new_empty(1, 1, *plan.shape)
        single = len(plan.slabs) == 1
        values = None if single else image.new_empty(1, image.shape[1], *plan.shape)
        for slab in plan.slabs:
            points = slab.points(nodes)
            found = sample_planar(image, points[None], out=None if values is None else values[:, :, slab.rows])
            torch.le(points.abs_().amax(0), 1, out=inside[0, 0, slab.rows])
        ctx.set_materialize_grads(False)  # that of the mask would be as large as the mask
        ctx.mark_non_differentiable(inside)
        return found if values is None else values, inside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor | None, _: None) -> tuple[torch.Tensor | None, None, None]:
        if gradient is None:
            return None, None, None
        nodes, image = ctx.saved_tensors
        out = None if len(ctx.plan.slabs) == 1 else torch.zeros_like(nodes)
        for slab in ctx.plan.slabs:
            found = slab.adjoint(sample_gradient(image, slab.points(nodes)[None], gradient[:, :, slab.rows])[0])
            if out is None:
                return found, None, None
            out[:, slab.columns] += found
        return out, None, None
