# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Exact Euclidean distances on a lattice with equal spacing along every axis."""

from __future__ import annotations

import torch

__all__ = ["signed_distance", "squared_distance"]


def squared_distance(targets: torch.Tensor) -> torch.Tensor:
    """Squared distance of every node to the nearest target, ``(B, *shape)`` float32, nodes^2; infinite without a target.

    One axis after the other, all nodes of a line are compared (Saito & Toriwaki 1994, doi 10.1016/0031-3203(94)90133-3), in
    operations on whole arrays on any device.

    Args:
        targets: ``(B, *shape)`` bool.

    >>> squared_distance(torch.tensor([[[True, False, False], [False, False, False]]]))
    tensor([[[0., 1., 4.],
             [1., 2., 5.]]])
    """
    found = torch.where(targets, 0.0, torch.inf).float()
    for axis in range(1, found.ndim):
        before, size = found, found.shape[axis]
        found = before.clone()
        for apart in range(1, size):
            for to, of in ((0, apart), (apart, 0)):
                part = found.narrow(axis, to, size - apart)
                torch.minimum(part, before.narrow(axis, of, size - apart) + apart**2, out=part)
    return found


def signed_distance(inside: torch.Tensor) -> torch.Tensor:
    """Distance of every node to the surface of a set of nodes, negative inside it, ``(B, *shape)`` float32, nodes.

    The surface lies halfway between a node inside and its neighbor outside.

    Args:
        inside: ``(B, *shape)`` bool, each neither empty nor full.

    >>> signed_distance(torch.tensor([[True, True, False, False]]))
    tensor([[-1.5000, -0.5000,  0.5000,  1.5000]])
    """
    out, within = squared_distance(inside).sqrt_(), squared_distance(~inside).sqrt_()
    return torch.where(inside, 0.5 - within, out - 0.5)
