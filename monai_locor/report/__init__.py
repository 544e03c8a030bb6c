# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The report of a registration: its verdict, figures, pictures that explain a local fit, and the HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from ..quality.reasons import Reason
    from ..quality.thresholds import Thresholds
    from ..quality.verdict import Verdict
    from ..registration.judging import judge
    from .explain.explain import explain_fit
    from .html.page import write_report
    from .pictures.basis import basis_picture
    from .pictures.before_after import before_after_figure, before_after_picture

__all__ = [
    "Reason",
    "Thresholds",
    "Verdict",
    "basis_picture",
    "before_after_figure",
    "before_after_picture",
    "explain_fit",
    "judge",
    "write_report",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        ".quality.reasons": ["Reason"],
        ".quality.thresholds": ["Thresholds"],
        ".quality.verdict": ["Verdict"],
        ".registration.judging": ["judge"],
        "explain.explain": ["explain_fit"],
        "html.page": ["write_report"],
        "pictures.basis": ["basis_picture"],
        "pictures.before_after": ["before_after_figure", "before_after_picture"],
    },
)
