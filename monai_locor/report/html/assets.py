# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Templates, style sheets and scripts of the report, stored beside this module."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["asset", "script", "style"]

SCRIPTS = ("report_slices.js", "report_drawing.js", "report_landmarks.js", "report_controls.js")
STYLES = ("report.css", "report_viewer.css", "report_print.css")


def asset(name: str) -> str:
    """The text of a file, for instance ``report.html``."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def script() -> str:
    """The script of the page: its parts in one function."""
    return '"use strict";\n(() => {\n' + "\n".join(asset(name) for name in SCRIPTS) + "})();"


def style() -> str:
    """The style sheet of the page."""
    return "\n".join(asset(name) for name in STYLES)
