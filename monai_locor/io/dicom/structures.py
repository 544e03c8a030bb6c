# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading of the contours of an RTSTRUCT object (PS3.3 A.19), and their conversion to regions of the image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid, apply_affine
from ..lps import lps_signs
from .contours import coverage
from .headers import needed_pydicom
from .image_slices import refusing_broken
from .propagation import Region

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["CLOSED_TYPES", "Structure", "read_structures", "region_of"]

logger = logging.getLogger(__name__)

CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
MAX_SLICE_OFFSET = 0.2  # distance of a contour from its slice, in slices; positions may be rounded to 0.1 mm
MIN_CORNERS = 3  # of a contour with an area


@dataclass(frozen=True, eq=False)
class Structure:
    """A region of interest (ROI).

    Attributes:
        item: its item of the Structure Set ROI Sequence.
        contour_item: its item of the ROI Contour Sequence; None if there is none.
        closed: closed planar contours, each ``(N, 3)``, LPS mm.
        closed_type: their geometric type, one of ``CLOSED_TYPES``.
        points: single points, ``(N, 3)``, LPS mm.
    """

    item: Dataset
    contour_item: Dataset | None
    closed: tuple[np.ndarray, ...]
    closed_type: str
    points: np.ndarray

    @property
    def number(self) -> int:
        """ROI number."""
        return int(self.item.ROINumber)

    @property
    def name(self) -> str:
        """ROI name, or its number."""
        return str(self.item.get("ROIName") or self.number)


def read_structures(path: Path, name: str, frame_of_reference: str) -> tuple[Dataset, list[Structure]]:
    """Read an RTSTRUCT object.

    Args:
        path: its file.
        name: its name for messages.
        frame_of_reference: UID of the frame of reference of the image that it was drawn on.

    Returns:
        the object and its regions of interest.

    Raises:
        InputError: if the file is broken, a region has another frame of reference, or a contour is of a type other than
            closed planar and point.
    """
    pydicom = needed_pydicom(name, "RTSTRUCT objects are read")
    with refusing_broken(name):
        content = pydicom.dcmread(path)
        items = list(content.get("StructureSetROISequence") or ())
        contours = {int(item.ReferencedROINumber): item for item in content.get("ROIContourSequence") or ()}
        _check_frame(content, items, frame_of_reference, name)
        found = [_structure(item, contours.get(int(item.ROINumber)), name) for item in items]
    if not any(structure.closed or len(structure.points) for structure in found):
        raise InputError(f"{name}: its {len(found)} regions of interest have no contours; export it again")
    return content, found


def _check_frame(content: Dataset, items: Sequence[Dataset], expected: str, name: str) -> None:
    """Check that all regions have the frame of reference of the image."""
    general = [str(item.FrameOfReferenceUID) for item in content.get("ReferencedFrameOfReferenceSequence") or ()]
    for item in items:
        uid = str(item.get("ReferencedFrameOfReferenceUID") or next(iter(general), ""))
        if uid != expected:
            raise InputError(
                f"{name}: its region {item.get('ROIName')} has the frame of reference {uid or '(none)'}, "
                f"the series given {expected}; give the series that it was drawn on"
            )


def _structure(item: Dataset, contour_item: Dataset | None, name: str) -> Structure:
    closed, points, kinds = [], [np.empty((0, 3))], set()
    what = f"{name}: region {item.get('ROIName')}"
    for contour in () if contour_item is None else contour_item.get("ContourSequence") or ():
        kind, places = str(contour.get("ContourGeometricType") or ""), _places(contour, what)
        if kind == "POINT":
            points.append(places)
        elif kind not in CLOSED_TYPES:
            raise InputError(
                f"{what} has a contour of type {kind or '(none)'}; only CLOSED_PLANAR, CLOSEDPLANAR_XOR and POINT can be "
                "carried over, so leave the region out"
            )
        elif len(places) < MIN_CORNERS:
            logger.warning("%s has a closed contour of %d points, which has no area and is left out", what, len(places))
        else:
            closed.append(places)
            kinds.add(kind)
    closed_type = CLOSED_TYPES[1] if CLOSED_TYPES[1] in kinds else CLOSED_TYPES[0]
    return Structure(item, contour_item, tuple(closed), closed_type, np.concatenate(points))


def _places(contour: Dataset, what: str) -> np.ndarray:
    """The points of a contour, ``(N, 3)``, LPS mm."""
    element: Any = contour.get_item("ContourData")  # not yet converted by pydicom, which takes long, or of unknown type
    data = () if element is None or element.value is None else element.value
    if isinstance(data, bytes):
        data = [float(number) for number in data.strip(b"\0 ").split(b"\\") if number.strip()]
    numbers = np.ravel(np.asarray(data, dtype=np.float64))
    if numbers.size % 3 or not np.isfinite(numbers).all():
        raise InputError(f"{what} has a contour of {numbers.size} numbers, not three finite ones a point; export it again")
    return numbers.reshape(-1, 3)


def region_of(structure: Structure, grid: Grid, name: str) -> Region | None:
    """The covered fraction of the voxels of an image; None without closed contours.

    Args:
        structure: a region of interest.
        grid: grid of the image that it was drawn on.
        name: name of the object for messages.

    Raises:
        InputError: if a contour is not on a slice of the image.
    """
    if not structure.closed:
        return None
    to_voxels = np.linalg.inv(grid.affine)
    by_slice: dict[int, list[np.ndarray]] = {}
    for contour in structure.closed:
        voxels = apply_affine(to_voxels, contour * lps_signs(3))
        k = round(float(voxels[:, 2].mean()))
        if np.abs(voxels[:, 2] - k).max() > MAX_SLICE_OFFSET or not 0 <= k < grid.shape[2]:
            where = ", ".join(f"{x:.6g}" for x in contour[0])
            raise InputError(
                f"{name}: region {structure.name} has a contour at ({where}) that is not on a slice of the series given; "
                "give the series that it was drawn on, with all slices"
            )
        by_slice.setdefault(k, []).append(voxels[:, :2])
    return _covered(by_slice, grid)


def _covered(by_slice: dict[int, list[np.ndarray]], grid: Grid) -> Region:
    """The region of contours, in a box that has a margin of one voxel."""
    every = np.concatenate([contour for contours in by_slice.values() for contour in contours])
    limit = np.array(grid.shape[:2])
    low = np.floor(every.min(axis=0)).clip(-1, limit).astype(int) - 1
    high = np.ceil(every.max(axis=0)).clip(-1, limit).astype(int) + 2
    slices = range(min(by_slice) - 1, max(by_slice) + 2)
    values = np.zeros((*(high - low), len(slices)), np.float32)
    for k, contours in by_slice.items():
        values[..., k - slices.start] = coverage([contour - low for contour in contours], values.shape[:2])
    return Region(values, np.array([*low, slices.start]))
