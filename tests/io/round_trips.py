# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Errors of writing and reading transforms in all formats, and the table of them in the documentation.

python -m tests.io.round_trips    # writes the table; needs nitransforms
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import FORMATS, read_transform, write_transform

from ..phantoms import turned
from .dicom_files import AXIAL, OBLIQUE, places, write_series
from .transform_cases import GRIDS, SOLID, some_affine, some_transform

PAGE = Path(__file__).parents[2] / "docs/guide/transforms.md"
TABLE = re.compile(r"<!-- round trip -->\n.*?<!-- end round trip -->", re.DOTALL)
HEAD = ("format", "file", "transform", "read back, mm", "by nitransforms, mm")
FLIP = np.array([-1.0, -1.0, 1.0])
PLUMB = turned(0.0, (1.2, -1.5, 3.0), (14, 12, 8)), turned(0.0, (1.8, 2.1, 2.3), (40, 36, 38))
SMALLEST = -6  # exponent of the smallest bound in the table

Places = tuple[Any, Any]  # grids of the fixed and the moving image, or folders of DICOM
Vectors = Callable[[np.ndarray, np.ndarray, Grid], np.ndarray]  # of positions before and after, and the moving grid


@dataclass(frozen=True)
class Trip:
    """A file to write and to read.

    Attributes:
        format: name of the format.
        file: its name.
        linear: whether the transform is an affine map; otherwise it is a field, then an affine map.
        theirs: format for nitransforms; empty if it does not read such files.
        by_hand: writes the file if this package does not.
    """

    format: str
    file: str
    linear: bool = False
    theirs: str = ""
    by_hand: Callable[[Path, SpatialTransform, Grid, Grid], None] | None = None

    @property
    def what(self) -> str:
        """The transform."""
        return "affine" if self.linear else "field and affine"


def vectors(values: Vectors) -> Callable[[Path, SpatialTransform, Grid, Grid], None]:
    """Writes a field of vectors with nibabel."""

    def write(path: Path, transform: SpatialTransform, fixed: Grid, moving: Grid) -> None:
        start = fixed.points()
        end = transform.points(start.reshape(-1, 3)).reshape(start.shape)
        data = values(start, end, moving).reshape(*fixed.shape, 1, 3).astype(np.float32)
        nib.save(nib.Nifti1Image(data, fixed.affine), path)

    return write


def voxels(start: np.ndarray, end: np.ndarray, moving: Grid) -> np.ndarray:
    """Positions in voxels of the moving image."""
    return (end - moving.affine[:3, 3]) @ np.linalg.inv(moving.affine[:3, :3]).T


def matrix(rows: int) -> Callable[[Path, SpatialTransform, Grid, Grid], None]:
    """Writes a matrix in LPS mm, of four rows, or of three in one line as AFNI does."""

    def write(path: Path, transform: SpatialTransform, fixed: Grid, moving: Grid) -> None:
        flip = np.diag([*FLIP, 1])
        values = (flip @ transform.matrix @ flip)[:rows]
        np.savetxt(path, values if rows == 4 else values.reshape(1, -1))

    return write


TRIPS = (
    *(Trip("itk", f"t{suffix}", linear=True, theirs="itk") for suffix in (".tfm", ".txt", ".mat")),
    Trip("itk", "t.h5", theirs="itk"),
    Trip("nifti", "t.nii.gz", theirs="itk"),
    *(Trip("vector", f"t{suffix}") for suffix in (".nrrd", ".mha")),
    Trip("ants", "t_"),
    Trip("elastix", "t.txt"),
    *(Trip(f"niftyreg-{kind}", "t.nii.gz") for kind in ("def", "disp", "cpp")),
    Trip("niftyreg-affine", "t.txt", linear=True),
    Trip("greedy", "t.mat", linear=True),
    Trip("lps-matrix", "t.txt", linear=True, by_hand=matrix(4)),
    *(Trip(kind, "t.nii.gz") for kind in ("fsl", "fsl-rel", "fsl-abs")),
    Trip("flirt", "t.mat", linear=True, theirs="fsl"),
    Trip("learn2reg", "disp_0001_0001.nii.gz"),
    *(Trip(kind, "t.nii", by_hand=vectors(lambda start, end, _: end)) for kind in ("spm", "ras-positions")),
    Trip("lps-positions", "t.nii", by_hand=vectors(lambda start, end, _: end * FLIP)),
    Trip("voxel-positions", "t.nii", by_hand=vectors(voxels)),
    Trip("ras-displacement", "t.nii", by_hand=vectors(lambda start, end, _: end - start)),
    Trip("lps-displacement", "t.nii", by_hand=vectors(lambda start, end, _: (end - start) * FLIP)),
    Trip("lta", "t.lta", linear=True, theirs="fs"),
    Trip("minc", "t.xfm", linear=True),
    Trip("afni", "t.aff12.1D", linear=True, by_hand=matrix(3), theirs="afni"),
    Trip("x5", "t.x5", linear=True, theirs="X5"),
    Trip("x5", "t.x5", theirs="X5"),
    Trip("dicom", "t.dcm", linear=True),
    Trip("dicom", "t.dcm"),
)


def errors(trip: Trip, folder: Path) -> tuple[float, float | None]:
    """Largest distances, mm, of points that the file maps from where they should be: read by us, and by nitransforms.

    Points are voxels of the fixed image away from its border, so that fields are not interpolated. The largest distance of
    three pairs of oblique, flipped and anisotropic grids counts (DICOM: of one pair; AFNI: of one without oblique axes).
    """
    found = list(_errors(trip, folder))
    theirs = [their for _, their in found if their is not None]
    return max(our for our, _ in found), max(theirs) if theirs else None


def _errors(trip: Trip, folder: Path) -> Iterator[tuple[float, float | None]]:
    for name, (grids, given) in enumerate(_pairs(trip, folder)):
        fixed, moving = grids
        transform = SpatialTransform.of_affine(some_affine(3)) if trip.linear else some_transform(fixed)
        path = folder / str(name) / trip.file
        path.parent.mkdir()
        if trip.by_hand is not None:
            trip.by_hand(path, transform, fixed, moving)
        else:
            write_transform(path, transform, format=trip.format, fixed=given[0], moving=given[1])
        points = fixed.points()[2:-2:2, 2:-2:2, 2:-2].reshape(-1, 3)
        expected = transform.points(points)
        read = read_transform(path, format=trip.format, fixed=fixed, moving=moving)
        their = None
        if trip.theirs and find_spec("nitransforms") is not None:
            their = _largest(_nitransforms(trip, path, fixed, moving).map(points), expected)
        yield _largest(read.points(points), expected), their


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected, axis=-1).max())


def _pairs(trip: Trip, folder: Path) -> Iterator[tuple[tuple[Grid, Grid], Places]]:
    """Grids of the fixed and the moving image, and what the writer is given."""
    if trip.format == "afni":
        yield PLUMB, PLUMB
        return
    if trip.format != "dicom":
        yield from ((GRIDS[name], GRIDS[name]) for name in SOLID)
        return
    from monai_locor.io.dicom import dicom_geometry

    about = [{"FrameOfReferenceUID": f"1.2.{n}", "PatientID": "P", "StudyInstanceUID": "1.2.8"} for n in (7, 9)]
    fixed = write_series(folder / "fixed", places(OBLIQUE, 8), OBLIQUE, volumes=(about[0],))
    moving = write_series(folder / "moving", places(AXIAL, 8), AXIAL, volumes=(about[1],))
    yield (Grid(*dicom_geometry(fixed, "fixed")), Grid(*dicom_geometry(moving, "moving"))), (fixed, moving)


def _nitransforms(trip: Trip, path: Path, fixed: Grid, moving: Grid) -> Any:
    import nitransforms

    images = [nib.Nifti1Image(np.zeros(grid.shape, np.float32), grid.affine) for grid in (fixed, moving)]
    if trip.linear:
        return nitransforms.linear.Affine.from_filename(str(path), fmt=trip.theirs, reference=images[0], moving=images[1])
    if trip.format == "nifti":
        return nitransforms.nonlinear.DenseFieldTransform.from_filename(str(path), fmt=trip.theirs)
    return nitransforms.manip.TransformChain.from_filename(str(path), fmt=trip.theirs)


def bound(error: float) -> str:
    """A power of ten that is at least twice an error, so that it also holds on other machines."""
    return f"1e{max(SMALLEST, math.ceil(math.log10(max(2 * error, 1e-12))))}"


def table() -> str:
    """The table in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for trip in TRIPS:
        with tempfile.TemporaryDirectory() as folder:
            our, their = errors(trip, Path(folder))
        file = f"`{trip.file}`" + ("" if FORMATS[trip.format].writes else ", written by the test")
        rows.append((f"`{trip.format}`", file, trip.what, bound(our), "" if their is None else bound(their)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    written = f"<!-- round trip -->\n\n{table()}\n\n<!-- end round trip -->"
    PAGE.write_text(TABLE.sub(lambda _: written, text), encoding="utf-8")


if __name__ == "__main__":
    main()
