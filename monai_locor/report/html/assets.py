# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Templates, style sheet and script of the report, stored beside this module."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["asset"]


def asset(name: str) -> str:
    """The text of ``report.html``, ``report_viewer.html``, ``report.css`` or ``report.js``."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
