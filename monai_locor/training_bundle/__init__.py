# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the bundles' training and evaluation call, beside :mod:`monai_locor.bundle`.

Data are checked and cached, weights are checked before anything is computed, and checkpoints are written so that a break
at any moment leaves a complete one and training goes on from it as if there had been no break.
"""

from __future__ import annotations

from ..bundle import flag
from .checkpoints import BestCheckpoint, LastCheckpoint, checked_weights
from .data import EpochSampler, cached_dataset, pair_names, pairs, validation_sampler
from .options import registration_loss, within
from .processes import distributed, local_device, rank, start_distributed, stop_distributed
from .progress import LazyWriter, Progress, loss_parts
from .runs import evaluate, set_seed, train

__all__ = [
    "BestCheckpoint",
    "EpochSampler",
    "LastCheckpoint",
    "LazyWriter",
    "Progress",
    "cached_dataset",
    "checked_weights",
    "distributed",
    "evaluate",
    "flag",
    "local_device",
    "loss_parts",
    "pair_names",
    "pairs",
    "rank",
    "registration_loss",
    "set_seed",
    "start_distributed",
    "stop_distributed",
    "train",
    "validation_sampler",
    "within",
]
