# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a file holds: recognized where it shows, refused with the choices where it does not, read as it is named."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import read_displacement_field, read_transform, read_transforms, write_transform

from ..phantoms import turned
from .transform_cases import GRIDS, inner_points, smooth_field, some_affine, some_transform

FLIP = np.array([-1.0, -1.0, 1.0])
HEAD = turned(0.1, (2.0, 2.0, 2.5), (20, 22, 18))  # near the world's axes, as heads are
SHIFT = np.array([5.0, -3.0, 2.0])


def smooth(grid: Grid) -> np.ndarray:
    """A displacement ``(*shape, D)`` of the size and smoothness that registrations give, RAS mm."""
    return np.moveaxis(smooth_field(grid).double().numpy(), 0, -1) + SHIFT[: grid.dims]


def save_vectors(
    path: Path, values: np.ndarray, grid: Grid, five: bool, intent: str = "", name: str = "", about: str = ""
) -> Path:
    """Vectors ``(*shape, D)`` in a NIfTI file of four or five axes."""
    data = values.astype(np.float32)
    data = data.reshape(*grid.shape, *(1,) * (4 - grid.dims), grid.dims) if five else data
    image = nib.Nifti1Image(data, grid.full_affine)
    if intent:
        image.header.set_intent(intent, name=name)
    image.header["descrip"] = about.encode()
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def check_map(found: SpatialTransform, grid: Grid, displacement: np.ndarray) -> None:
    voxels = np.moveaxis(found.displacement(grid).double().numpy(), 0, -1)
    np.testing.assert_allclose(voxels, displacement, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "five", "header"),
    [
        ("y_t1.nii", True, {"intent": "vector", "name": "Mapping", "about": "Deformation"}),
        ("iy_t1.nii", True, {"intent": "vector", "name": "Mapping"}),
        ("renamed.nii.gz", True, {"about": "Deformation"}),
        ("y_four.nii", False, {"intent": "vector", "name": "Mapping"}),
    ],
)
@pytest.mark.parametrize("grid", [HEAD, GRIDS["mixed"][0], GRIDS["right-handed"][0]])
def test_deformations_of_spm_are_positions(tmp_path, file, five, header, grid):
    path = save_vectors(tmp_path / file, grid.points() + smooth(grid), grid, five, **header)
    check_map(read_transform(path), grid, smooth(grid))
    check_map(read_transform(path, format="spm"), grid, smooth(grid))
    with pytest.raises(InputError, match="positions, as of SPM, which read_transform reads"):
        read_displacement_field(path)


def test_voxels_without_a_position_follow_an_affine_map(tmp_path, caplog):
    """SPM's inverses have NaN where the other image ends."""
    matrix = some_affine(3)
    ends = HEAD.points() @ matrix[:3, :3].T + matrix[:3, 3]
    known = ends.copy()
    known[:4] = np.nan
    path = save_vectors(tmp_path / "iy_t1.nii", known, HEAD, True, "vector", "Mapping")
    with caplog.at_level(logging.WARNING):
        check_map(read_transform(path), HEAD, ends - HEAD.points())
    assert f"{4 * 22 * 18} voxels have no position" in caplog.text
    path = save_vectors(tmp_path / "iy_t1.nii", np.full_like(known, np.nan), HEAD, True, "vector", "Mapping")
    with pytest.raises(InputError, match=r"iy_t1\.nii: none of its voxels"):
        read_transform(path)


@pytest.mark.parametrize("five", [False, True])
@pytest.mark.parametrize("kind", ["ras-positions", "lps-positions"])
def test_positions_without_intent_show_themselves(tmp_path, kind, five):
    signs = FLIP if kind == "lps-positions" else 1
    path = save_vectors(tmp_path / "warp.nii.gz", (HEAD.points() + smooth(HEAD)) * signs, HEAD, five)
    check_map(read_transform(path), HEAD, smooth(HEAD))


def test_positions_in_a_vector_image(tmp_path, caplog):
    """Along RAS they cannot be ITK's displacements, which would press the image flat; along LPS they could."""
    path = save_vectors(tmp_path / "warp.nii.gz", HEAD.points() + smooth(HEAD), HEAD, True, "vector")
    with caplog.at_level(logging.WARNING):
        check_map(read_transform(path), HEAD, smooth(HEAD))
    assert "holds positions" in caplog.text
    path = save_vectors(tmp_path / "warp.nii.gz", (HEAD.points() + smooth(HEAD)) * FLIP, HEAD, True, "vector")
    with pytest.raises(InputError, match=r"warp\.nii\.gz: .*--from .*nifti .*lps-positions") as caught:
        read_transform(path)
    assert "\n" not in str(caught.value)
    check_map(read_transform(path, format="lps-positions"), HEAD, smooth(HEAD))
    check_map(read_transform(path, format="nifti"), HEAD, HEAD.points() + smooth(HEAD))


@pytest.mark.parametrize("header", [(False, ""), (True, ""), (True, "vector")])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
def test_positions_in_voxels_are_not_taken_for_millimeters(tmp_path, header, signs):
    """On a grid of 1 mm only the place of the origin tells them from each other."""
    affine = np.diag([*map(float, signs), 1.0])
    affine[:3, 3] = np.multiply(signs, (-20.0, -22, -18))
    grid, moving = Grid((40, 44, 36), affine), Grid((40, 44, 36), np.diag([2.0, 1.0, 1.0, 1.0]))
    ends = np.moveaxis(np.indices(grid.shape), 0, -1) + SHIFT
    path = save_vectors(tmp_path / "warp.nii.gz", ends, grid, *header)
    with pytest.raises(InputError, match=r"--from .*voxel-positions"):
        read_transform(path)
    for target, given in ((grid, None), (moving, moving)):
        found = read_transform(path, format="voxel-positions", moving=given)
        check_map(found, grid, ends @ target.affine[:3, :3].T + target.affine[:3, 3] - grid.points())


@pytest.mark.parametrize("grid", [HEAD, GRIDS["mixed"][0]])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("five", [False, True])
def test_displacements_without_intent_are_not_guessed(tmp_path, grid, whole, five):
    values = smooth(grid).round() if whole else smooth(grid)  # also of whole numbers, which look like labels
    path = save_vectors(tmp_path / "warp.nii.gz", values, grid, five)
    with pytest.raises(InputError, match=r"warp\.nii\.gz: .*--from.*learn2reg.*ras-displacement.*lps-disp.*fsl-rel") as caught:
        read_transform(path, fixed=grid, moving=grid)
    assert "\n" not in str(caught.value)
    check_map(read_transform(path, format="ras-displacement"), grid, values)
    check_map(read_transform(path, format="lps-displacement"), grid, values * FLIP)


@pytest.mark.parametrize("five", [False, True])
def test_no_displacement_is_none_in_every_unit(tmp_path, five):
    path = save_vectors(tmp_path / "warp.nii.gz", np.zeros_like(smooth(HEAD)), HEAD, five)
    check_map(read_transform(path), HEAD, np.zeros_like(smooth(HEAD)))


def test_a_displacement_of_learn2reg_is_known_by_its_name_or_from_us(tmp_path):
    ours = SpatialTransform.of_field(smooth_field(HEAD), HEAD)
    write_transform(tmp_path / "warp.nii.gz", ours, format="learn2reg")
    check_map(read_transform(tmp_path / "warp.nii.gz"), HEAD, smooth(HEAD) - SHIFT)
    image = nib.load(tmp_path / "warp.nii.gz")
    for name, known in (("disp_0001_0002.nii.gz", True), ("other.nii.gz", False), ("disp_mm_0001.nii.gz", False)):
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), tmp_path / name)
        if known:
            check_map(read_transform(tmp_path / name), HEAD, smooth(HEAD) - SHIFT)
        else:
            with pytest.raises(InputError, match="learn2reg"):
                read_transform(tmp_path / name)


def test_intents_are_believed(tmp_path):
    """ITK's vector images are along LPS; 1006 says displacements."""
    path = save_vectors(tmp_path / "warp.nii.gz", smooth(HEAD) * FLIP, HEAD, True, "vector")
    check_map(read_transform(path), HEAD, smooth(HEAD))
    path = save_vectors(tmp_path / "warp.nii.gz", smooth(HEAD), HEAD, True, "displacement vector")
    check_map(read_transform(path), HEAD, smooth(HEAD))


@pytest.mark.parametrize("header", [{"name": "Velocity"}, {"about": "Flow field"}])
def test_velocity_fields_are_refused(tmp_path, header):
    path = save_vectors(tmp_path / "u_rc1.nii", smooth(HEAD), HEAD, True, "vector", **header)
    with pytest.raises(InputError, match=r"u_rc1\.nii: holds a velocity field"):
        read_transform(path)


def write_matrix(path: Path, matrix: np.ndarray, gap: str = " ", end: str = "") -> Path:
    path.write_text("".join(gap.join(f"{v:.12g}" for v in row) + end + "\n" for row in matrix))
    return path


@pytest.mark.parametrize("name", ["a.mat", "a.txt"])
@pytest.mark.parametrize("grids", [False, True])
def test_bare_matrices_are_not_guessed(tmp_path, name, grids):
    where = {"fixed": HEAD, "moving": HEAD.resampled([1.5, 1.5, 2.0])} if grids else {}
    path = write_matrix(tmp_path / name, some_affine(3))
    with pytest.raises(InputError, match=rf"{name}: holds a matrix .*--from .*greedy.*flirt") as caught:
        read_transform(path, **where)
    assert "\n" not in str(caught.value) and ("lps-matrix" in str(caught.value)) == (name == "a.txt")
    for kind in ("greedy", "niftyreg-affine"):
        np.testing.assert_allclose(read_transform(path, format=kind).matrix, some_affine(3), atol=1e-12)
    flip = np.diag([*FLIP, 1])
    np.testing.assert_allclose(read_transform(path, format="lps-matrix").matrix, flip @ some_affine(3) @ flip, atol=1e-12)
    assert read_transform(path, format="flirt", fixed=HEAD, moving=HEAD).is_affine


@pytest.mark.parametrize("name", ["a.mat", "a.txt"])
def test_flirt_leaves_two_spaces_after_every_number(tmp_path, name):
    fixed, moving = GRIDS["right-handed"]
    path = write_matrix(tmp_path / name, some_affine(3), gap="  ", end="  ")
    found, named = (read_transform(path, format=kind, fixed=fixed, moving=moving).matrix for kind in (None, "flirt"))
    np.testing.assert_array_equal(found, named)


def test_the_only_reading_that_brings_the_images_together(tmp_path):
    """One of them lies far away, as where a scanner's table moves."""
    far = np.eye(4)
    far[:3, 3] = 900.0, -700.0, 800.0
    moving = Grid(HEAD.shape, far @ HEAD.affine)
    flirt = write_matrix(tmp_path / "flirt.mat", np.eye(4))
    found = read_transform(flirt, fixed=HEAD, moving=moving).matrix
    np.testing.assert_array_equal(found, read_transform(flirt, format="flirt", fixed=HEAD, moving=moving).matrix)
    greedy = write_matrix(tmp_path / "greedy.mat", far)
    np.testing.assert_allclose(read_transform(greedy, fixed=HEAD, moving=moving).matrix, far)


@pytest.mark.parametrize("last", ["0.99999994", "1.0000001"])
def test_rounded_last_rows_of_matrices(tmp_path, last):
    path = write_matrix(tmp_path / "a.txt", some_affine(3))
    path.write_text(path.read_text().rstrip()[:-1] + last + "\n")
    np.testing.assert_allclose(read_transform(path, format="greedy").matrix, some_affine(3), atol=1e-12)


def test_matrices_of_minc(tmp_path):
    """``nu_correct`` and minctracc write source to target points, that is moving to fixed."""
    inverse = np.linalg.inv(some_affine(3))
    rows = "\n".join(" ".join(map(str, row)) for row in inverse[:3])
    text = f"MNI Transform File\n% made by hand\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n"
    for name in ("talairach.xfm", "other.txt"):
        (tmp_path / name).write_text(text)
        np.testing.assert_allclose(read_transform(tmp_path / name).matrix, some_affine(3), atol=1e-9)
    (tmp_path / "t.xfm").write_text(text.replace("Linear;", "Linear;\nInvert_Flag = True;"))
    np.testing.assert_allclose(read_transform(tmp_path / "t.xfm").matrix, inverse, atol=1e-9)
    write_transform(tmp_path / "ours.xfm", SpatialTransform.of_affine(some_affine(3)))
    np.testing.assert_allclose(read_transform(tmp_path / "ours.xfm").matrix, some_affine(3), atol=1e-12)
    (tmp_path / "t.xfm").write_text(text.replace("= Linear;", "= Grid_Transform;"))
    with pytest.raises(InputError, match=r"t\.xfm: holds Grid_Transform"):
        read_transform(tmp_path / "t.xfm")


@pytest.mark.parametrize("kind", ["Euler3DTransform", "AffineTransform"])
def test_matrices_that_itk_writes_as_minc(tmp_path, kind):
    """ITK turns nothing round and goes from fixed to moving points, LPS mm; a comment says that it wrote the file."""
    sitk = pytest.importorskip("SimpleITK")
    transform = sitk.AffineTransform(3) if kind == "AffineTransform" else sitk.Euler3DTransform()
    transform.SetParameters([v + 0.1 * i for i, v in enumerate(transform.GetParameters())])
    sitk.WriteTransform(transform, str(tmp_path / "a.xfm"))
    points = np.array([[1.0, 2.0, 3.0], [-7.0, 5.0, -4.0]])
    expected = np.array([transform.TransformPoint(point) for point in (points * FLIP.ravel()).tolist()]) * FLIP.ravel()
    np.testing.assert_allclose(read_transform(tmp_path / "a.xfm").points(points), expected, atol=1e-5)


def test_matrices_of_afni(tmp_path, caplog):
    flip = np.diag([*FLIP, 1])
    numbers = " ".join(f"{v:12.9g}" for v in (flip @ some_affine(3) @ flip)[:3].ravel())
    path = tmp_path / "a.aff12.1D"
    path.write_text(f"# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n{numbers}\n")
    np.testing.assert_allclose(read_transform(path).matrix, some_affine(3), atol=1e-8)
    path.write_text(numbers + "\n")  # as cat_matvec -ONELINE writes it
    np.testing.assert_allclose(read_transform(path).matrix, some_affine(3), atol=1e-8)
    assert not caplog.text
    read_transform(path, fixed=turned(0.0, (1.0, 1.0, 2.0), (8, 8, 8)), moving=HEAD)
    assert "AFNI leaves out the rotation of oblique images, and the moving image is oblique" in caplog.text
    path.write_text(path.read_text() + numbers + "\n")
    with pytest.raises(InputError, match=r"a\.aff12\.1D: holds 24 numbers"):
        read_transform(path)


def test_formats_of_a_list(tmp_path):
    write_matrix(tmp_path / "a.mat", some_affine(3))
    write_matrix(tmp_path / "b.txt", np.linalg.inv(some_affine(3)))
    write_transform(tmp_path / "c.tfm", SpatialTransform.of_affine(some_affine(3)))
    names = [tmp_path / name for name in ("a.mat", "b.txt", "c.tfm")]
    for formats in (["greedy", "niftyreg-affine", None], ["greedy", "greedy", "auto"]):
        np.testing.assert_allclose(read_transforms(names, formats=formats).matrix, some_affine(3), atol=1e-9)
    np.testing.assert_allclose(read_transforms(names[:2], formats="greedy").matrix, np.eye(4), atol=1e-9)
    with pytest.raises(InputError, match="2 formats are named for 3 transforms"):
        read_transforms(names, formats=["greedy", "greedy"])
    with pytest.raises(InputError, match="no transform format 'gredy'"):
        read_transforms(names, formats="gredy")


def test_a_warp_of_fsl_that_may_be_either(tmp_path):
    """Half way between displacements and positions."""
    fixed, moving = GRIDS["right-handed"]
    write_transform(tmp_path / "w.nii", some_transform(fixed), format="fsl", fixed=fixed, moving=moving)
    image = nib.load(tmp_path / "w.nii")
    index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), -1) * fixed.spacing
    image = nib.Nifti1Image((-0.5 * index).astype(np.float32), image.affine, image.header)
    nib.save(image, tmp_path / "w.nii")
    left = GRIDS["left-handed"][0]
    assert np.linalg.det(fixed.affine) > 0 > np.linalg.det(left.affine)
    with pytest.raises(InputError, match=r"w\.nii: holds a warp of FSL .*fsl-rel.*fsl-abs"):
        read_transform(tmp_path / "w.nii", fixed=fixed, moving=moving)
    assert len(inner_points(fixed)) and read_transform(tmp_path / "w.nii", format="fsl-rel", moving=moving).dims == 3
