# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Initial state of the similarity measures of a registration."""

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
    """The inputs, besides the settings, from which the similarity measures of both directions are constructed.

    Attributes:
        seed: random seed of the basis networks and the window shifts.
        similarity: overrides the measure of the settings, see :func:`monai_locor.registration.similarity.make_similarity`.
        channel_weights: one weight per pair of channels.
        basis: initial bases of both directions, optimized further.
    """

    seed: int = 0
    similarity: OwnSimilarity | None = None
    channel_weights: Sequence[float] = (1.0,)
    basis: BasisPair | None = None

    def make(self, config: RegistrationConfig, spatial_dims: int) -> list[nn.Module]:
        """Construct the losses of both directions, on the host; every call returns new losses in the same state.

        Raises:
            InputError, ValueError: see :func:`monai_locor.registration.similarity.make_similarity`.
        """
        # one generator per direction, so that its random numbers do not depend on the device of the other direction
        generators = [torch.Generator("cpu").manual_seed(2 * self.seed + k) for k in range(2)]
        losses = make_similarities(config, spatial_dims, generators, self.seed, self.similarity, self.channel_weights)
        if self.basis is not None:
            self.basis.load_into(*losses)  # type: ignore[arg-type]  # used with the default measure only
        return losses
