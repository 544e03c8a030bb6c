# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The roles of the two images of a registration, in the order in which they are always given."""

from __future__ import annotations

__all__ = ["ROLES"]

ROLES = ("fixed", "moving")
