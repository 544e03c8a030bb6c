# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Basis networks, parametrizations of a transform, and the wrapper of a network that predicts one."""

from __future__ import annotations

from .basis import BatchedBasis, LearnedBasis, PolynomialBasis
from .registration_network import RegistrationNetwork, small_head

__all__ = ["BatchedBasis", "LearnedBasis", "PolynomialBasis", "RegistrationNetwork", "small_head"]
