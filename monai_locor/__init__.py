# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Multimodal deformable image registration with the local learned-basis correlation ratio, for MONAI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import InputError

if TYPE_CHECKING:
    from .registration import RegistrationConfig, RegistrationResult, check, register, register_batch
    from .sets import longitudinal, series, template

__all__ = [
    "InputError",
    "RegistrationConfig",
    "RegistrationResult",
    "__version__",
    "check",
    "longitudinal",
    "register",
    "register_batch",
    "series",
    "template",
]
_OF_SETS = ("longitudinal", "series", "template")


def __getattr__(name: str) -> Any:
    """Import torch and MONAI only when needed, so that ``--help`` on the command line is fast."""
    if name in __all__:
        return getattr(import_module(".sets" if name in _OF_SETS else ".registration", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
