# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""NIfTI headers: what they say of the world, and how ours are written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from ..errors import InputError
from ..geometry import Grid
from ..run_log import doubt
from .paths import atomic_path
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
    "save_nifti",
    "time_axis",
    "warn_about_header",
]

logger = logging.getLogger(__name__)

# the codes of xyzt_units; bits that NIfTI does not define are in use, and other codes count as unknown
_LENGTH = {1: ("meter", 1e3), 2: ("mm", 1.0), 3: ("micron", 1e-3)}
_TIME = {8: "sec", 16: "msec", 24: "usec", 32: "hz", 40: "ppm", 48: "rads"}
_CLOSE = 1e-3  # by how much two statements of a header may differ: they are rounded to single precision or three decimals


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file says that it is a NIfTI image."""
    return os.fspath(path).lower().endswith((".nii", ".nii.gz"))


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Without the messages that nibabel prints about headers, which name no file; those that matter are said in ours."""
    log, disabled = nib.imageglobals.logger, nib.imageglobals.logger.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = disabled


def load_nifti(path: str | os.PathLike[str]) -> nib.nifti1.Nifti1Pair:
    """A NIfTI-1 or NIfTI-2 file, its voxels still on disk.

    An axis of length zero counts as one of a single voxel, as in other readers. Voxels of a single file never begin inside
    its header, even if ``vox_offset`` is smaller.

    Raises:
        ValueError: when the file is not NIfTI despite its name; also the exceptions of nibabel.
    """
    with quiet_nibabel():
        image = nib.load(path)
    if not isinstance(image, nib.nifti1.Nifti1Pair):
        raise ValueError(f"{type(image).__name__} is not NIfTI")
    stored, header = image.dataobj, image.header
    assert isinstance(stored, ArrayProxy)  # of a file
    shape = tuple(max(n, 1) for n in image.shape)
    start = max(stored.offset, header.single_vox_offset if isinstance(image, nib.nifti1.Nifti1Image) else 0)
    if (shape, start) == (image.shape, stored.offset):
        return image
    voxels = ArrayProxy(stored.file_like, (shape, stored.dtype, start, stored.slope, stored.inter))
    return type(image)(voxels, image.affine, header, file_map=image.file_map)


def nifti_affine(image: nib.nifti1.Nifti1Pair) -> np.ndarray:
    """Voxels to world of a NIfTI file, ``(4, 4)``, RAS mm: the affine of nibabel, in mm.

    That is the sform where its code is not 0, else the qform where its code is not 0, else voxels of the size ``pixdim``
    around the middle of the image. ``pixdim`` never changes an sform. Everything that reads NIfTI takes its place in the
    world from here.
    """
    return in_mm(image.affine, image)


def in_mm(affine: np.ndarray, image: nib.nifti1.Nifti1Pair) -> np.ndarray:
    """An affine of a header in the header's unit of length, ``(4, 4)``, in mm, as ITK and all that builds on it reads it.

    Lengths of unknown unit are taken to be mm. nibabel leaves the unit to its user.
    """
    scale = _length_unit(image)[1]
    return np.array([[scale], [scale], [scale], [1.0]]) * affine


def _length_unit(image: nib.nifti1.Nifti1Pair) -> tuple[str, float]:
    """Name of the unit of length, and how many mm it has."""
    return _LENGTH.get(int(image.header["xyzt_units"]) & 0x07, ("unknown", 1.0))


def time_axis(image: nib.nifti1.Nifti1Pair) -> TimeAxis | None:
    """The fourth axis of a time series, or of a spectrum; None where there is none, or its step is not given."""
    header, shape = image.header, image.shape
    step, offset = float(header["pixdim"][4]), float(header["toffset"])
    if len(shape) < 4 or shape[3] < 2 or any(n > 1 for n in shape[4:]) or not (np.isfinite(step) and step > 0):
        return None
    unit = _TIME.get(int(header["xyzt_units"]) & 0x38, "unknown")
    return TimeAxis(step, unit, offset if np.isfinite(offset) else 0.0)


def intent_of(image: nib.nifti1.Nifti1Pair) -> tuple[str, str]:
    """Name of the intent in NIfTI's list, empty for none and for codes that are not in it; and the text beside it."""
    header = image.header
    code = int(header["intent_code"])
    known = code in nib.nifti1.intent_codes and code != 0
    text = header["intent_name"].item().split(b"\0")[0].decode("latin-1").strip()
    return (str(nib.nifti1.intent_codes.label[code]) if known else ""), text


def header_texts(image: nib.nifti1.Nifti1Pair) -> tuple[str, str]:
    """Texts of the header in lower case: the name of the intent, and the description."""
    words = (image.header[key].item().split(b"\0")[0] for key in ("intent_name", "descrip"))
    name, about = (text.decode("latin-1").strip().lower() for text in words)
    return name, about


def is_mapping(image: nib.nifti1.Nifti1Pair) -> bool:
    """Whether the header says that the vectors are positions, as SPM's does."""
    name, about = header_texts(image)
    return name == "mapping" or (about == "deformation" and not name)


def has_shear(grid: Grid) -> bool:
    """Whether the axes of a grid are not at right angles, which ITK and NIfTI's qform cannot express."""
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
        path: ends in ``.nii`` or ``.nii.gz``; the file is replaced as a whole or not at all.
        data: ``(X, Y, Z, ...)``, or ``(X, Y)``, which is written as ``(X, Y, 1)`` where the slice is not in the x-y plane.
        grid: where the voxels lie.
        intent: NIfTI intent, e.g. ``"vector"``.
        intent_name: text beside it.
        time: of the fourth axis.
        about: what the header says of it, its ``descrip``.

    Raises:
        InputError: when ``path`` has another suffix.
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
        nib.save(image, temporary)


def warn_about_header(image: nib.nifti1.Nifti1Pair, name: str) -> None:
    """Log what a NIfTI header says about its world that is not honored, or that its user may not expect.

    Args:
        image: as nibabel loads it.
        name: of the image, for the message.
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
