# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Transforms in MONAI's sense: an array and a dictionary version of each."""

from __future__ import annotations

from .derivative_magnitude import DerivativeMagnitude, derivative_magnitude
from .dictionary import DerivativeMagnitudeD, DerivativeMagnituded, DerivativeMagnitudeDict
from .register import RegisterD, Registerd, RegisterDict

__all__ = [
    "DerivativeMagnitude",
    "DerivativeMagnitudeD",
    "DerivativeMagnitudeDict",
    "DerivativeMagnituded",
    "RegisterD",
    "RegisterDict",
    "Registerd",
    "derivative_magnitude",
]
