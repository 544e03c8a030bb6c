# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Assembly of volumes from frames by their positions, with errors that name inconsistencies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ..lps import lps_signs
from . import tags
from .frames import Frame
from .volume_traits import Slices, told_apart

__all__ = ["Volumes", "arranged"]

logger = logging.getLogger(__name__)

MAX_DIRECTION_DIFFERENCE = 2e-3  # difference of direction cosines, 0.1 degrees
SAME_SLICE_DISTANCE = 0.05  # fraction of the pixel spacing; frames closer along the normal are in one slice
UNEVEN_SPACING, MAX_SPACING_DEVIATION = 0.01, 0.25  # fractions of the slice spacing: for a warning, for an error
MAX_SLICE_OFFSET = 0.2  # distance of a slice from its grid position, in slices; positions may be rounded to 0.1 mm
MAX_LISTED_VOLUMES = 4  # volumes that a message lists


@dataclass(frozen=True, eq=False)
class Volumes:
    """Volumes on the same grid.

    Attributes:
        frames: the slices of each volume in order; None for empty slices that a segmentation omits.
        names: name of each volume; empty for a single volume.
        affine: ``(4, 4)``, from column, row and slice to RAS mm.
    """

    frames: list[list[Frame | None]]
    names: tuple[str, ...]
    affine: np.ndarray

    @property
    def first(self) -> Frame:
        """The first frame that is not None."""
        return next(frame for slices in self.frames for frame in slices if frame is not None)


def arranged(frames: Sequence[Frame], name: str) -> Volumes:
    """Arrange the frames of one series into volumes.

    Args:
        frames: frames in any order.
        name: name of the image for messages.

    Raises:
        InputError: if frames lack a position, are not parallel or do not form a regular grid, or volumes lack slices.
    """
    if any(frame.position is None for frame in frames):
        return _unplaced(frames, name)
    _check_alike(frames, name)
    slices = _by_height(frames, name)
    found = told_apart(slices) if any(len(f) > 1 for f in slices.values()) else [("", slices)]
    sparse = frames[0].is_segmentation
    if not sparse:
        _check_complete(found, len(slices), name)
    numbers, step = _regular([slices[k][0] for k in sorted(slices)], sparse, name)
    volumes = [_in_order(part, numbers) for _, part in found]
    return Volumes(volumes, tuple(title for title, _ in found) if len(found) > 1 else (), _affine(slices[0][0], step))


def _unplaced(frames: Sequence[Frame], name: str) -> Volumes:
    """A frame without a position in the patient, such as a photograph or a radiograph, as a 2-D image."""
    first, lacking = frames[0], sum(frame.position is None for frame in frames)
    if len(frames) > 1:
        timed = first.header.text(tags.FRAME_TIME, tags.FRAME_TIME_VECTOR, tags.CINE_RATE)
        what = "they are frames in time, not slices" if timed else "so it is unknown how they lie to each other"
        raise InputError(
            f"{name}: {lacking} of its {len(frames)} frames have no usable position and orientation in the patient, {what}; "
            "save the one that you need as an image of its own"
        )
    spacing = first.spacing or (1.0, 1.0)
    logger.warning(
        "%s: has no usable position in the patient; taken for a 2-D image at the origin with pixels of %g x %g mm%s",
        *(name, spacing[1], spacing[0], "" if first.spacing else ", which the header does not say"),
    )
    return Volumes([[first]], (), np.diag([-spacing[1], -spacing[0], first.thickness, 1.0]))


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    """Reject frames that have no pixel spacing, are not parallel, or differ in matrix size or pixel spacing."""
    kinds: list[np.ndarray] = []
    for frame in frames:
        if frame.spacing is None:
            raise InputError(f"{name}: {frame.file.name} has no pixel spacing; repair its header, or export it again")
        if not any(np.abs(np.asarray(frame.axes) - kind).max() <= MAX_DIRECTION_DIFFERENCE for kind in kinds):
            kinds.append(np.asarray(frame.axes))
    if len(kinds) > 1:
        raise InputError(
            f"{name}: its {len(frames)} slices are not parallel, they have {len(kinds)} orientations, as scouts, localizers "
            "and turning projections do; name one of its files, or a folder with the files of one orientation"
        )
    sizes = {frame.size for frame in frames}
    spacings = np.array([frame.spacing for frame in frames])
    if len(sizes) > 1 or np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise InputError(
            f"{name}: its {len(frames)} frames differ in the number or size of pixels; save those of one kind as an image of "
            "their own"
        )


def _by_height(frames: Sequence[Frame], name: str) -> Slices:
    """Frames by slice number along the normal."""
    first = frames[0]
    assert first.spacing is not None
    near = SAME_SLICE_DISTANCE * min(first.spacing)
    heights = np.array([frame.position @ first.normal for frame in frames])
    order = np.argsort(heights, kind="stable")
    numbers = np.concatenate([[0], np.cumsum(np.diff(heights[order]) > near)])
    slices: Slices = {}
    for number, k in zip(numbers.tolist(), order):
        slices.setdefault(number, []).append(frames[k])
    for together in slices.values():
        for frame in together:
            _check_beside(together[0], frame, name)
    return slices


def _check_beside(first: Frame, frame: Frame, name: str) -> None:
    assert first.spacing is not None and first.position is not None and frame.position is not None
    if np.linalg.norm(frame.position - first.position) > 0.1 * min(first.spacing):
        raise InputError(
            f"{name}: frames lie beside each other in one plane, at {_place(first)} and {_place(frame)}; "
            "name a folder with the files of one of them"
        )


def _check_complete(found: Sequence[tuple[str, Slices]], count: int, name: str) -> None:
    """Raise an error if a volume lacks slices that others have."""
    if all(len(part) == count for _, part in found):
        return
    shown = sorted(found, key=lambda item: len(item[1]))[:MAX_LISTED_VOLUMES]
    listed = ", ".join(f"{title} has {len(part)}" for title, part in shown) + (
        ", ..." if len(found) > MAX_LISTED_VOLUMES else ""
    )
    raise InputError(
        f"{name}: its {len(found)} volumes do not have the same slices: of {count} positions, {listed}; complete the series, "
        "or name a folder with the files of one volume"
    )


def _regular(frames: Sequence[Frame], sparse: bool, name: str) -> tuple[dict[int, int], np.ndarray]:
    """Map from slice number to slice index in the grid, and the step between slices, LPS mm."""
    places = np.array([frame.position for frame in frames])
    if len(places) == 1:
        return {0: 0}, frames[0].normal * frames[0].thickness
    ways = np.diff(places, axis=0)
    usual = ways[np.argsort(np.linalg.norm(ways, axis=1))[0 if sparse else len(ways) // 2]]
    steps = np.maximum(np.rint(ways @ usual / (usual @ usual)), 1) if sparse else np.ones(len(ways))
    numbers = np.concatenate([[0], np.cumsum(steps)])
    step = (places[-1] - places[0]) / numbers[-1]
    single = ways / steps[:, None]
    _check_even(frames, single - usual, places - places[0] - numbers[:, None] * step, usual, name)
    uneven, spacing = np.linalg.norm(single - step, axis=1).max(), np.linalg.norm(step)
    if uneven > UNEVEN_SPACING * spacing:
        logger.warning("%s: the distance of slices varies by up to %.3g mm and is taken to be %.3g mm", name, uneven, spacing)
    empty = int(numbers[-1]) + 1 - len(places)
    if empty:
        logger.warning("%s: no segment has a frame in %d slices between others; they are taken to be empty", name, empty)
    return dict(enumerate(numbers.astype(int).tolist())), step


def _check_even(frames: Sequence[Frame], away: np.ndarray, drift: np.ndarray, usual: np.ndarray, name: str) -> None:
    """Reject slices whose steps deviate too much (``away``), or positions (``drift``), from a regular grid, mm."""
    spacing = float(np.linalg.norm(usual))
    jumps, drifts = (np.linalg.norm(shifts, axis=1) for shifts in (away, drift))
    if jumps.max() <= MAX_SPACING_DEVIATION * spacing and drifts.max() <= MAX_SLICE_OFFSET * spacing:
        return
    k = int(jumps.argmax())
    distance = np.linalg.norm(np.asarray(frames[k + 1].position) - np.asarray(frames[k].position))
    raise InputError(
        f"{name}: slices are missing or unevenly spaced: from {_place(frames[k])} to {_place(frames[k + 1])} it is "
        f"{distance:.4g} mm, elsewhere {spacing:.4g} mm; complete the series, or resample it with a converter such as dcm2niix"
    )


def _place(frame: Frame) -> str:
    """Position and file of a frame, for messages."""
    where = ", ".join(f"{x:.6g}" for x in np.asarray(frame.position))
    return f"({where}) of {frame.file.name}" + (
        f" frame {frame.index + 1}" if frame.header.number(tags.NUMBER_OF_FRAMES) else ""
    )


def _in_order(part: Slices, numbers: dict[int, int]) -> list[Frame | None]:
    out: list[Frame | None] = [None] * (max(numbers.values()) + 1)
    for k, frames in part.items():
        out[numbers[k]] = frames[0]
    return out


def _affine(first: Frame, step: np.ndarray) -> np.ndarray:
    """Affine, RAS mm, of the grid whose first slice is this frame."""
    assert first.axes is not None and first.spacing is not None and first.position is not None
    affine = np.eye(4)
    affine[:3, :3] = np.stack([first.axes[0] * first.spacing[1], first.axes[1] * first.spacing[0], step], axis=1)
    affine[:3, 3] = first.position
    affine[:3] *= lps_signs(3)[:, None]
    return affine
