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


"""Multimodal deformable image registration with the local learned-basis correlation ratio, for MONAI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import InputError

if TYPE_CHECKING:
    from .registration import RegistrationConfig, RegistrationResult, register

__all__ = ["InputError", "RegistrationConfig", "RegistrationResult", "__version__", "register"]


def __getattr__(name: str) -> Any:
    """What needs torch and MONAI is imported when it is asked for, so that the command line answers ``--help`` at once."""
    if name in __all__:
        return getattr(import_module(".registration", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
