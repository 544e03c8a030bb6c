# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Image pairs with a known answer, to try and to test a registration; datalists and training pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .synthetic import deform, random_diffeomorphism

__all__ = ["deform", "random_diffeomorphism"]

__getattr__, __dir__ = lazy(__name__, {"synthetic": ["deform", "random_diffeomorphism"]})
