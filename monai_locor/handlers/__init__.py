# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Ignite handlers."""

from __future__ import annotations

from .epoch_seed import SeedEpochs
from .registration_metrics import RegistrationMetric, RegistrationMetrics
from .registration_saver import RegistrationSaver
from .training_pictures import BasisPictures, WarpPictures
from .verdicts import RegistrationVerdicts

__all__ = [
    "BasisPictures",
    "RegistrationMetric",
    "RegistrationMetrics",
    "RegistrationSaver",
    "RegistrationVerdicts",
    "SeedEpochs",
    "WarpPictures",
]
