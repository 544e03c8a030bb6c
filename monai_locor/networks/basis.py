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

"""Basis functions of the moving image's intensity, shared by all voxels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

__all__ = ["LearnedBasis", "PolynomialBasis"]


class LearnedBasis(nn.Module):
    """A tiny fully connected network that maps the channels of a voxel to its ``num_basis`` basis values.

    ``in_channels -> hidden -> ... -> num_basis`` with ReLU between the layers and a sigmoid at the end, applied voxel by
    voxel (Honkamaa & Marttinen, "Locor", arXiv 2503.05335). It computes in the precision of its input.

    Args:
        in_channels: channels C of the image, for instance 2 for intensity and derivative magnitude.
        num_basis: number J of basis functions.
        hidden_channels: width of the hidden layers; empty for a linear map under the sigmoid.

    Raises:
        ValueError: when a size is not positive.
    """

    def __init__(self, in_channels: int, num_basis: int = 5, hidden_channels: Sequence[int] = (16, 16)) -> None:
        super().__init__()
        sizes = [in_channels, *hidden_channels, num_basis]
        if min(sizes) < 1:
            raise ValueError(f"channels and number of basis functions must be positive, got {sizes}.")
        self.in_channels, self.num_basis = in_channels, num_basis
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, *spatial)`` intensities to ``(B, J, *spatial)`` basis values in (0, 1)."""
        out = x.flatten(2)
        for number, layer in enumerate(cast("list[nn.Linear]", self.layers)):
            # (out, in) @ (in, voxels): voxels stay contiguous, and nothing is transposed
            weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
            out = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), out)
            out = out.relu_() if number < len(self.layers) - 1 else out.sigmoid_()
        return out.reshape(len(x), self.num_basis, *x.shape[2:])


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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, *spatial)`` intensities to ``(B, J, *spatial)`` monomials."""
        out = [torch.ones_like(x[:, 0])]
        for index, channel in self._steps:
            out.append(out[index] * x[:, channel])
        return torch.stack(out, 1)
