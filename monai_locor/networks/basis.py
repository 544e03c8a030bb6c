# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Basis functions of the moving image's intensity, shared by all voxels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

__all__ = ["LearnedBasis", "LearnedBasisTape", "PolynomialBasis"]


class LearnedBasis(nn.Module):
    """A tiny fully connected network that maps the channels of a voxel to its ``num_basis`` basis values.

    ``in_channels -> hidden -> ... -> num_basis`` with ReLU between the layers and a sigmoid at the end, applied voxel by
    voxel (Honkamaa & Marttinen, "Locor", arXiv 2503.05335). It computes in the precision of its input.

    Args:
        in_channels: channels C of the image, for instance 2 for intensity and derivative magnitude.
        num_basis: number J of basis functions.
        hidden_channels: width of the hidden layers; empty for a linear map under the sigmoid.
        generator: CPU random generator of the first weights; by default torch's global one.

    Raises:
        ValueError: when a size is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        num_basis: int = 5,
        hidden_channels: Sequence[int] = (16, 16),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [in_channels, *hidden_channels, num_basis]
        if min(sizes) < 1:
            raise ValueError(f"channels and number of basis functions must be positive, got {sizes}.")
        self.in_channels, self.num_basis = in_channels, num_basis
        self.layers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b, device="cpu", dtype=torch.float32) for a, b in itertools.pairwise(sizes)
        )
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, on the host: the same numbers on every device, and those that ``nn.Linear`` would draw.

        Args:
            generator: CPU random generator; by default torch's global one.
        """
        for layer in cast("list[nn.Linear]", self.layers):
            weight, bias = (torch.empty(x.shape, dtype=torch.float32, device="cpu") for x in (layer.weight, layer.bias))
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias.uniform_(-bound, bound, generator=generator))

    def changed(self) -> bool:
        """Whether something was attached to the network (a hook, a parametrization), so that it is more than its weights."""
        plain = [p for layer in cast("list[nn.Linear]", self.layers) for p in (layer.weight, layer.bias)]
        hooks = any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())
        return hooks or [id(p) for p in plain] != [id(p) for p in self.parameters()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, *spatial)`` intensities to ``(B, J, *spatial)`` basis values in (0, 1)."""
        out = x.flatten(2)
        for number, layer in enumerate(cast("list[nn.Linear]", self.layers)):
            # (out, in) @ (in, voxels): voxels stay contiguous, and nothing is transposed
            weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
            out = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), out)
            out = out.relu_() if number < len(self.layers) - 1 else out.sigmoid_()
        return out.reshape(len(x), self.num_basis, *x.shape[2:])


class LearnedBasisTape:
    """Evaluates a :class:`LearnedBasis` on one portion of voxels after another and differentiates it, in the same memory.

    What autograd would do, without its copies and allocations: they cost more than the arithmetic of layers this narrow.
    Biases are the last column of the weights, their input a row of ones.

    Args:
        parameters: weight and bias of each layer, in order, on the device of ``like``.
        like: gives the dtype to compute in.
        voxels: of the largest portion.

    Raises:
        RuntimeError: when they lie on another device: gradients would go to copies that nobody knows.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], like: torch.Tensor, voxels: int) -> None:
        elsewhere = next((p.device for p in parameters if p.device != like.device), None)
        if elsewhere is not None:
            raise RuntimeError(f"the basis is on {elsewhere}, the images on {like.device}: move the loss with loss.to(device)")
        layers = zip(parameters[::2], parameters[1::2], strict=True)
        self.weights = [torch.cat((w.detach(), b.detach()[:, None]), 1).to(like.dtype) for w, b in layers]
        inputs, outputs = [w.shape[1] for w in self.weights], len(self.weights[-1])
        self.values: list[torch.Tensor] = []
        self._room = _Room([*inputs, outputs], voxels, like)
        self._gradient_room = _Room([*(n - 1 for n in inputs), outputs], voxels, like)

    @staticmethod
    def numbers_per_voxel(basis: LearnedBasis) -> int:
        """What is held for each voxel of the largest portion."""
        layers = cast("list[nn.Linear]", basis.layers)
        return sum(2 * layer.in_features + 1 for layer in layers) + 2 * basis.num_basis

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``(C, N)`` intensities to ``(J, N)`` basis values, valid until the next call."""
        if not self.values or self.values[0].shape[1] != x.shape[1]:
            self.values = self._room.matrices(x.shape[1])
            for value in self.values[:-1]:
                value[-1].fill_(1)
        self.values[0][:-1].copy_(x)
        for number, weight in enumerate(self.weights):
            last = number == len(self.weights) - 1
            out = self.values[number + 1] if last else self.values[number + 1][:-1]
            torch.mm(weight, self.values[number], out=out)
            _ = out.sigmoid_() if last else out.clamp_min_(0)
        return self.values[-1]

    def pullback(self, gradient: torch.Tensor, need_input: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """From the gradient ``(J, N)`` of the last call's output to those of its input ``(C, N)`` and of the parameters."""
        gradients = self._gradient_room.matrices(gradient.shape[1])
        outward = gradients[-1]
        torch.ops.aten.sigmoid_backward.grad_input(gradient, self.values[-1], grad_input=outward)
        found: list[torch.Tensor] = []
        for number in reversed(range(len(self.weights))):
            both = outward @ self.values[number].T
            found[:0] = [both[:, :-1], both[:, -1]]
            if number == 0 and not need_input:
                return None, found
            inward = gradients[number]
            torch.mm(self.weights[number][:, :-1].T, outward, out=inward)
            if number:
                torch.ops.aten.threshold_backward.grad_input(inward, self.values[number][:-1], 0, grad_input=inward)
            outward = inward
        return outward, found


class _Room:
    """Memory for matrices with these numbers of rows and up to ``columns`` columns, made when it is first used."""

    def __init__(self, rows: Sequence[int], columns: int, like: torch.Tensor) -> None:
        self.rows, self.columns, self.like = rows, columns, like
        self.flat: list[torch.Tensor] = []

    def matrices(self, columns: int) -> list[torch.Tensor]:
        """Contiguous matrices with so many columns, all in the same memory as those of the last call."""
        if not self.flat:
            self.flat = [self.like.new_empty(n * self.columns) for n in self.rows]
        return [flat[: n * columns].view(n, columns) for flat, n in zip(self.flat, self.rows, strict=True)]


class PolynomialBasis(nn.Module):
    """All monomials of the channels up to a total degree, the constant included.

    Args:
        in_channels: channels C of the image.
        degree: highest total degree D; there are ``(C + D)! / (C! D!)`` monomials.

    Raises:
        ValueError: when ``in_channels`` < 1 or ``degree`` < 0.
    """

    def __init__(self, in_channels: int, degree: int = 3) -> None:
        super().__init__()
        if in_channels < 1 or degree < 0:
            raise ValueError(f"in_channels must be at least 1 and degree at least 0, got {in_channels} and {degree}.")
        self.in_channels, self.degree = in_channels, degree
        # each monomial is an earlier one times a channel: the first holds the constant, then degree by degree
        self._steps: list[tuple[int, int]] = []
        previous = [(0, 0)]  # (index of the monomial, first channel that may multiply it)
        count = 1
        for _ in range(degree):
            current = []
            for index, first in previous:
                for channel in range(first, in_channels):
                    self._steps.append((index, channel))
                    current.append((count, channel))
                    count += 1
            previous = current
        self.num_basis = count

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"in_channels={self.in_channels}, degree={self.degree}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, *spatial)`` intensities to ``(B, J, *spatial)`` monomials."""
        out = [torch.ones_like(x[:, 0])]
        for index, channel in self._steps:
            out.append(out[index] * x[:, channel])
        return torch.stack(out, 1)
