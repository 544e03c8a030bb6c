# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Basis networks, the parametrizations of a transform, and what surrounds a network that predicts one."""

from __future__ import annotations

from .basis import LearnedBasis, PolynomialBasis
from .registration_network import RegistrationNetwork, small_head

__all__ = ["LearnedBasis", "PolynomialBasis", "RegistrationNetwork", "small_head"]
