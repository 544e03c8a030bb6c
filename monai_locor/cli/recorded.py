# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files that a run used, to be shown in a report if they are unchanged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["is_unchanged", "recorded_mask"]

logger = logging.getLogger(__name__)


def recorded_mask(arguments: Mapping[str, Any], name: str) -> Any:
    """The mask of a registration as an image source, if its file is unchanged; otherwise None, with a warning.

    Args:
        arguments: of the registration, as ``run.json`` records them.
        name: ``"fixed_mask"`` or ``"moving_mask"``.
    """
    from ..io.file_channel import FileChannel

    entry, what = arguments.get(name, {}), name.replace("_", " ")
    if "path" not in entry:
        if entry:
            logger.warning("%s was in memory and is not shown", what)
        return None
    if not is_unchanged(entry["path"], entry.get("sha256"), what):
        return None
    return FileChannel(entry["path"], entry["channel"]) if "channel" in entry else entry["path"]


def is_unchanged(path: str, digest: str | None, what: str) -> bool:
    """Whether a recorded file still has its hash; a warning tells if not.

    Args:
        path: path of the file.
        digest: its SHA-256.
        what: name of the file for the warning.
    """
    from ..io.stored_files import stored_place
    from ..registration.manifest import sha256

    place = stored_place(Path(path))
    problem = "no longer exists" if not place.exists() else "has changed" if sha256(place) != digest else ""
    if problem:
        logger.warning("%s %s %s and is not shown", what, path, problem)
    return not problem
