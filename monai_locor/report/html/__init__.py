# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The HTML report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy

if TYPE_CHECKING:
    from .page import write_report

__all__ = ["write_report"]

__getattr__, __dir__ = lazy(__name__, {"page": ["write_report"]})
