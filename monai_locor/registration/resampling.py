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

import torch
from torch.autograd.function import once_differentiable

from ..geometry import sample_gradient, sample_normalized, separable, slabs

__all__ = ["Resampling"]

BUDGET = {"cpu": 2**17, "cuda": 2**24}  # samples per slab: fits the CPU cache; large kernels on a GPU


@dataclass(frozen=True)
class _Slab:
    """Samples ``rows`` of the first axis, the nodes ``columns`` that they depend on, and one matrix per axis."""

    rows: slice
    columns: slice
    matrices: list[torch.Tensor]

    def points(self, nodes: torch.Tensor) -> torch.Tensor:
        """Interpolate the positions of the samples, ``(1, N, D)``."""
        # start with the first axis, along which a slab needs only a few nodes
        first = torch.tensordot(nodes[:, self.columns], self.matrices[0], dims=([1], [1])).movedim(-1, 1)
        rest = separable(self.matrices[1:], first.flatten(0, 1)) if len(self.matrices) > 1 else first
        return rest.reshape(len(nodes), -1).T.contiguous()[None]

    def adjoint(self, gradient: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Return the gradient for the nodes ``columns``, ``(D, columns, *nodes)``, given that of :meth:`points`."""
        out = gradient[0].T.reshape(-1, *shape[1:])
        out = separable([m.T for m in self.matrices[1:]], out) if len(self.matrices) > 1 else out
        out = out.reshape(gradient.shape[-1], len(self.matrices[0]), *out.shape[1:])
        return torch.tensordot(out, self.matrices[0], dims=([1], [0])).movedim(-1, 1)


class Resampling:
    """Sample an image at positions interpolated from nodes.

    Args:
        upsample: one matrix ``(samples, nodes)`` per spatial axis, each row a weighted mean of neighboring nodes.
    """

    def __init__(self, upsample: Sequence[torch.Tensor], budget: int | None = None) -> None:
        self.shape = tuple(len(m) for m in upsample)
        budget = budget or BUDGET.get(upsample[0].device.type, BUDGET["cpu"])
        self.slabs = list(self._divided(upsample, budget))

    def _divided(self, upsample: Sequence[torch.Tensor], budget: int) -> Iterator[_Slab]:
        used = (upsample[0] != 0).cpu()
        for rows in slabs(self.shape, budget):
            columns = used[rows].any(0).nonzero().flatten().tolist()
            between = slice(columns[0], columns[-1] + 1)
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
        values = image.new_empty(1, image.shape[1], *plan.shape)
        inside = image.new_empty(1, 1, *plan.shape)
        for slab in plan.slabs:
            points = slab.points(nodes)
            part = values[:, :, slab.rows]
            part.copy_(sample_normalized(image, points).view(part.shape))
            part = inside[:, :, slab.rows]
            part.copy_((points.abs().amax(-1) <= 1).view(part.shape))
        ctx.mark_non_differentiable(inside)
        return values, inside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        nodes, image = ctx.saved_tensors
        out = torch.zeros_like(nodes)
        for slab in ctx.plan.slabs:
            part = gradient[:, :, slab.rows]
            found = sample_gradient(image, slab.points(nodes), part.flatten(2))
            out[:, slab.columns] += slab.adjoint(found, part.shape[2:])
        return out, None, None
