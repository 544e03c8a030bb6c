# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Image pairs with a known answer, to try and to test a registration; datalists and training pairs."""

from __future__ import annotations

from .synthetic import deform, random_diffeomorphism

__all__ = ["deform", "random_diffeomorphism"]
