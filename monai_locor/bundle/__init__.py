# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Callables that the bundles' configuration files name.

They refuse unknown options, report bad input in one line, check and cache data, check weights before anything is computed,
and write checkpoints so that training can be interrupted at any moment and resumed with the same result.
"""

from __future__ import annotations

from .checkpoints import BestCheckpoint, LastCheckpoint, checked_weights
from .components import guide, network_channels, on_device, parameter_groups, registration_loss, step_loss
from .configuration import Configuration
from .datasets import EpochSampler, cached_dataset, checked_training_pairs, pair_names, validation_sampler
from .inference import checked_pairs, network_disabled, register
from .one_line import one_line_errors
from .options import flag, path_in, resumed_checkpoint
from .processes import distributed, local_device, rank, start_distributed, stop_distributed
from .progress import LazyWriter, Progress, loss_parts
from .runs import evaluate, set_seed, train

__all__ = [
    "BestCheckpoint",
    "Configuration",
    "EpochSampler",
    "LastCheckpoint",
    "LazyWriter",
    "Progress",
    "cached_dataset",
    "checked_pairs",
    "checked_training_pairs",
    "checked_weights",
    "distributed",
    "evaluate",
    "flag",
    "guide",
    "local_device",
    "loss_parts",
    "network_channels",
    "network_disabled",
    "on_device",
    "one_line_errors",
    "pair_names",
    "parameter_groups",
    "path_in",
    "rank",
    "register",
    "registration_loss",
    "resumed_checkpoint",
    "set_seed",
    "start_distributed",
    "step_loss",
    "stop_distributed",
    "train",
    "validation_sampler",
]
