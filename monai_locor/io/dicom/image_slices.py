# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The slices of an image series, to which contours and segments refer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid
from . import dicom_volumes
from .frames import Frame
from .headers import is_dicom, load_pydicom
from .mosaic import is_mosaic
from .series import Series, open_series, reference
from .tags import NUMBER_OF_FRAMES, SOP_INSTANCE_UID

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["ImageSlices", "object_kind", "open_slices", "refusing_broken", "warn_of_patients"]

logger = logging.getLogger(__name__)

KINDS = {
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # label map
}


@dataclass(frozen=True, eq=False)
class ImageSlices:
    """An image series and its slices.

    Attributes:
        series: its identifiers.
        frames: the frame of each slice; of a series with several volumes, those of the first.
        grid: grid of the image, RAS.
    """

    series: Series
    frames: tuple[Frame, ...]
    grid: Grid

    def reference(self, k: int) -> Dataset:
        """A reference to the file, and in a file of several frames also to the frame, of slice ``k``."""
        frame = self.frames[k]
        item = reference(self.series.instances[0][0], frame.header.text(SOP_INSTANCE_UID))
        if (frame.header.number(NUMBER_OF_FRAMES) or 1) > 1 and not is_mosaic(frame):
            item.ReferencedFrameNumber = frame.index + 1
        return item

    def points(self, k: int, pixels: np.ndarray) -> np.ndarray:
        """Positions of pixels ``(N, 2)``, column and row, in the plane of slice ``k``: ``(N, 3)``, LPS mm."""
        frame = self.frames[k]
        assert frame.axes is not None and frame.spacing is not None and frame.position is not None
        return frame.position + (pixels * frame.spacing[::-1]) @ frame.axes


def open_slices(source: Any, name: str) -> ImageSlices:
    """Read the headers of a series.

    Args:
        source: a file, a folder, or ``FOLDER/UID``, as for :func:`~monai_locor.io.dicom.series.open_series`.
        name: name of the image for messages.

    Raises:
        InputError: if it is not an image series with positions and a frame of reference, or pydicom is not installed.
    """
    series = open_series(source, name)
    assert series.frame_of_reference
    volumes = dicom_volumes(Path(source).expanduser(), name)
    frames = tuple(frame for frame in volumes.frames[0] if frame is not None)
    if volumes.first.position is None or volumes.first.is_segmentation:
        raise InputError(f"{name}: is not an image series with positions in the patient; give the series of an image")
    rows, columns = volumes.first.size
    return ImageSlices(series, frames, Grid((columns, rows, len(frames)), volumes.affine))


def object_kind(path: Path) -> str | None:
    """``"RTSTRUCT"`` or ``"SEG"`` by the SOP class of a DICOM file; None for other files, and if pydicom is not installed."""
    pydicom = load_pydicom() if is_dicom(path) else None
    if pydicom is None:
        return None
    try:
        found = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except Exception:  # pydicom raises various types for broken files, which are reported when they are read as images
        return None
    return KINDS.get(str(found.get("SOPClassUID")))


def warn_of_patients(fixed: Series, carried: Dataset, name: str) -> None:
    """Warn if an object and the fixed image have different patient IDs."""
    if fixed.text("PatientID") != str(carried.get("PatientID") or ""):
        logger.warning("%s: has another patient ID than the fixed image; the new object gets that of the fixed image", name)


@contextmanager
def refusing_broken(name: str) -> Iterator[None]:
    """Turn the errors that pydicom raises for elements of a broken object into one that names the object.

    pydicom converts elements when they are first used, so errors occur when they are read, copied or written.

    Raises:
        InputError: instead of an error of another type, except one of the file system.
    """
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:  # pydicom raises various types
        raise InputError(f"{name}: is broken; export it again") from error
