# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The weights of a learned basis in one buffer, in the layout of the kernels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from ...networks.basis import LearnedBasis
from ...recent import Recent

__all__ = ["PackedNetwork", "power_of_two"]

_PLACES = Recent[tuple[torch.Tensor, torch.Tensor, torch.Tensor]](8)


def power_of_two(number: int, smallest: int = 1) -> int:
    """The smallest power of two that is at least ``number`` and ``smallest``."""
    return max(smallest, 1 << (number - 1).bit_length())


class PackedNetwork:
    """The weights of a basis with two hidden layers, padded with zeros.

    Args:
        basis: the network.
        parameters: take the place of its own parameters, by name.
        device: of the buffer.

    Attributes:
        units: widths of the hidden layers in the buffer, powers of two.
        buffer: float32, see :mod:`monai_locor.losses.kernels.device`.
    """

    def __init__(self, basis: LearnedBasis, parameters: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self.parameters = parameters
        values = {name: p.detach() for name, p in basis.named_parameters()} | {n: p.detach() for n, p in parameters.items()}
        self.shapes = {name: value.shape for name, value in values.items()}
        layers = cast("list[nn.Linear]", basis.layers)
        sizes = (basis.in_channels, *(layer.out_features for layer in layers))
        self.units = (power_of_two(sizes[1], 16), power_of_two(sizes[2], 16))
        forth, self._back, zero = _PLACES.get((sizes, device), lambda: _places(sizes, self.units, device))
        self.buffer = torch.cat([*(value.flatten().to(torch.float32) for value in values.values()), zero])[forth]

    def unpacked(self, gradient: torch.Tensor) -> list[torch.Tensor]:
        """The gradients of the given parameters, in their order, from that of the buffer."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = dict(zip(self.shapes, gradient[self._back].split(sizes), strict=True))
        return [parts[name].view_as(p).to(p.dtype) for name, p in self.parameters.items()]


def _places(
    sizes: tuple[int, ...], units: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each number of the buffer lies among the parameters, and the other way round; and the zero behind the last."""
    counts = [n for a, b in itertools.pairwise(sizes) for n in (a * b, b)]
    numbers = torch.arange(sum(counts), device="cpu").split(counts)
    weights = [x.view(b, a) for x, (a, b) in zip(numbers[::2], itertools.pairwise(sizes), strict=True)]
    inputs, first, second, outputs = (sizes[0], *units, sizes[3])
    layout = [
        _padded(weights[0].T, (inputs, first), sum(counts)),
        _padded(numbers[1], (first,), sum(counts)),
        _padded(weights[1].T, (first, second), sum(counts)),
        _padded(numbers[3], (second,), sum(counts)),
        _padded(weights[2], (outputs, second), sum(counts)),
        numbers[5],
    ]
    forth = torch.cat([x.flatten() for x in layout])
    back = torch.empty(sum(counts) + 1, dtype=torch.int64, device="cpu")
    back[forth] = torch.arange(len(forth), device="cpu")
    return forth.to(device), back[:-1].to(device), torch.zeros(1, dtype=torch.float32, device=device)


def _padded(places: torch.Tensor, shape: tuple[int, ...], value: int) -> torch.Tensor:
    out = torch.full(shape, value, device="cpu")
    out[tuple(slice(n) for n in places.shape)] = places
    return out
