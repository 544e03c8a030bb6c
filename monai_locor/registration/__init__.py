# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairwise registration: settings, engine, result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .api import register
    from .basis_pair import BasisPair
    from .batch_api import register_batch
    from .checking import check
    from .config import PRESETS, RegistrationConfig
    from .engine import RegistrationEngine
    from .pair import Pair, load_pair, select_device
    from .result import RegistrationResult
    from .run import optimize
    from .schedule import Stage
    from .start.losses import InitialLosses
    from .start.start import Start

__all__ = [
    "PRESETS",
    "BasisPair",
    "InitialLosses",
    "Pair",
    "RegistrationConfig",
    "RegistrationEngine",
    "RegistrationResult",
    "Stage",
    "Start",
    "check",
    "load_pair",
    "optimize",
    "register",
    "register_batch",
    "select_device",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "api": ["register"],
        "basis_pair": ["BasisPair"],
        "batch_api": ["register_batch"],
        "checking": ["check"],
        "config": ["PRESETS", "RegistrationConfig"],
        "engine": ["RegistrationEngine"],
        "pair": ["Pair", "load_pair", "select_device"],
        "result": ["RegistrationResult"],
        "run": ["optimize"],
        "schedule": ["Stage"],
        "start.losses": ["InitialLosses"],
        "start.start": ["Start"],
    },
)
