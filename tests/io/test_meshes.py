# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surfaces in files: formats, spaces and damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor import InputError
from monai_locor.io.meshes import SurfaceMesh, check_mesh_name, read_mesh

from ..meshes import ROUND_TRIP, ellipsoid, write_mesh

MESH = ellipsoid(center=(20.0, -5.0, 3.0), rings=4)
CORNERS = [[0.0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0], [2, 2, 3]]
POLYGONS = [[0, 1, 2, 3], [0, 1, 4], [1, 2, 4]]
TRIANGLES = [[0, 1, 2], [0, 2, 3], [0, 1, 4], [1, 2, 4]]
POINTS = "POINTS 5 float\n" + "".join(f"{a} {b} {c}\n" for a, b, c in CORNERS)
CELLS = "POLYGONS 3 13\n4 0 1 2 3\n3 0 1 4\n3 1 2 4\n"


def triangles(mesh: SurfaceMesh) -> np.ndarray:
    """Corners of all faces, sorted."""
    found = mesh.vertices[mesh.faces].round(4).tolist()
    return np.array(sorted(sorted(corners) for corners in found))


def same(found: SurfaceMesh, vertices, faces=None) -> None:
    expected = vertices if faces is None else SurfaceMesh(np.array(vertices), np.array(faces))
    np.testing.assert_allclose(triangles(found), triangles(expected), atol=2e-4)


def as_lps(mesh: SurfaceMesh) -> SurfaceMesh:
    return SurfaceMesh(mesh.vertices * (-1, -1, 1), mesh.faces)


class TestSpaces:
    @pytest.mark.parametrize("suffix", ROUND_TRIP)
    def test_what_is_written_is_read(self, suffix, tmp_path):
        """GIFTI and FreeSurfer as RAS, all others as LPS."""
        file = write_mesh(tmp_path / f"a{suffix}", MESH)
        check_mesh_name(file)
        same(read_mesh(file), MESH if suffix in (".gii", "") else as_lps(MESH))

    @pytest.mark.parametrize("suffix", [".vtk", ".obj", ".ply", ".stl"])
    @pytest.mark.parametrize("space", ["RAS", "LPS"])
    def test_the_comment_of_slicer_and_the_setting(self, suffix, space, tmp_path):
        file = write_mesh(tmp_path / f"a{suffix}", MESH, f"3D Slicer output. SPACE={space}")
        same(read_mesh(file), MESH if space == "RAS" else as_lps(MESH))
        same(read_mesh(file, space="ras"), MESH)
        same(read_mesh(file, space="lps"), as_lps(MESH))

    @pytest.mark.parametrize(("scanner", "shift"), [(0, (5, -7, 9)), (1, (0, 0, 0))])
    def test_the_center_of_a_volume_of_freesurfer(self, scanner, shift, tmp_path):
        from nibabel.freesurfer.io import write_geometry

        info = {"head": [2, scanner, 20], "valid": "1  # volume info valid", "filename": "a.mgz", "volume": [256] * 3}
        info |= {"voxelsize": [1.0] * 3, "xras": [-1.0, 0, 0], "yras": [0, 0, -1.0], "zras": [0, 1.0, 0], "cras": [5.0, -7, 9]}
        write_geometry(tmp_path / "lh.white", MESH.vertices, MESH.faces, volume_info=info)
        same(read_mesh(tmp_path / "lh.white"), MESH.vertices + shift, MESH.faces)

    @pytest.mark.parametrize(("space", "shift"), [(0, (5, -7, 9)), (1, (0, 0, 0))], ids=["unknown", "scanner"])
    def test_the_center_of_a_volume_of_gifti(self, space, shift, tmp_path):
        import nibabel as nib

        image = nib.load(write_mesh(tmp_path / "a.gii", MESH))
        points = image.darrays[0]
        points.meta = nib.gifti.GiftiMetaData({"VolGeomC_R": "5", "VolGeomC_A": "-7", "VolGeomC_S": "9"})
        points.coordsys = nib.gifti.GiftiCoordSystem(space, space)
        nib.save(image, tmp_path / "b.gii")
        same(read_mesh(tmp_path / "b.gii"), MESH.vertices + shift, MESH.faces)


def vtk(body: str, version: str = "4.2", kind: str = "ASCII") -> bytes:
    return f"# vtk DataFile Version {version}\nSPACE=RAS\n{kind}\nDATASET POLYDATA\n{body}".encode()


def big(values, kind: str) -> bytes:
    return np.asarray(values, kind).tobytes()


PLY = "ply\nformat {} 1.0\ncomment SPACE=RAS\nelement vertex 5\nproperty double x\nproperty double y\nproperty double z\n"
PLY += "element face 3\nproperty uchar red\nproperty list uchar int vertex_index\nend_header\n"
COUNTED = [n for own in POLYGONS for n in (len(own), *own)]
VERTEX = "vertex {} {} {}\n"
FACETS = "".join(
    f"facet normal 0 0 1\nouter loop\n{''.join(VERTEX.format(*CORNERS[k]) for k in own)}endloop\nendfacet\n"
    for own in TRIANGLES
)
VARIANTS = {
    "polygons.vtk": vtk(f"{POINTS}METADATA\nINFORMATION 0\n\nVERTICES 1 2\n1 0\nLINES 1 3\n2 0 1\n{CELLS}"),
    "data.vtk": vtk(f"{POINTS}{CELLS}POINT_DATA 5\nSCALARS a float\nLOOKUP_TABLE default\n1 2 3 4 5\n"),
    "field.vtk": vtk(f"FIELD FieldData 1\nname 2 2 int\n1 2 3 4\n{POINTS}{CELLS}"),
    "windows.vtk": vtk(POINTS + CELLS).replace(b"\n", b"\r\n"),
    "new.vtk": vtk(
        f"{POINTS}POLYGONS 4 10\nOFFSETS vtktypeint64\n0 4 7 10\nCONNECTIVITY vtktypeint64\n0 1 2 3 0 1 4 1 2 4\n", "5.1"
    ),
    "binary.vtk": vtk("POINTS 5 float\n", kind="BINARY")
    + big(CORNERS, ">f4")
    + b"\nPOLYGONS 3 13\n"
    + big(COUNTED, ">i4")
    + b"\n",
    "new_binary.vtk": vtk("POINTS 5 double\n", "5.1", "BINARY")
    + big(CORNERS, ">f8")
    + b"\nPOLYGONS 4 10\nOFFSETS vtktypeint64\n"
    + big([0, 4, 7, 10], ">i8")
    + b"\nCONNECTIVITY vtktypeint64\n"
    + big([n for own in POLYGONS for n in own], ">i8"),
    "textures.obj": (
        "# SPACE=RAS\nmtllib a.mtl\n" + "".join("v {} {} {} 1 1 1\n".format(*p) for p in CORNERS) + "vn 0 0 1\nl 1 2\n"
        "f 1/1/1 2//1 3/2 \\\n4\nf -5 -4 -1\nf 2 3 5\n"
    ).encode(),
    "text.stl": f"solid SPACE=RAS\n{FACETS}endsolid".encode(),
    "text.ply": (
        PLY.format("ascii") + "".join("{} {} {}\n".format(*p) for p in CORNERS) + "9 4 0 1 2 3\n9 3 0 1 4\n9 3 1 2 4\n"
    ).encode(),
    **{
        f"{order}.ply": PLY.format(f"binary_{name}_endian").encode()
        + big(CORNERS, f"{order}f8")
        + b"".join(bytes([9, len(own)]) + big(own, f"{order}i4") for own in POLYGONS)
        for order, name in (("<", "little"), (">", "big"))
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_formats(name, tmp_path):
    file = tmp_path / f"a{name[name.index('.') :]}"
    file.write_bytes(VARIANTS[name])
    same(read_mesh(file), CORNERS, TRIANGLES)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_that_ends_too_early_is_refused(name, tmp_path):
    """Within the vertices, and just before the last face."""
    file, content = tmp_path / f"a{name[name.index('.') :]}", VARIANTS[name]
    if name == "data.vtk":
        content = content[: content.index(b"POINT_DATA")]
    for length in (len(content) // 3, len(content) - 3):
        if name == "textures.obj" and length > len(content) // 3:
            continue  # `f 2 3` is a line
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"surface .*: (cannot be read|has no triangles)"):
            read_mesh(file)


def test_triangle_strips(tmp_path):
    file = tmp_path / "a.vtk"
    file.write_bytes(vtk(POINTS + "TRIANGLE_STRIPS 1 6\n5 0 1 2 3 4\n"))
    same(read_mesh(file), CORNERS, [[0, 1, 2], [1, 2, 3], [2, 3, 4]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", b"v 0 0 0\nv 1 0 0\n", "has no triangles or other polygons"),
        ("a.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", r"vertex 1 of 3 is at \(-?0, -?0, nan\), not within 1e\+06 mm"),
        ("a.obj", b"v 0 0 1e9\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "coordinates are in mm"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", r"a face names vertex 8 \(from 0\), but there are 3"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "all triangles have an area of zero"),
        ("a.vtk", b"# vtk DataFile Version 3.0\na\nASCII\nDATASET UNSTRUCTURED_GRID\n", "not a legacy VTK file with polygonal"),
        ("a.vtk", vtk("POINTS 999999999 float\n0 0 0\n"), "states 2999999997 numbers, more than it can hold"),
        ("a.vtk", vtk(POINTS + "POLYGONS 3 13\n4 0 1 2 3\n9 0 1 4\n3 1 2 4\n"), "its cells contradict each other"),
        ("a.vtk", vtk("POINTS 3 float\n0 0 0 1 0 x\n0 1 0\n"), "cannot be read .could not convert"),
        ("a.stl", b"solid a\nfacet normal 0 0 1\n" + b" " * 100, "is an incomplete STL file, or none"),
        ("a.stl", b"solid a\nvertex 0 0 0\nvertex 1 0 0\nendfacet\nendsolid a\n" + b" " * 60, "three corners"),
        ("a.ply", b"hello", "is not a PLY file"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement a 99999999999\nend_header\n", "states 99999999999 elements, more than"),
        ("a.gii", b"<GIFTI", "cannot be read"),
        ("a.vtp", b"<VTKFile>", "is not a surface that is read; convert it to one of: legacy VTK"),
        ("a.off", b"OFF", "is not a surface that is read; convert it to one of: legacy VTK"),
    ],
)
def test_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_mesh(tmp_path / name, what="fixed surface")
    assert str(error.value).startswith(f"fixed surface {tmp_path / name}: ") and "\n" not in str(error.value)


def test_names_are_checked_without_reading(tmp_path):
    with pytest.raises(InputError, match=r"moving surface .*none.vtk: no such file"):
        check_mesh_name(tmp_path / "none.vtk", "moving surface")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="is not a surface that is read"):
        check_mesh_name(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 2)), [[0, 1, 2]], r"vertices have shape \(3, 2\)"),
        (np.eye(3), [[0, 1]], r"faces \(1, 2\)"),
        (np.eye(3), [[0.5, 1, 2]], "give vertices .N, 3. in mm and faces"),
    ],
)
def test_meshes_in_memory_are_checked(vertices, faces, message):
    with pytest.raises(InputError, match=message):
        SurfaceMesh(vertices, faces)


@pytest.mark.slow  # importing ITK's meshes takes seconds
@pytest.mark.parametrize("name", ["polygons.vtk", "new.vtk", "binary.vtk", "data.vtk"])
def test_itk_reads_the_same(name, tmp_path):
    import itk

    file = tmp_path / "a.vtk"
    file.write_bytes(VARIANTS[name])
    reader = itk.MeshFileReader[itk.Mesh[itk.D, 3]].New(FileName=str(file))
    reader.SetMeshIO(itk.VTKPolyDataMeshIO.New())
    reader.Update()
    points = itk.array_from_vector_container(reader.GetOutput().GetPoints())
    found = read_mesh(file)
    np.testing.assert_allclose(found.vertices[np.unique(found.faces)], points, atol=1e-6)
