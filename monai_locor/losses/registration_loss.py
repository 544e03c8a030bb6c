# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The loss of unsupervised registration training: similarity in both directions and smoothness."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..tensors import plain
from .bending import bending_energy
from .compare import compare

__all__ = ["RegistrationLoss"]


class RegistrationLoss(nn.Module):
    """Similarity of both directions, averaged, plus weighted bending energy, of what a
    :class:`monai_locor.networks.RegistrationNetwork` returns.

    A basis that the similarity learns is a parameter of this module: hand ``loss.parameters()`` to the optimizer, and save
    ``loss.state_dict()`` beside the network's.

    Args:
        similarity: of the warped moving and the fixed image: any loss ``(pred, target)``. If its ``forward`` has a parameter
            ``mask``, it is told where both images count. It gets as many channels of the prediction as its ``in_channels``
            says, by default one; the target is the first channel. See :func:`monai_locor.losses.compare.compare`.
        inverse_similarity: the same for the warped fixed and the moving image. None takes ``similarity`` itself, which then
            must have no parameters: a basis for functions of one image is none for functions of the other.
        bending_weight: of the bending energy of the displacement (mm) times the squared voxel size (mm^2), as in
            :class:`monai_locor.registration.RegistrationConfig`. For isotropic voxels that is MONAI's
            ``BendingEnergyLoss`` of the displacement in voxels.
        regularization: instead of the bending energy, called with the displacement ``(B, D, *spatial)`` in voxels, for
            instance MONAI's ``BendingEnergyLoss()``, which computes the same but lets a GPU wait for the host.

    Raises:
        ValueError: when ``bending_weight`` is negative or not finite.

    Example::

        basis = dict(in_channels=2, rescale=False)
        loss = RegistrationLoss(LocalLearnedBasisCRLoss(**basis), LocalLearnedBasisCRLoss(**basis))
    """

    def __init__(
        self,
        similarity: nn.Module,
        inverse_similarity: nn.Module | None = None,
        bending_weight: float = 60.0,
        regularization: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= bending_weight < float("inf"):
            raise ValueError(f"bending_weight must be finite and not negative, got {bending_weight!r}.")
        self.similarity, self.inverse_similarity = similarity, inverse_similarity
        self.bending_weight = bending_weight
        self.regularization = bending_energy if regularization is None else regularization
        self.last: dict[str, torch.Tensor] = {}

    def forward(self, pred: Mapping[str, torch.Tensor], target: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            pred: see :class:`monai_locor.networks.RegistrationNetwork`; without ``"warped_fixed"``, the forward direction alone
                counts.
            target: the fixed image; by default, and where it has more voxels than are compared, ``pred["fixed"]``.

        Returns:
            a scalar, to be minimized; its parts, detached, are in :attr:`last`.

        Raises:
            ValueError: when the similarity of the inverse direction would need a basis of its own.
        """
        compared = pred["warped_moving"].shape[2:]
        fixed = pred["fixed"] if target is None or target.shape[2:] != compared else plain(target)
        similarity = compare(self.similarity, pred["warped_moving"], fixed[:, :1], pred.get("weight"))
        if "warped_fixed" in pred:
            moving, weight = pred["moving"][:, :1], pred.get("inverse_weight")
            inverse = compare(self._inverse(), pred["warped_fixed"], moving, weight)
            similarity = (similarity + inverse) / 2
        bending = self.regularization(pred["ddf"]) * self.bending_weight
        self.last = {"similarity": similarity.detach(), "bending": bending.detach()}
        return similarity + bending

    def extra_repr(self) -> str:
        """The weight, for ``repr``."""
        return f"bending_weight={self.bending_weight!r}"

    def _inverse(self) -> nn.Module:
        if self.inverse_similarity is not None:
            return self.inverse_similarity
        if next(self.similarity.parameters(), None) is not None:
            raise ValueError("the similarity has parameters: give an inverse_similarity with its own for the other direction")
        return self.similarity
