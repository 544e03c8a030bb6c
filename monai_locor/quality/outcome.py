# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The quantities of a transform, and of the registration that computed it, that a verdict is based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..geometry import Grid
from .rivals import Rival

__all__ = ["Outcome"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A transform in both directions and the course of its optimization. D spatial dimensions.

    Attributes:
        fixed_grid, moving_grid: grids of the two images.
        forward_mm: displacement from fixed to moving points, affine included, ``(D, *fixed_grid)``, RAS mm.
        inverse_mm: displacement from moving to fixed points, ``(D, *moving_grid)``, RAS mm.
        affine: affine part of the transform, ``(D + 1, D + 1)``, fixed to moving points, RAS mm.
        initial: affine the registration started from, likewise; None if it is unknown: the identity is then used.
        jacobian: statistics of the Jacobian determinant, see :func:`monai_locor.metrics.jacobian_statistics`.
        history: one mapping per stage, with its losses under ``"loss"`` (None if not finite) and the number of undone steps
            under ``"undone_steps"`` (by default that of the losses that are None); None if it is unknown.
        similarity: name of the similarity measure; empty if it is unknown.
        transform: transform model: ``"rigid"``, ``"similarity"``, ``"affine"`` or ``"deformable"``.
        doubts: warnings of the run that make the result doubtful.
        interrupted: whether the optimization was interrupted.
        rivals: the best alignments of other orientations, if they were compared.
        two_subjects: whether the images are known to show two subjects.
    """

    fixed_grid: Grid
    moving_grid: Grid
    forward_mm: torch.Tensor
    inverse_mm: torch.Tensor
    affine: np.ndarray
    initial: np.ndarray | None
    jacobian: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] | None
    similarity: str
    transform: str = "deformable"
    doubts: Sequence[str] = ()
    interrupted: bool = False
    rivals: Sequence[Rival] = ()
    two_subjects: bool = False

    @property
    def start(self) -> np.ndarray:
        """Affine that gains are measured from: :attr:`initial`, or the identity if it is unknown."""
        return np.eye(self.fixed_grid.dims + 1) if self.initial is None else self.initial
