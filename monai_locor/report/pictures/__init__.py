# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Figures of a registration: images before and after, and the learned basis functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy

if TYPE_CHECKING:
    from .basis import basis_picture
    from .before_after import before_after_figure, before_after_picture

__all__ = ["basis_picture", "before_after_figure", "before_after_picture"]

__getattr__, __dir__ = lazy(
    __name__, {"basis": ["basis_picture"], "before_after": ["before_after_figure", "before_after_picture"]}
)
