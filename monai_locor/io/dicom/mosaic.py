# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Siemens mosaics: all slices of a volume as tiles of one frame."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InputError
from . import tags
from .frames import Frame

__all__ = ["is_mosaic", "tiles"]


def is_mosaic(frame: Frame) -> bool:
    """Whether a frame is a Siemens mosaic, or the equivalent grid of United Imaging."""
    return not {"MOSAIC", "VFRAME"}.isdisjoint(frame.header.text(tags.IMAGE_TYPE).upper().split("\\"))


def tiles(frame: Frame, name: str) -> list[Frame]:
    """The slices of a mosaic, each at its own position.

    The header's position refers to an image of the mosaic's size that is centered on the first slice, see
    https://nipy.org/nibabel/dicom/dicom_mosaic.html.

    Raises:
        InputError: if the header lacks the number of slices, their spacing or their position.
    """
    csa = _csa(frame)
    count = int(_csa_number(csa, "NumberOfImagesInMosaic") or _count(frame))
    gap = frame.header.number(tags.SPACING_BETWEEN_SLICES) or _csa_number(csa, "SpacingBetweenSlices")
    side = int(np.ceil(np.sqrt(count)))
    if not count or not gap or frame.position is None or frame.axes is None or frame.spacing is None or _uneven(frame, side):
        raise InputError(
            f"{name}: {frame.file.name} is a mosaic (all slices of a volume in one picture) whose header does not say how many "
            "slices it has and where they lie; convert the original files with dcm2niix"
        )
    rows, columns = frame.size[0] // side, frame.size[1] // side
    beside = 0.5 * np.array([(frame.size[1] - columns) * frame.spacing[1], (frame.size[0] - rows) * frame.spacing[0]])
    first, step = frame.position + beside @ frame.axes, gap * _normal(frame, csa)
    return [
        replace(frame, size=(rows, columns), position=first + k * step, corner=(k // side * rows, k % side * columns))
        for k in range(count)
    ]


def _count(frame: Frame) -> int:
    """Number of slices from the private element; two raw bytes if its VR has been lost."""
    data = frame.header.data(tags.SIEMENS_MOSAIC_TILES)
    return int.from_bytes(data, "little") if len(data) == 2 else int(frame.header.number(tags.SIEMENS_MOSAIC_TILES) or 0)


def _uneven(frame: Frame, side: int) -> bool:
    return frame.size[0] % side != 0 or frame.size[1] % side != 0


def _normal(frame: Frame, csa: dict[str, Any]) -> np.ndarray:
    """Direction of increasing slice index: the slice normal with the sign from the private header."""
    stated = csa.get("SliceNormalVector", [])
    if len(stated) == 3 and np.dot(frame.normal, [float(x) for x in stated]) < 0:
        return -frame.normal
    return frame.normal


def _csa_number(csa: dict[str, Any], key: str) -> float | None:
    return next((float(value) for value in csa.get(key, [])), None)


def _csa(frame: Frame) -> dict[str, Any]:
    """Values by name from the Siemens private image header; empty if there is none."""
    data = frame.header.data(tags.SIEMENS_CSA_HEADER)
    if not data or "SIEMENS CSA" not in frame.header.text(tags.SIEMENS_CSA_OWNER):
        return {}
    with warnings.catch_warnings():  # warns that the module is experimental
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader
    try:
        return {key: tag["items"] for key, tag in csareader.read(data)["tags"].items()}
    except Exception:  # the reader raises various types for damaged headers
        return {}
