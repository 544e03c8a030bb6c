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

__all__ = ["BatchedBasis", "LearnedBasis", "PolynomialBasis"]


class LearnedBasis(nn.Module):
    """A small fully connected network from the channels of a voxel to its ``num_basis`` basis values.

    ``in_channels -> hidden -> ... -> num_basis`` with ReLU between the layers and a sigmoid at the end, applied voxel by
    voxel (Honkamaa & Marttinen, "Locor", arXiv 2503.05335). It computes in the precision of its input.

    Args:
        in_channels: channels C of the image, for instance 2 for intensity and derivative magnitude.
        num_basis: number J of basis functions.
        hidden_channels: width of the hidden layers; empty for a linear map under the sigmoid.
        generator: CPU random generator of the initial weights; by default torch's global one.

    Raises:
        ValueError: if a size is not positive.
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
        """Draw all weights again, as ``nn.Linear`` does, on the host: the same numbers for every device.

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
        """Whether a hook or a parametrization was attached, so that the weights alone do not determine the output."""
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


class BatchedBasis(nn.Module):
    """One :class:`LearnedBasis` for each item of a batch, evaluated together.

    Args:
        bases: of the same sizes; their weights are copied.

    Attributes:
        stacked: weights ``(B, outputs, inputs)`` and biases ``(B, outputs)`` of each layer, in turn.

    Raises:
        ValueError: if there are none, or their sizes differ.
    """

    def __init__(self, bases: Sequence[LearnedBasis]) -> None:
        super().__init__()
        every = [list(basis.parameters()) for basis in bases]
        if len({tuple(p.shape for p in parameters) for parameters in every}) != 1:
            raise ValueError(f"the bases must be of one size, at least one, got {list(bases)}.")
        self.in_channels, self.num_basis = bases[0].in_channels, bases[0].num_basis
        self.stacked = nn.ParameterList(torch.stack([p.detach() for p in group]) for group in zip(*every, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, *spatial)`` intensities to ``(B, J, *spatial)`` basis values in (0, 1)."""
        out, parameters = x.flatten(2), [p.to(x.dtype) for p in self.stacked]
        if len(x) != len(parameters[0]):
            raise ValueError(f"a batch of {len(parameters[0])} bases takes as many items, got {len(x)}.")
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            out = torch.baddbmm(bias[:, :, None], weight, out)
            out = out.sigmoid() if weight is parameters[-2] else out.relu()
        return out.reshape(len(x), self.num_basis, *x.shape[2:])


class PolynomialBasis(nn.Module):
    """All monomials of the channels up to a total degree, the constant included.

    Args:
        in_channels: channels C of the image.
        degree: highest total degree D; there are ``(C + D)! / (C! D!)`` monomials.

    Raises:
        ValueError: if ``in_channels`` < 1 or ``degree`` < 0.
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
