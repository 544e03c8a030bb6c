# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Verdicts on a registration, pictures of it, and the page that shows both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .basis_figure import basis_picture
    from .html import write_report
    from .picture import before_after_figure, before_after_picture
    from .thresholds import Thresholds
    from .verdict import Verdict, judge
    from .verdict_reasons import Reason

__all__ = [
    "Reason",
    "Thresholds",
    "Verdict",
    "basis_picture",
    "before_after_figure",
    "before_after_picture",
    "judge",
    "write_report",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "basis_figure": ["basis_picture"],
        "html": ["write_report"],
        "picture": ["before_after_figure", "before_after_picture"],
        "thresholds": ["Thresholds"],
        "verdict": ["Verdict", "judge"],
        "verdict_reasons": ["Reason"],
    },
)
