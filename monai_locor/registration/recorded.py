# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whether an image is the one that a run registered."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from ..io import FileChannel, ImageSource
from ..io.image_source import load_source
from .described import described_image
from .manifest import RunManifest, well_formed

__all__ = ["recorded_image"]


def recorded_image(run: RunManifest, role: str, given: ImageSource) -> ImageSource | None:
    """Return the given image if it is the one that a run registered, else None.

    Args:
        run: the record of the run.
        role: ``"fixed"`` or ``"moving"``.
        given: one image.

    Returns:
        the image; of a file of several channels the recorded one, unless the image names a channel.

    Raises:
        FileNotFoundError: if it is a file that does not exist.
    """
    with well_formed(run.path):
        entry = run.first_entry(role)
        if "path" not in entry and isinstance(given, FileChannel):  # earlier versions recorded a channel by its voxels
            given = load_source(given, f"{role} image")[1]
        found = described_image(given)
        if entry.get("sha256") is None or found.get("sha256") != entry["sha256"] or _says_otherwise(found, entry):
            return None
        if "channel" in entry and "channel" not in found and isinstance(given, (str, PathLike)):
            return FileChannel(fspath(given), entry["channel"])
        return given


def _says_otherwise(found: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether two images with the same content of their files are different parts of it.

    The series is compared if both name one: a folder of a single series can be given without. A channel that is not named is
    the recorded one, but a named channel of a picture is not its intensity.
    """
    series = found.get("series", entry.get("series")) != entry.get("series", found.get("series"))
    return series or found.get("channel", entry.get("channel")) != entry.get("channel")
