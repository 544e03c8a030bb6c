# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surfaces for tests, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_locor.io.meshes import SurfaceMesh

ROUND_TRIP = (".vtk", ".obj", ".ply", ".stl", ".gii", "")


def ellipsoid(radii=(12.0, 10.0, 9.0), center=(0.0, 0.0, 0.0), rings: int = 12, open_rings: int = 0) -> SurfaceMesh:
    """A triangulated ellipsoid; without ``open_rings`` at one end it is closed."""
    polar, around = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    angles = np.stack(np.meshgrid(polar, around, indexing="ij"), -1)
    unit = np.stack(
        [
            np.sin(angles[..., 0]) * np.cos(angles[..., 1]),
            np.sin(angles[..., 0]) * np.sin(angles[..., 1]),
            np.cos(angles[..., 0]),
        ],
        -1,
    )
    number = np.arange(unit[..., 0].size).reshape(unit.shape[:2])[: rings + 1 - open_rings]
    a, b = number[:-1], np.roll(number, -1, 1)[:-1]
    c, d = number[1:], np.roll(number, -1, 1)[1:]
    faces = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in ((a, c, b), (b, c, d))])
    return SurfaceMesh(unit.reshape(-1, 3) * radii + np.array(center), faces)


def moved(mesh: SurfaceMesh, shift) -> SurfaceMesh:
    return SurfaceMesh(mesh.vertices + np.asarray(shift, dtype=float), mesh.faces)


def write_mesh(path: Path, mesh: SurfaceMesh, comment: str = "") -> Path:
    """Write vertices and faces as they are, in the format of the suffix; FreeSurfer without one."""
    vertices, faces = mesh.vertices, mesh.faces
    if path.suffix == ".gii":
        import nibabel as nib

        arrays = [
            nib.gifti.GiftiDataArray(vertices.astype(np.float32), "NIFTI_INTENT_POINTSET"),
            nib.gifti.GiftiDataArray(faces.astype(np.int32), "NIFTI_INTENT_TRIANGLE"),
        ]
        nib.save(nib.gifti.GiftiImage(darrays=arrays), path)
    elif path.suffix == "":
        from nibabel.freesurfer.io import write_geometry

        write_geometry(path, vertices, faces)
    elif path.suffix == ".stl":
        record = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
        record["corners"] = vertices[faces]
        path.write_bytes(comment.encode().ljust(80)[:80] + len(faces).to_bytes(4, "little") + record.tobytes())
    else:
        path.write_text({".vtk": _vtk, ".obj": _obj, ".ply": _ply}[path.suffix](vertices, faces, comment))
    return path


def _rows(values: np.ndarray, before: str = "") -> str:
    return "".join(before + " ".join(f"{x:.9g}" for x in row) + "\n" for row in values)


def _vtk(vertices: np.ndarray, faces: np.ndarray, comment: str) -> str:
    head = f"# vtk DataFile Version 4.2\n{comment or 'vtk output'}\nASCII\nDATASET POLYDATA\nPOINTS {len(vertices)} float\n"
    return head + _rows(vertices) + f"\nPOLYGONS {len(faces)} {4 * len(faces)}\n" + _rows(faces, "3 ")


def _obj(vertices: np.ndarray, faces: np.ndarray, comment: str) -> str:
    return f"# {comment}\n" + _rows(vertices, "v ") + _rows(faces + 1, "f ")


def _ply(vertices: np.ndarray, faces: np.ndarray, comment: str) -> str:
    head = f"ply\nformat ascii 1.0\ncomment {comment}\nelement vertex {len(vertices)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    head += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    return head + _rows(vertices) + _rows(faces, "3 ")
