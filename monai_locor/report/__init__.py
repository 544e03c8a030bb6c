# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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
