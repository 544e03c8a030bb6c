# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scaling and squaring on a lattice: the exponential of a velocity and the composition of displacements."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import DVF2DDF
from torch import nn
from torch.autograd.function import once_differentiable

from ..autograd import StreamedFunction
from ..geometry import identity_points, sample_gradients, sample_planar, to_normalized

__all__ = ["AnyLatticeWarp", "LatticeExponential", "LatticeWarp", "monai_exponential", "squarings_for"]

MAX_FIRST_STEP = 1.0  # lattice voxels, of the map that is squared
MIN_SQUARINGS = 2


def squarings_for(largest: float, most: int) -> int:
    """Fewest squarings for a velocity, so that the map that is squared moves by at most :data:`MAX_FIRST_STEP`.

    Args:
        largest: largest component of the velocity, lattice voxels; if it is not finite, the result is ``most``.
        most: maximum of the result.
    """
    if not math.isfinite(largest):
        return most
    needed = math.ceil(math.log2(max(largest, 1e-6) / MAX_FIRST_STEP))
    return min(max(needed, MIN_SQUARINGS), most)


def monai_exponential(warp: nn.Module, squarings: int) -> DVF2DDF:
    """MONAI's scaling and squaring with another warp."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns that it uses torch's grid_sample
        made = DVF2DDF(num_steps=squarings)
    made.warp_layer = warp  # type: ignore[assignment]
    return made


def _lattice(shape: Sequence[int], device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Normalized positions of the voxels, ``(D, *shape)``, last axis first; and the size of a voxel, ``(D, 1, ...)``."""
    columns = (torch.tensor(v[::-1], dtype=torch.float32, device=device) for v in to_normalized(shape))
    scale, offset = (c.view(-1, *(1,) * len(shape)) for c in columns)
    return identity_points(shape, device).flip(0) * scale + offset, scale


class LatticeWarp(nn.Module):
    """MONAI's ``Warp`` (linear, ``"border"``) for one lattice whose voxel positions are kept.

    MONAI's module computes them at every call, on the host.

    Args:
        shape: voxels of the lattice.
        reverse: whether the components of displacements are in array order, and not the last one first.
    """

    identity: torch.Tensor
    scale: torch.Tensor

    def __init__(self, shape: Sequence[int], reverse: bool = True) -> None:
        super().__init__()
        identity, scale = _lattice(shape)
        self.register_buffer("identity", identity, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.reverse = reverse

    def forward(self, image: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
        """``image(x + ddf(x))``, ``(B, C, *lattice)``, from an image of that shape and ``(B, D, *lattice)`` in voxels."""
        return _LatticeWarpFunction.apply(image, ddf, self.identity, self.scale, self.reverse)


class AnyLatticeWarp(nn.Module):
    """:class:`LatticeWarp` for any lattice, in operations that ``torch.compile`` can fuse."""

    def forward(self, image: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
        """See :meth:`LatticeWarp.forward`."""
        return _LatticeWarpFunction.forward(image, ddf, *_lattice(ddf.shape[2:], ddf.device), True)


class _LatticeWarpFunction(StreamedFunction):
    """Positions are recomputed in the backward pass: kept for all squarings, they would dominate the memory."""

    leading = differentiable = (0, 1)
    saved_leading = 2

    @staticmethod
    def forward(
        image: torch.Tensor, ddf: torch.Tensor, identity: torch.Tensor, scale: torch.Tensor, reverse: bool
    ) -> torch.Tensor:
        return sample_planar(image, _positions(ddf, identity, scale, reverse), "border")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"reverse": inputs[4]}
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        image, ddf, identity, scale = ctx.saved_tensors
        reverse = ctx.options["reverse"]
        of_image, of_points = sample_gradients(image, _positions(ddf, identity, scale, reverse), grad)
        of_ddf = of_points * scale
        return of_image, of_ddf.flip(1) if reverse else of_ddf, None, None, None


def _positions(ddf: torch.Tensor, identity: torch.Tensor, scale: torch.Tensor, reverse: bool = False) -> torch.Tensor:
    return torch.addcmul(identity, ddf.flip(1) if reverse else ddf, scale)


class LatticeExponential(nn.Module):
    """Scaling and squaring (linear, ``"border"``), in few operations.

    The map that is squared is a step of the midpoint rule, ``x + u(x + u(x) / 2)`` with ``u = v / 2^K``, where MONAI's
    ``DVF2DDF`` has ``x + u(x)``: half as many squarings are as accurate.

    All velocities and displacements are in lattice voxels and have the component along the last axis first, the order of
    ``grid_sample``.

    Args:
        shape: voxels of the lattice.
        squarings: number of squarings, may be changed later.

    Attributes:
        repeat: whether the backward pass repeats the squarings instead of keeping all displacements between: less memory, more
            time, the same result. False at first.
    """

    half_scale: torch.Tensor

    def __init__(self, shape: Sequence[int], squarings: int) -> None:
        super().__init__()
        self.warp = LatticeWarp(shape, reverse=False)
        self.register_buffer("half_scale", self.warp.scale / 2, persistent=False)
        self.squarings, self.repeat = squarings, False

    def forward(self, velocity: torch.Tensor) -> torch.Tensor:
        """Displacements ``exp(v)(x) - x``, ``(B, D, *lattice)``, of velocities of that shape; differentiable once."""
        constants = self.warp.identity, self.warp.scale, self.half_scale
        return _ExponentialFunction.apply(velocity, *constants, self.squarings, self.repeat)

    def follow(self, displacement: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Displacement of the map ``total`` and then ``displacement``, all ``(B, D, *lattice)``."""
        return total + self.warp(displacement, total)


class _ExponentialFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        velocity: torch.Tensor,
        identity: torch.Tensor,
        scale: torch.Tensor,
        half: torch.Tensor,
        squarings: int,
        repeat: bool,
    ) -> torch.Tensor:
        ctx.squarings, ctx.repeat = squarings, repeat
        between: list[torch.Tensor] | None = [] if ctx.needs_input_grad[0] and not repeat else None
        field = _squared(velocity, identity, scale, half, squarings, between)
        ctx.save_for_backward(identity, scale, half, *([velocity] if between is None else between))
        return field

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:
        identity, scale, half, *saved = ctx.saved_tensors
        if ctx.repeat:
            velocity, saved = saved[0], []
            _squared(velocity, identity, scale, half, ctx.squarings, saved)
        while len(saved) > 1:
            field = saved.pop()
            of_image, of_points = sample_gradients(field, _positions(field, identity, scale), gradient)
            gradient = of_image.add_(gradient).addcmul_(of_points, scale)
        of_image, of_points = sample_gradients(saved[0], _positions(saved[0], identity, half), gradient)
        return of_image.addcmul_(of_points, half).mul_(2.0**-ctx.squarings), None, None, None, None, None


def _squared(
    velocity: torch.Tensor,
    identity: torch.Tensor,
    scale: torch.Tensor,
    half: torch.Tensor,
    squarings: int,
    between: list[torch.Tensor] | None,
) -> torch.Tensor:
    """The exponential; the displacements before each step are added to ``between``."""
    field = velocity * 2.0**-squarings
    for n in range(squarings + 1):
        if between is not None:
            between.append(field)
        points = _positions(field, identity, half if n == 0 else scale)
        moved = sample_planar(field, points, "border")
        field = moved if n == 0 else moved.add_(field)
    return field
