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
    """Mean similarity of both directions plus weighted bending energy, from the output of a
    :class:`monai_locor.networks.RegistrationNetwork`.

    A learned basis of the similarity is a parameter of this module: pass ``loss.parameters()`` to the optimizer, and save
    ``loss.state_dict()`` with the network's.

    Args:
        similarity: of the warped moving and the fixed image: any loss ``(pred, target)``. If its ``forward`` has a parameter
            ``mask``, it gets the product of both images' weights. It gets ``in_channels`` channels of the prediction, by
            default one, and the first channel of the target. See :func:`monai_locor.losses.compare.compare`.
        inverse_similarity: the same for the warped fixed and the moving image. None uses ``similarity`` itself, which then
            must not have parameters: a basis learned for one image does not fit the other.
        bending_weight: of the bending energy of the displacement (mm) times the squared voxel size (mm^2), as in
            :class:`monai_locor.registration.RegistrationConfig`. For isotropic voxels that is MONAI's
            ``BendingEnergyLoss`` of the displacement in voxels.
        regularization: replaces the bending energy; called with the displacement ``(B, D, *spatial)`` in voxels, for
            instance MONAI's ``BendingEnergyLoss()``, which has the same value but makes a GPU wait for the host.

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
            pred: see :class:`monai_locor.networks.RegistrationNetwork`; without ``"warped_fixed"``, only the forward
                direction is compared.
            target: the fixed image; by default, and if its size differs from the compared one, ``pred["fixed"]``.

        Returns:
            scalar, to be minimized; its parts, detached, are kept in :attr:`last`.

        Raises:
            ValueError: if the inverse direction would need its own basis.
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
            raise ValueError("similarity has parameters; pass an inverse_similarity with its own for the inverse direction")
        return self.similarity
