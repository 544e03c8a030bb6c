# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Quality control: measures of a registration, their WARN/FAIL thresholds, and the verdict; on arrays and grids only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .error_estimate import estimate_error
    from .error_map import ErrorMap, PointErrors
    from .outcome import Outcome
    from .reasons import Reason
    from .thresholds import Thresholds
    from .verdict import Verdict, judge_outcome

__all__ = ["ErrorMap", "Outcome", "PointErrors", "Reason", "Thresholds", "Verdict", "estimate_error", "judge_outcome"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "error_estimate": ["estimate_error"],
        "error_map": ["ErrorMap", "PointErrors"],
        "outcome": ["Outcome"],
        "reasons": ["Reason"],
        "thresholds": ["Thresholds"],
        "verdict": ["Verdict", "judge_outcome"],
    },
)
