# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The registration engine behind MONAI's `Inferer` interface, and the input images of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .instance_optimization import InstanceOptimizationInferer

__all__ = ["InstanceOptimizationInferer"]

__getattr__, __dir__ = lazy(__name__, {"instance_optimization": ["InstanceOptimizationInferer"]})
