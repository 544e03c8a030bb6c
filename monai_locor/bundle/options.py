# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Options of a bundle as a command line spells them, as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError

__all__ = ["flag", "path_in", "resumed_checkpoint"]

LAST_CHECKPOINT = "last.pt"


def flag(value: Any) -> bool:
    """An option that is on or off.

    Raises:
        InputError: if it is neither.
    """
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", "none", "null", ""):
        return False
    raise InputError(f"an option must be true or false, got {value!r}")


def path_in(folder: Any, name: str = "", rank: int = 0) -> str | None:
    """Path of a file or folder in a folder.

    Args:
        folder: None, or a word for it on a command line, gives None.
        name: of the file or folder.
        rank: of the process; only the first one writes, so others get None.
    """
    if rank > 0 or str(folder).lower() in ("none", "null", "false", ""):
        return None
    return str(Path(str(folder)).expanduser() / name)


def resumed_checkpoint(ckpt_dir: Any, resume: Any) -> str | None:
    """The checkpoint to resume from; None if training is not to be resumed."""
    return path_in(ckpt_dir, LAST_CHECKPOINT) if flag(resume) else None
