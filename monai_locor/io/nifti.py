# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading and writing of NIfTI headers: affine, units, intent and time axis."""

from __future__ import annotations

import gzip
import logging
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from ..errors import InputError, one_line
from ..geometry import Grid
from ..run_log import doubt
from .paths import atomic_path
from .sizes import check_stated_size
from .stored_image import TimeAxis

__all__ = [
    "has_shear",
    "header_texts",
    "in_mm",
    "intent_of",
    "is_mapping",
    "is_nifti",
    "load_nifti",
    "nifti_affine",
    "open_nibabel",
    "save_nifti",
    "time_axis",
    "warn_about_header",
]

logger = logging.getLogger(__name__)

# codes of xyzt_units; some files set undefined bits, and other codes are treated as unknown
_LENGTH = {1: ("meter", 1e3), 2: ("mm", 1.0), 3: ("micron", 1e-3)}
_TIME = {8: "sec", 16: "msec", 24: "usec", 32: "hz", 40: "ppm", 48: "rads"}
#: exceptions of nibabel for codes and sizes that it does not know
HEADER_ERRORS = (
    *(nib.spatialimages.HeaderDataError, nib.freesurfer.mghformat.MGHError),
    *(IndexError, KeyError, OverflowError, TypeError, ValueError),
)
_CLOSE = 1e-3  # tolerance between header fields, which are rounded to single precision or three decimals


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether a file has a NIfTI suffix."""
    return os.fspath(path).lower().endswith((".nii", ".nii.gz"))


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Silence nibabel's messages about headers, which name no file; see :func:`warn_about_header`."""
    log, disabled = nib.imageglobals.logger, nib.imageglobals.logger.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = disabled


def open_nibabel(path: str | os.PathLike[str]) -> Any:
    """Open an image with nibabel; voxels are read on access.

    Raises:
        ValueError: if nibabel does not know a code or size in its header; its other exceptions are passed on.
    """
    try:
        with quiet_nibabel():
            return nib.load(path)
    except HEADER_ERRORS as error:
        raise ValueError(f"its header is invalid, {type(error).__name__}: {one_line(error)}") from error


def load_nifti(path: str | os.PathLike[str]) -> nib.nifti1.Nifti1Pair:
    """Load a NIfTI-1 or NIfTI-2 file; voxels are read on access.

    An axis of length zero is treated as length one, as in other readers. A ``vox_offset`` that points into the header of a
    single-file image is corrected. Slope and intercept do not apply to colors.

    Raises:
        ValueError: if the file is not NIfTI despite its name; nibabel's exceptions are passed on.
    """
    image = open_nibabel(path)
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise ValueError(f"{type(image).__name__} is not NIfTI")
    stored, header = image.dataobj, image.header
    assert isinstance(stored, ArrayProxy)  # of a file
    shape = tuple(max(n, 1) for n in image.shape)
    start = max(stored.offset, header.single_vox_offset if isinstance(image, nib.nifti1.Nifti1Image) else 0)
    voxel_file = Path(image.file_map["image"].filename or path)
    if voxel_file.is_file() and voxel_file.suffix.lower() != ".bz2":  # which has no largest ratio of compression
        check_stated_size(voxel_file, start + math.prod(shape) * stored.dtype.itemsize, complete=True)
    scale = (1.0, 0.0) if stored.dtype.names else (stored.slope, stored.inter)  # colors are not scaled
    if (shape, start, scale) == (image.shape, stored.offset, (stored.slope, stored.inter)):
        return image
    voxels = ArrayProxy(stored.file_like, (shape, stored.dtype, start, *scale))
    return type(image)(voxels, image.affine, header, file_map=image.file_map)


def nifti_affine(image: nib.nifti1.Nifti1Pair) -> np.ndarray:
    """Affine of a NIfTI file, voxels to world, ``(4, 4)``, RAS mm: nibabel's affine, converted to mm.

    This is the sform if its code is not 0, else the qform if its code is not 0, else voxels of size ``pixdim`` with the
    origin at the image center. ``pixdim`` never changes an sform. All NIfTI readers in this package use this affine.
    """
    return in_mm(image.affine, image)


def in_mm(affine: np.ndarray, image: nib.nifti1.Nifti1Pair) -> np.ndarray:
    """Convert an affine ``(4, 4)`` from the header's unit of length to mm, as ITK-based tools do.

    An unknown unit is taken as mm. nibabel does not convert units.
    """
    scale = _length_unit(image)[1]
    return np.array([[scale], [scale], [scale], [1.0]]) * affine


def _length_unit(image: nib.nifti1.Nifti1Pair) -> tuple[str, float]:
    """Name of the unit of length, and its size in mm."""
    return _LENGTH.get(int(image.header["xyzt_units"]) & 0x07, ("unknown", 1.0))


def time_axis(image: nib.nifti1.Nifti1Pair) -> TimeAxis | None:
    """The fourth axis of a time series or spectrum; None if there is none or its step is not given."""
    header, shape = image.header, image.shape
    step, offset = float(header["pixdim"][4]), float(header["toffset"])
    if len(shape) < 4 or shape[3] < 2 or any(n > 1 for n in shape[4:]) or not (np.isfinite(step) and step > 0):
        return None
    unit = _TIME.get(int(header["xyzt_units"]) & 0x38, "unknown")
    return TimeAxis(step, unit, offset if np.isfinite(offset) else 0.0)


def intent_of(image: nib.nifti1.Nifti1Pair) -> tuple[str, str]:
    """Name of the NIfTI intent, empty for none and for unknown codes; and the text of ``intent_name``."""
    header = image.header
    code = int(header["intent_code"])
    known = code in nib.nifti1.intent_codes and code != 0
    text = header["intent_name"].item().split(b"\0")[0].decode("latin-1").strip()
    return (str(nib.nifti1.intent_codes.label[code]) if known else ""), text


def header_texts(image: nib.nifti1.Nifti1Pair) -> tuple[str, str]:
    """Header texts in lower case: ``intent_name`` and ``descrip``."""
    words = (image.header[key].item().split(b"\0")[0] for key in ("intent_name", "descrip"))
    name, about = (text.decode("latin-1").strip().lower() for text in words)
    return name, about


def is_mapping(image: nib.nifti1.Nifti1Pair) -> bool:
    """Whether the header marks the vectors as positions, as in SPM's files."""
    name, about = header_texts(image)
    return name == "mapping" or (about == "deformation" and not name)


def has_shear(grid: Grid) -> bool:
    """Whether the axes of a grid are not orthogonal, which ITK and NIfTI's qform cannot represent."""
    linear = grid.affine[:-1, :-1] if grid.plane is None else grid.full_affine[:3, :3]
    axes = linear / np.linalg.norm(linear, axis=0)
    return not np.allclose(axes.T @ axes, np.eye(len(axes)), atol=1e-5)


def save_nifti(
    path: str | os.PathLike[str],
    data: np.ndarray,
    grid: Grid,
    intent: str | None = None,
    intent_name: str = "",
    time: TimeAxis | None = None,
    about: str = "",
) -> None:
    """Write an array on a grid as NIfTI in mm, with sform and, unless the grid is sheared, qform.

    Args:
        path: must end in ``.nii`` or ``.nii.gz``; written atomically.
        data: ``(X, Y, Z, ...)``, or ``(X, Y)``, which is written as ``(X, Y, 1)`` if the slice is not in the x-y plane.
        grid: grid of the voxels.
        intent: NIfTI intent, e.g. ``"vector"``.
        intent_name: text of the header's ``intent_name``.
        time: time axis, if the fourth axis is time.
        about: text of the header's ``descrip``.

    Raises:
        InputError: if ``path`` has another suffix.
    """
    if not is_nifti(path):
        raise InputError(f"output file {os.fspath(path)}: its name must end in .nii or .nii.gz")
    affine = grid.full_affine
    data = data[..., None] if grid.plane is not None and data.ndim == 2 else data
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    if has_shear(grid):
        logger.warning("%s: its axes are not at right angles, which ITK and what builds on it may refuse", os.fspath(path))
    else:
        image.set_qform(affine, code="scanner")
    if intent is not None:
        image.header.set_intent(intent, (3,) if intent == "symmetric matrix" else (), intent_name[:15])
    image.header["descrip"] = about.encode("ascii")
    if time is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], time.step, *image.header.get_zooms()[4:]))
        image.header.set_xyzt_units("mm", time.unit)
        image.header["toffset"] = time.offset
    with atomic_path(path) as temporary:
        _save(image, temporary)


def _save(image: nib.Nifti1Image, path: Path) -> None:
    """Write an image, compressed if its name ends in .gz.

    Displacements and intensities of noisy images hardly repeat: searching for runs only is three times faster than the fastest
    level of zlib and compresses them as well.
    """
    if path.suffix.lower() != ".gz":
        nib.save(image, path)
        return
    # no name and no time in the header: the bytes depend on the image alone
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as file:
        file.compress = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
        image.to_file_map(image.make_file_map({"image": file}))


def warn_about_header(image: nib.nifti1.Nifti1Pair, name: str) -> None:
    """Log missing or inconsistent geometry in a NIfTI header, and lengths that are not in mm.

    Args:
        image: image as loaded by nibabel.
        name: name of the image, for the message.
    """
    sform, qform = image.get_sform(coded=True)[0], _qform(image)
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    zooms = np.array([*image.header.get_zooms()[:3], *lengths[image.ndim :]], dtype=np.float64)
    if sform is None and qform is None:
        doubt(logger, "%s: its header has neither sform nor qform; its place in the world is a guess", name)
    elif sform is not None and qform is not None and not np.allclose(sform, qform, rtol=_CLOSE, atol=_CLOSE):
        doubt(logger, "%s: sform and qform of its header disagree; the sform is used", name)
    elif sform is not None and not np.allclose(zooms, lengths, rtol=_CLOSE, atol=0):
        shown = ["x".join(f"{v:.6g}" for v in values[: image.ndim]) for values in (zooms, lengths)]
        doubt(logger, "%s: pixdim of its header says voxels of %s, its sform %s; the sform is used", name, *shown)
    unit = _length_unit(image)[0]
    if unit not in ("mm", "unknown"):
        logger.warning("%s: its header gives lengths in %s; they are converted to mm", name, unit)


def _qform(image: nib.nifti1.Nifti1Pair) -> np.ndarray | None:
    try:
        return image.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):  # not a rotation
        return np.full((4, 4), np.nan)
