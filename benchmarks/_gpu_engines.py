# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Engines on synthetic pairs, and shortened presets, for the parts of `gpu.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scaling import pair_of

from monai_locor.registration import RegistrationConfig, RegistrationEngine, Start
from monai_locor.registration.start.prepare import prepare

__all__ = ["engine_of", "short_preset", "tensors_of"]


def short_preset(name: str, iterations: int) -> RegistrationConfig:
    """A preset with few steps per stage and without multi-start."""
    config = RegistrationConfig.of(name)
    stages = tuple(dataclasses.replace(s, iterations=min(s.iterations, iterations)) for s in config.stages)
    return dataclasses.replace(config, stages=stages, multistart="never", intersubject="never")


def tensors_of(shape: Sequence[int]) -> list[torch.Tensor]:
    """The synthetic pair in memory, ``(1, *shape)`` each."""
    return [torch.from_numpy(values.astype(np.float32))[None] for values in pair_of(shape)]


def engine_of(shape: Sequence[int], config: RegistrationConfig, device: str, **options: Any) -> RegistrationEngine:
    """An engine before its first stage."""
    prepared = [prepare(image, None, config.quantile, torch.device(device)) for image in tensors_of(shape)]
    return RegistrationEngine(Start((prepared[0], prepared[1]), np.eye(len(shape) + 1), **options), config)
