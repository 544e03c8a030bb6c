# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The affine part of a transform, parametrized so that one learning rate fits all parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from ..autograd import StreamedFunction
from ..geometry import Grid

__all__ = ["AFFINE_KINDS", "AffineMap", "MatrixExponential", "matrix_exponential"]

AFFINE_KINDS = ("rigid", "similarity", "affine")  # each includes those before it
TERMS = 16  # of the series of the exponential, a power of two


def matrix_exponential(matrix: torch.Tensor) -> torch.Tensor:
    """Return ``exp`` of small square matrices ``(..., n, n)``, see :class:`MatrixExponential`."""
    return MatrixExponential(matrix.shape[-1]).to(matrix)(matrix)


class MatrixExponential(nn.Module):
    """``exp`` of small square matrices by its Taylor series, in few operations that do not depend on the values.

    ``torch.linalg.matrix_exp`` chooses its degree from the norm, so that the host waits for a GPU. For float64 and norms up
    to 1 the error is below 1e-14, for norms up to pi below 1e-6 of the result.

    Args:
        size: number of rows n.
    """

    series: torch.Tensor
    pairs: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        factors = np.array([1 / math.factorial(k) for k in range(TERMS + 1)])
        degree = np.add.outer(np.arange(TERMS), np.arange(TERMS)) + 1
        pairs = np.where(degree <= TERMS, factors[degree.clip(max=TERMS)], 0)  # of X^i dX X^j, a part of d(X^(i + j + 1))
        self.register_buffer("series", torch.from_numpy(np.kron(factors[:, None], np.eye(size))), persistent=False)
        self.register_buffer("pairs", torch.from_numpy(pairs), persistent=False)

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return ``exp(matrix)``, ``(..., n, n)``, differentiable once."""
        flat = matrix.reshape(-1, *matrix.shape[-2:])
        return _ExponentialFunction.apply(flat, self.series, self.pairs)[0].view_as(matrix)


class _ExponentialFunction(StreamedFunction):
    """Also returns the powers, for the backward pass."""

    leading = differentiable = (0,)
    saved_leading = 1

    @staticmethod
    def forward(matrix: torch.Tensor, series: torch.Tensor, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        powers = _powers(matrix, series)
        return (powers.flatten(0, 1) @ series).view_as(matrix), powers

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        ctx.options = {}
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], inputs[2])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The sum over i and j of ``(X^i)^T G (X^j)^T / (i + j + 1)!``."""
        saved, pairs = ctx.saved_tensors
        count, size, _ = saved.shape
        powers = saved[:, :, : TERMS * size]
        left = torch.bmm(powers.mT, grad).view(count, TERMS, size * size)
        both = torch.bmm(pairs.expand(count, -1, -1), left).view(count, TERMS, size, size)
        return torch.bmm(both.transpose(1, 2).reshape(count, size, TERMS * size), powers.mT), None, None


def _powers(matrix: torch.Tensor, series: torch.Tensor) -> torch.Tensor:
    """The powers 0 to :data:`TERMS` of matrices ``(B, n, n)`` side by side, ``(B, n, (TERMS + 1) n)``."""
    count, size, _ = matrix.shape
    out = matrix.new_empty(count, size, (TERMS + 1) * size)
    identity = series[:size].expand_as(matrix)
    torch.cat((identity, matrix), 2, out=out[:, :, : 2 * size])
    known = 1
    while known < TERMS:
        highest = out[:, :, known * size : (known + 1) * size]
        torch.bmm(highest, out[:, :, size : (known + 1) * size], out=out[:, :, (known + 1) * size : (2 * known + 1) * size])
        known *= 2
    return out


class AffineMap(nn.Module):
    """World to world map ``x -> initial(c + s exp(P) (x - c) / s)``, RAS mm.

    ``c`` is the center of the fixed grid and ``s`` half its largest extent, so that all twelve numbers of P (in 3-D)
    move the border of the image by similar amounts. P acts along the fixed grid's axes. The inverse is ``exp(-P)``.

    For a rigid map, the linear part of P is skew, so that its exponential is a rotation to float64 precision. A similarity
    has one more parameter, along the diagonal.

    Args:
        grid: fixed grid.
        initial: ``(D + 1, D + 1)``, fixed to moving world points.
        kind: one of :data:`AFFINE_KINDS`, degrees of freedom on top of ``initial``; any other value means ``"affine"``.
    """

    left: torch.Tensor
    right: torch.Tensor
    generators: torch.Tensor

    def __init__(self, grid: Grid, initial: np.ndarray | None = None, kind: str = "affine") -> None:
        super().__init__()
        dims, self.kind = grid.dims, kind
        self.log_matrix = nn.Parameter(torch.zeros(dims, dims + 1, dtype=torch.float32, device="cpu"))
        scale = float(grid.extent.max()) / 2
        center = np.eye(dims + 1)
        axes = grid.affine[:-1, :-1] / grid.spacing
        if kind in AFFINE_KINDS[:-1]:  # along axes that are not orthogonal, a skew matrix would not generate a rotation
            left, _, right = np.linalg.svd(axes)
            axes = left @ right
        center[:-1, :-1] = axes * scale
        center[:-1, -1] = grid.center
        initial = np.eye(dims + 1) if initial is None else np.asarray(initial, dtype=np.float64)
        left, right = initial @ center, np.linalg.inv(center)
        for name, value in {
            "left": np.stack((left, center)),
            "right": np.stack((right, np.linalg.inv(left))),
            "generators": _generators(dims, kind),
        }.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)
        self.exponential = MatrixExponential(dims + 1)

    def forward(self, inverse: bool = False) -> torch.Tensor:
        """The matrix ``(D + 1, D + 1)``, float64: from fixed to moving world points, or the inverse."""
        return self.both()[int(inverse)]

    def both(self) -> torch.Tensor:
        """The matrix and its inverse, ``(2, D + 1, D + 1)``, float64."""
        logs = (self.generators @ self.log_matrix.double().flatten()).view_as(self.left)
        return self.left @ self.exponential(logs) @ self.right


def _generators(dims: int, kind: str) -> np.ndarray:
    """The linear map from the parameters to the entries of P, projected on the kind of map, and of -P."""
    size, out = dims + 1, []
    for entry in np.eye(dims * size).reshape(-1, dims, size):
        log = np.zeros((size, size))
        log[:dims] = entry
        if kind in AFFINE_KINDS[:-1]:
            linear = entry[:, :dims]
            log[:dims, :dims] = (linear - linear.T) / 2
            if kind == "similarity":
                log[:dims, :dims] += np.eye(dims) * np.trace(linear) / dims
        out.append(np.stack((log, -log)).ravel())
    return np.stack(out, 1)
