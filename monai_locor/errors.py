# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong with input, said in one line that names the thing, its value and the remedy."""

from __future__ import annotations

__all__ = ["InputError", "one_line"]


class InputError(ValueError):
    """Input that cannot be registered: the message names the file or argument, its value and what to do about it."""


def one_line(error: BaseException) -> str:
    """The gist of an exception, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
