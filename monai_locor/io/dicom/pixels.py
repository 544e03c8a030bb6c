# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pixel data of DICOM frames: read with pydicom if uncompressed, with ITK's GDCM if compressed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..itk_library import load_itk
from . import tags
from .frames import Frame
from .headers import load_pydicom

__all__ = ["load_voxels"]

UNCOMPRESSED_SYNTAXES = {
    "1.2.840.10008.1.2" + more for more in ("", ".1", ".2", ".1.99", ".5")
}  # uncompressed, deflated, run lengths


def load_voxels(volumes: Sequence[Sequence[Frame | None]], name: str) -> np.ndarray:
    """Voxels ``(X, Y, Z, C)`` of C volumes with Z slices of Y rows and X columns; color images have 3 channels per volume.

    Each frame's slope and intercept are applied. The type is the stored one if they are 1 and 0, int32 if they are integers,
    and float32 otherwise.

    Raises:
        InputError: if pixels are missing, or compressed in a way that neither pydicom nor ITK decodes.
    """
    wanted = [(v, z, frame) for v, slices in enumerate(volumes) for z, frame in enumerate(slices) if frame is not None]
    types = {_type(frame) for _, _, frame in wanted}
    dtype = np.result_type(*({kind for kind in types if kind.kind == "f"} or types))
    out: np.ndarray | None = None
    for file, places in _by_file(wanted):
        pictures, applied = _pictures(places[0][2], name)
        for v, z, frame in places:
            picture = _part(pictures, frame, file, name)
            if out is None:
                out = np.zeros((len(volumes), len(volumes[0]), *picture.shape), _color_type(dtype, picture))
            if picture.shape != out.shape[2:]:
                raise InputError(f"{name}: {file.name} is in color, other slices are not; name a folder with those of one kind")
            out[v, z] = _rescaled(picture, applied, frame.scale, out.dtype)
    assert out is not None
    spatial = np.moveaxis(out, (3, 2, 1, 0), (0, 1, 2, 3))  # (X, Y, Z, V) or (X, Y, Z, V, 3)
    return spatial.reshape(*spatial.shape[:3], -1)


def _by_file(wanted: Iterable[tuple[int, int, Frame]]) -> list[tuple[Path, list[tuple[int, int, Frame]]]]:
    out: dict[Path, list[tuple[int, int, Frame]]] = {}
    for item in wanted:
        out.setdefault(item[2].file, []).append(item)
    return list(out.items())


def _type(frame: Frame) -> np.dtype[Any]:
    """Pixel type after slope and intercept."""
    stored = np.dtype(frame.stored)
    if frame.scale == (1.0, 0.0):
        return stored
    whole = stored.kind != "f" and stored.itemsize <= 2 and all(float(x).is_integer() for x in frame.scale)
    return np.dtype(np.int32 if whole else np.float32)


def _color_type(dtype: np.dtype[Any], picture: np.ndarray) -> np.dtype[Any]:
    return picture.dtype.newbyteorder("=") if picture.ndim == 3 else dtype  # palette colors have their own type


def _part(pictures: np.ndarray, frame: Frame, file: Path, name: str) -> np.ndarray:
    """Pixels of one frame, ``(rows, columns)`` or ``(rows, columns, 3)``."""
    rows, columns = (slice(start, start + size) for start, size in zip(frame.corner, frame.size))
    if frame.index >= len(pictures) or rows.stop > pictures.shape[1] or columns.stop > pictures.shape[2]:
        raise InputError(f"{name}: {file.name} has fewer pixels than its header says; copy or export it again")
    return pictures[frame.index, rows, columns]


def _rescaled(
    picture: np.ndarray, applied: tuple[float, float], wanted: tuple[float, float], dtype: np.dtype[Any]
) -> np.ndarray:
    """Replace the slope and intercept that the reader has applied by the wanted ones."""
    if picture.ndim == 3 or np.allclose(applied, wanted, rtol=1e-6, atol=0):
        return picture
    if applied != (1.0, 0.0):
        picture = np.rint((picture.astype(np.float64) - applied[1]) / applied[0])
    if dtype.kind == "i":  # whole numbers
        return picture.astype(dtype) * int(wanted[0]) + int(wanted[1])
    return (picture * np.float64(wanted[0]) + wanted[1]).astype(dtype)


def _pictures(frame: Frame, name: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Pixels of a file, ``(frames, rows, columns)`` or ``(frames, rows, columns, 3)``, and the scale already applied."""
    kind, pydicom = frame.header.text(tags.PHOTOMETRIC_INTERPRETATION), load_pydicom()
    if pydicom is not None and (kind.startswith("MONOCHROME") or kind in ("RGB", "")):
        dataset = pydicom.dcmread(frame.file, force=True)
        if _syntax(dataset, pydicom) in UNCOMPRESSED_SYNTAXES:
            return _through_pydicom(dataset, frame, name), (1.0, 0.0)
    return _through_gdcm(frame, name)


def _syntax(dataset: Any, pydicom: Any) -> str:
    """Transfer syntax; inferred for files without a preamble, which do not state it."""
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.is_implicit_VR, dataset.is_little_endian
        kinds = {(True, True): "", (False, True): ".1", (False, False): ".2"}
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2" + kinds[implicit, little])
    return str(dataset.file_meta.TransferSyntaxUID)


def _through_pydicom(dataset: Any, frame: Frame, name: str) -> np.ndarray:
    try:
        color = (3,) if int(dataset.get("SamplesPerPixel") or 1) == 3 else ()
        pixels = np.asarray(dataset.pixel_array).reshape(-1, int(dataset.Rows), int(dataset.Columns), *color)
    except Exception as error:  # pydicom raises various types for damaged data
        raise InputError(
            f"{name}: the pixels of {frame.file.name} are missing, damaged or in no form that pydicom decodes; copy or export "
            "it again"
        ) from error
    pixels = _without_unused_bits(pixels, frame)
    return _inverted(pixels, frame) if frame.header.text(tags.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1" else pixels


def _inverted(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """Invert pixels whose lowest value is white, as GDCM does."""
    if pixels.dtype.kind != "u":
        return ~pixels if pixels.dtype.kind == "i" else pixels
    used = int(frame.header.number(tags.BITS_STORED) or 8 * pixels.dtype.itemsize)
    return pixels.dtype.type(2**used - 1) - pixels


def _without_unused_bits(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """Clear the bits above the pixel bits; old files store overlays there."""
    unused = 8 * pixels.dtype.itemsize - int(frame.header.number(tags.BITS_STORED) or 0)
    if pixels.dtype.kind == "f" or not 0 < unused < 8 * pixels.dtype.itemsize:
        return pixels
    return np.right_shift(np.left_shift(pixels, unused), unused)


def _through_gdcm(frame: Frame, name: str) -> tuple[np.ndarray, tuple[float, float]]:
    itk = load_itk(name)
    io = itk.GDCMImageIO.New(FileName=str(frame.file))
    shown = io.GetGlobalWarningDisplay()
    io.SetGlobalWarningDisplay(False)
    try:
        io.ReadImageInformation()
        color = io.GetNumberOfComponents() == 3
        pixel = itk.Vector[itk.F, 3] if color else itk.F
        reader = itk.ImageFileReader[itk.Image[pixel, 3]].New(FileName=str(frame.file), ImageIO=io)
        reader.Update()
    except RuntimeError as error:
        raise InputError(
            f"{name}: the pixels of {frame.file.name} are damaged or compressed in a way that ITK cannot decode; decompress "
            "them, as with gdcmconv --raw"
        ) from error
    finally:
        io.SetGlobalWarningDisplay(shown)
    pixels = itk.array_from_image(reader.GetOutput())
    pixels = pixels.astype(np.uint8 if io.GetComponentSize() == 1 else np.uint16) if color else pixels
    return pixels, (io.GetRescaleSlope() or 1.0, io.GetRescaleIntercept())
