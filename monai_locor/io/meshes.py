# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Triangle meshes of surfaces: legacy VTK, OBJ, PLY, STL, GIFTI and the binary surfaces of FreeSurfer.

In memory, vertices are RAS mm. nibabel reads GIFTI and FreeSurfer. Does not import torch.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, one_line
from .lps import lps_signs
from .mesh_formats import MESH_READERS
from .paths import expanded

__all__ = ["SPACES", "SurfaceMesh", "check_mesh_name", "read_mesh"]

#: what a setting of the space may be
SPACES = ("auto", "ras", "lps")
SUPPORTED = "legacy VTK (.vtk), .obj, .ply, .stl, GIFTI (.gii) and binary surfaces of FreeSurfer"
FREESURFER_MAGIC = b"\xff\xff\xfe"
SCANNER_HEAD = [2, 1, 20]  # of FreeSurfer's files with coordinates of the scanner
FARTHEST_MM = 1e6
HEADER_BYTES = 1024  # in which the space is searched


@dataclass(frozen=True, eq=False)
class SurfaceMesh:
    """A surface of triangles; it may be open, and triangles need not share vertices.

    Args:
        vertices: ``(N, 3)``, RAS mm; converted to float64.
        faces: indices of vertices, ``(M, 3)``; converted to int64.
        name: for messages.

    Raises:
        InputError: if the shapes are wrong, there are no triangles of an area, an index is none of a vertex, or a vertex is not
            finite or farther than :data:`FARTHEST_MM` from the origin along an axis.
    """

    vertices: np.ndarray
    faces: np.ndarray
    name: str = "surface"

    def __post_init__(self) -> None:
        try:
            vertices = np.asarray(self.vertices, dtype=np.float64)
            faces = np.asarray(self.faces).astype(np.int64, casting="same_kind")
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.name}: {one_line(error)}; give vertices (N, 3) in mm and faces (M, 3)") from error
        if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
            raise InputError(
                f"{self.name}: vertices have shape {vertices.shape}, faces {faces.shape}; give vertices (N, 3) and faces (M, 3)"
            )
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        problem = _problem(vertices, faces)
        if problem:
            raise InputError(f"{self.name}: {problem}")


def _problem(vertices: np.ndarray, faces: np.ndarray) -> str:
    if not len(faces):
        return "has no triangles or other polygons; save it as a surface"
    bad = np.flatnonzero(~(np.abs(vertices) <= FARTHEST_MM).all(1))
    if len(bad):
        place = ", ".join(f"{x:.4g}" for x in vertices[bad[0]])
        return f"vertex {bad[0] + 1} of {len(vertices)} is at ({place}), not within {FARTHEST_MM:g} mm; coordinates are in mm"
    if faces.min() < 0 or faces.max() >= len(vertices):
        wrong = faces.min() if faces.min() < 0 else faces.max()
        return f"a face names vertex {wrong} (from 0), but there are {len(vertices)}; save the mesh again"
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return "" if np.cross(b - a, c - a).any() else "all triangles have an area of zero; save the mesh again"


def check_mesh_name(path: str | os.PathLike[str], what: str = "surface") -> None:
    """Check that a file exists and has a format that :func:`read_mesh` reads.

    Raises:
        InputError: if not.
    """
    _format_of(expanded(path, f"{what} {os.fspath(path)}"), f"{what} {os.fspath(path)}")


def _format_of(file: Path, name: str) -> str:
    """The suffix, or ``"freesurfer"``."""
    if not file.is_file():
        raise InputError(f"{name}: no such file; check its path")
    suffix = file.suffix.lower()
    if suffix in (*MESH_READERS, ".gii"):
        return suffix
    with file.open("rb") as opened:
        if opened.read(len(FREESURFER_MAGIC)) == FREESURFER_MAGIC:
            return "freesurfer"
    raise InputError(f"{name}: is not a surface that is read; convert it to one of: {SUPPORTED}")


def read_mesh(path: str | os.PathLike[str], *, space: str = "auto", what: str = "surface") -> SurfaceMesh:
    """Read a surface; polygons are divided into triangles, and points and lines are left out.

    GIFTI and FreeSurfer's files are RAS. To coordinates about the center of FreeSurfer's volume, the center that the file
    states (``cras``, ``VolGeomC_R`` ...) is added, unless it says that they are those of the scanner. Other files are LPS, as
    3D Slicer writes them, unless their header or first lines have Slicer's comment ``SPACE=RAS``.

    Args:
        path: the file.
        space: ``"ras"`` or ``"lps"`` instead of this rule for files other than GIFTI and FreeSurfer's.
        what: role of the surface, for messages.

    Raises:
        InputError: if it cannot be read or has no triangles.
    """
    name = f"{what} {os.fspath(path)}"
    file = expanded(path, name)
    format = _format_of(file, name)
    try:
        if format in (".gii", "freesurfer"):
            return SurfaceMesh(*(_gifti if format == ".gii" else _freesurfer)(file), name)
        data = file.read_bytes()
        vertices, faces = MESH_READERS[format](data)
    except InputError:
        raise
    except Exception as error:  # nibabel and damaged files raise various types
        raise InputError(f"{name}: cannot be read ({one_line(error)}); save it again as one of: {SUPPORTED}") from error
    stated = re.search(rb"SPACE\s*=\s*(RAS|LPS)", data[:HEADER_BYTES])
    found = space if space != "auto" else stated[1].decode().lower() if stated else "lps"
    return SurfaceMesh(vertices if found == "ras" else vertices * lps_signs(3), faces, name)


def _gifti(file: Path) -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib

    image: Any = nib.load(file)
    parts = [image.get_arrays_from_intent(f"NIFTI_INTENT_{kind}") for kind in ("POINTSET", "TRIANGLE")]
    if [len(part) for part in parts] != [1, 1]:
        raise ValueError(f"has {len(parts[0])} lists of points and {len(parts[1])} of triangles instead of one each")
    points, faces = (part[0] for part in parts)
    center = [float(points.meta.get(f"VolGeomC_{axis}", 0)) for axis in "RAS"]
    scanner = points.coordsys is not None and points.coordsys.dataspace == nib.nifti1.xform_codes["scanner"]
    return points.data.astype(np.float64) + (0.0 if scanner else np.array(center)), faces.data


def _freesurfer(file: Path) -> tuple[np.ndarray, np.ndarray]:
    from nibabel.freesurfer.io import read_geometry

    with warnings.catch_warnings():  # about files without the center
        warnings.simplefilter("ignore")
        vertices, faces, about = read_geometry(file, read_metadata=True)
    scanner = list(about.get("head", ())) == SCANNER_HEAD
    center = np.zeros(3) if scanner or "cras" not in about else np.asarray(about["cras"], dtype=np.float64)
    return vertices + center, faces
