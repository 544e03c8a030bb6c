# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Pairwise registration: settings, engine, result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .api import register
    from .config import PRESETS, RegistrationConfig
    from .engine import RegistrationEngine
    from .pair import Pair, load_pair, select_device
    from .result import RegistrationResult
    from .schedule import Stage

__all__ = [
    "PRESETS",
    "Pair",
    "RegistrationConfig",
    "RegistrationEngine",
    "RegistrationResult",
    "Stage",
    "load_pair",
    "register",
    "select_device",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "api": ["register"],
        "config": ["PRESETS", "RegistrationConfig"],
        "engine": ["RegistrationEngine"],
        "pair": ["Pair", "load_pair", "select_device"],
        "result": ["RegistrationResult"],
        "schedule": ["Stage"],
    },
)
