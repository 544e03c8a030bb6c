# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A DICOM frame: pixels, position and intensity scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import tags
from .headers import Header, read_headers

__all__ = ["Frame", "frames_of"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        file, index: the file with the pixels, and the index of the frame in it, from 0.
        header: header of this frame.
        size: number of rows and columns.
        spacing: spacing of rows and of columns, mm; None if missing in the header.
        position: center of the first pixel, LPS mm; None if missing in the header.
        axes: ``(2, 3)``: direction of increasing column index, and of increasing row index; None as for ``position``.
        scale: slope and intercept.
        stored: pixel type, such as ``"int16"``.
        corner: row and column of the first pixel in the stored frame; nonzero for slices of a mosaic.
    """

    file: Path
    index: int
    header: Header
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    position: np.ndarray | None
    axes: np.ndarray | None
    scale: tuple[float, float]
    stored: str
    corner: tuple[int, int] = (0, 0)

    @property
    def normal(self) -> np.ndarray:
        """Unit normal of the slice, LPS."""
        assert self.axes is not None
        return np.cross(self.axes[0], self.axes[1])

    @property
    def thickness(self) -> float:
        """Slice spacing from the header, mm; used only for a single slice, otherwise spacing comes from the positions."""
        return abs(self.header.number(tags.SPACING_BETWEEN_SLICES) or self.header.number(tags.SLICE_THICKNESS) or 1.0)

    @property
    def is_segmentation(self) -> bool:
        """Whether this is a frame of a SEG object, which may omit slices without voxels of the segment."""
        return bool(self.header.text(tags.SEGMENTATION_TYPE))


def frames_of(path: Path, name: str) -> list[Frame]:
    """The frames of a file in stored order; empty if it has no pixels.

    Raises:
        InputError: see :func:`monai_locor.io.dicom.headers.read_headers`.
    """
    headers = read_headers(path, name)
    frames = [_frame(path, index, header) for index, header in enumerate(headers)]
    return _spread(frames) if len(frames) > 1 and len(set(map(id, headers))) == 1 else frames


def _frame(path: Path, index: int, header: Header) -> Frame:
    rows, columns = header.number(tags.ROWS), header.number(tags.COLUMNS)
    spacing = header.numbers(tags.PIXEL_SPACING, tags.IMAGER_PIXEL_SPACING, tags.NOMINAL_SCANNED_PIXEL_SPACING)
    position, axes = header.numbers(tags.IMAGE_POSITION_PATIENT), header.numbers(tags.IMAGE_ORIENTATION_PATIENT)
    placed = len(position) == 3 and bool(np.isfinite(position).all()) and _orthogonal(axes)
    return Frame(
        file=path,
        index=index,
        header=header,
        size=(int(rows or 0), int(columns or 0)),
        spacing=(spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None,
        position=np.array(position) if placed else None,
        axes=_unit(np.reshape(axes, (2, 3))) if placed else None,
        scale=_scale(header),
        stored=_stored(header),
    )


def _orthogonal(axes: tuple[float, ...]) -> bool:
    """Whether these are two orthogonal unit vectors within rounding."""
    if len(axes) != 6 or not np.isfinite(axes).all():
        return False
    first, second = np.reshape(axes, (2, 3))
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    return bool(np.allclose(lengths, 1, atol=0.02) and abs(first @ second) < 0.02)


def _unit(axes: np.ndarray) -> np.ndarray:
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _scale(header: Header) -> tuple[float, float]:
    if header.text(tags.SEGMENTATION_TYPE) == "FRACTIONAL":
        return 1 / (header.number(tags.MAXIMUM_FRACTIONAL_VALUE) or 1.0), 0.0
    return header.number(tags.RESCALE_SLOPE, tags.DOSE_GRID_SCALING) or 1.0, header.number(tags.RESCALE_INTERCEPT) or 0.0


def _stored(header: Header) -> str:
    bits, sign = int(header.number(tags.BITS_ALLOCATED) or 16), header.number(tags.PIXEL_REPRESENTATION)
    if sign is None and bits >= 32:
        return f"float{bits}"
    return f"{'int' if sign else 'uint'}{next((size for size in (8, 16, 32) if bits <= size), 64)}"


def _spread(frames: list[Frame]) -> list[Frame]:
    """Place frames that share one header: by the offsets of dose or nuclear medicine images, else without a position."""
    first = frames[0]
    offsets = _offsets(first.header, len(frames))
    if first.position is None or len(offsets) != len(frames):
        return [replace(frame, position=None, axes=None) for frame in frames]
    return [replace(frame, position=first.position + offset * first.normal) for frame, offset in zip(frames, offsets)]


def _offsets(header: Header, count: int) -> np.ndarray:
    """Distance of each frame from the first along the normal, mm; empty if the frames are not slices."""
    offsets, gap = np.array(header.numbers(tags.GRID_FRAME_OFFSET_VECTOR)), header.number(tags.SPACING_BETWEEN_SLICES)
    if len(offsets):
        return offsets - offsets[0]
    slices = np.array(header.numbers(tags.SLICE_VECTOR)) - 1
    if gap and "RECON" in header.text(tags.IMAGE_TYPE) and len(slices) == count:  # nuclear medicine; the gap is signed
        return gap * slices
    return np.array([])
