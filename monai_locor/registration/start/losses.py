# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The initial state of the similarity measures of a registration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..basis_pair import BasisPair
from ..config import RegistrationConfig
from ..similarity import OwnSimilarity, make_similarities

__all__ = ["InitialLosses"]


@dataclass(frozen=True, eq=False)
class InitialLosses:
    """Everything that the similarity measures of both directions are made from, apart from the settings.

    Attributes:
        seed: of the basis networks and of the window shifts.
        similarity: replaces the measure of the settings, see :func:`monai_locor.registration.similarity.make_similarity`.
        channel_weights: one for each pair of channels.
        basis: initial bases of both directions, optimized further.
    """

    seed: int = 0
    similarity: OwnSimilarity | None = None
    channel_weights: Sequence[float] = (1.0,)
    basis: BasisPair | None = None

    def make(self, config: RegistrationConfig, spatial_dims: int) -> list[nn.Module]:
        """New losses of both directions, on the host; the same ones at every call.

        Raises:
            InputError, ValueError: see :func:`monai_locor.registration.similarity.make_similarity`.
        """
        # one generator for each direction, so that its random numbers do not depend on where the other one is computed
        generators = [torch.Generator("cpu").manual_seed(2 * self.seed + k) for k in range(2)]
        losses = make_similarities(config, spatial_dims, generators, self.seed, self.similarity, self.channel_weights)
        if self.basis is not None:
            self.basis.load_into(*losses)  # type: ignore[arg-type]  # such a basis goes with the default measure only
        return losses
