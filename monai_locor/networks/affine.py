# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The affine part of a transform, parametrized so that one learning rate fits all parameters."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..geometry import Grid

__all__ = ["AFFINE_KINDS", "AffineMap", "matrix_exponential"]

AFFINE_KINDS = ("rigid", "similarity", "affine")  # each includes those before it


def matrix_exponential(matrix: torch.Tensor, squarings: int = 5, terms: int = 8) -> torch.Tensor:
    """``exp`` of a small square matrix by scaling and squaring of its series, independent of its values.

    ``torch.linalg.matrix_exp`` chooses its degree from the norm, so that the host waits for a GPU. For norms up to
    1 the error is below 1e-14.
    """
    scaled = matrix / 2**squarings
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    out = identity
    for n in range(terms, 0, -1):  # Horner
        out = identity + scaled @ out / n
    for _ in range(squarings):
        out = out @ out
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
    left_inverse: torch.Tensor
    right_inverse: torch.Tensor

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
        for name, value in {
            "left": initial @ center,
            "right": np.linalg.inv(center),
            "left_inverse": center,
            "right_inverse": np.linalg.inv(initial @ center),
        }.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)

    def forward(self, inverse: bool = False) -> torch.Tensor:
        """The matrix ``(D + 1, D + 1)``, float64: from fixed to moving world points, or the inverse."""
        log = nn.functional.pad(self._generator(), (0, 0, 0, 1))
        if inverse:
            return self.left_inverse @ matrix_exponential(-log) @ self.right_inverse
        return self.left @ matrix_exponential(log) @ self.right

    def _generator(self) -> torch.Tensor:
        """The upper rows of P, ``(D, D + 1)`` float64: the parameters projected on the kind of map."""
        log = self.log_matrix.double()
        if self.kind not in AFFINE_KINDS[:-1]:
            return log
        linear = log[:, :-1]
        allowed = (linear - linear.T) / 2
        if self.kind == "similarity":
            allowed = allowed + torch.diag_embed(linear.diagonal().mean().expand(len(log)))
        return torch.cat((allowed, log[:, -1:]), 1)
