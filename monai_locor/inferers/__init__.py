# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The registration engine behind MONAI's `Inferer` interface."""

from __future__ import annotations

from .instance_optimization import InstanceOptimizationInferer

__all__ = ["InstanceOptimizationInferer"]
