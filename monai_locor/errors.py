# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Errors about invalid input: one line that names the file or argument, its value and the remedy."""

from __future__ import annotations

__all__ = ["InputError", "one_line"]


class InputError(ValueError):
    """Invalid input. The message names the file or argument, its value and the remedy."""


def one_line(error: BaseException) -> str:
    """The last line of an exception's message, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
