# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results of registrations as a BIDS derivative dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .derivatives import Derivatives, write_derivatives

__all__ = ["Derivatives", "write_derivatives"]

__getattr__, __dir__ = lazy(__name__, {"derivatives": ["Derivatives", "write_derivatives"]})
