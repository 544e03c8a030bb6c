# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Fixtures of the command line's tests."""

from __future__ import annotations

from .files import folder, refused, run, short_folder

__all__ = ["folder", "refused", "run", "short_folder"]
