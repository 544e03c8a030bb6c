# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learn2Reg's fields as its evaluation reads them, and FreeSurfer's .lta by its definition."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import read_transform, write_image, write_transform

from .transform_cases import GRIDS, LIMIT, SOLID, difference, inner_points, smooth_field, some_affine, some_transform

EVEN = Grid((20, 18, 16), GRIDS["left-handed"][0].affine)


def warped_by_challenge(field: np.ndarray, image: np.ndarray) -> np.ndarray:
    """What the evaluation of the challenge does with a field ``(3, X, Y, Z)`` in voxels."""
    identity = np.stack(np.meshgrid(*map(np.arange, field.shape[1:]), indexing="ij"))
    return ndimage.map_coordinates(image, identity + field, order=1)


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz"])
def test_the_evaluation_of_the_challenge_warps_as_we_do(tmp_path, suffix):
    ours = SpatialTransform.of_field(smooth_field(EVEN, 1.5), EVEN)
    path = tmp_path / f"disp_0001_0002{suffix}"
    write_transform(path, ours, format="learn2reg", fixed=EVEN)
    if suffix == ".npz":
        half = np.load(path)["arr_0"]
        assert half.shape == (3, 10, 9, 8) and half.dtype == np.float16
        field = np.array([ndimage.zoom(component.astype("float32"), 2, order=2) for component in half])
    else:
        field = np.moveaxis(nib.load(path).get_fdata(), -1, 0)
    found = np.stack([warped_by_challenge(field, EVEN.points()[..., axis]) for axis in range(3)], -1)
    expected = EVEN.points() + np.moveaxis(ours.displacement(EVEN).double().numpy(), 0, -1)
    inner = (slice(4, -4),) * 3
    away = np.linalg.norm(found - expected, axis=-1)[inner].mean() / EVEN.spacing.min()
    assert away < (LIMIT if suffix == ".nii.gz" else 2 * LIMIT)  # half precision
    back = read_transform(path, fixed=EVEN, format="learn2reg")
    read = EVEN.points() + np.moveaxis(back.displacement(EVEN).double().numpy(), 0, -1)
    assert np.linalg.norm(found - read, axis=-1)[inner].mean() / EVEN.spacing.min() < LIMIT


def test_fields_between_different_grids_come_back(tmp_path):
    fixed, moving = GRIDS["mixed"]
    ours = some_transform(fixed)
    write_transform(tmp_path / "d.nii.gz", ours, format="learn2reg", fixed=fixed, moving=moving)
    back = read_transform(tmp_path / "d.nii.gz", fixed=fixed, moving=moving)
    torch.testing.assert_close(back.displacement(fixed), ours.displacement(fixed), atol=1e-4, rtol=0)
    index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), -1)
    voxels = index + nib.load(tmp_path / "d.nii.gz").get_fdata()
    found = voxels @ moving.affine[:3, :3].T + moving.affine[:3, 3]
    assert difference(found, ours, fixed, moving) < LIMIT


def test_learn2reg_refusals(tmp_path):
    fixed, _ = GRIDS["mixed"]  # of odd size
    ours = some_transform(fixed)
    with pytest.raises(InputError, match="odd number"):
        write_transform(tmp_path / "d.npz", ours, format="learn2reg", fixed=fixed)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "d.nii")
    (tmp_path / "d.nii").rename(tmp_path / "disp_0001_0002.nii")
    with pytest.raises(InputError, match="fixed image"):
        read_transform(tmp_path / "disp_0001_0002.nii")
    with pytest.raises(InputError, match=r"has \(4, 4, 4\) voxels, and the fixed image \(13, 12, 9\)"):
        read_transform(tmp_path / "disp_0001_0002.nii", fixed=fixed)
    np.savez(tmp_path / "p.npz", np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"p\.npz: .*pickle"):
        read_transform(tmp_path / "p.npz", fixed=fixed)
    np.savez(tmp_path / "big.npz", np.zeros((3, 40, 40, 40)))
    with pytest.raises(InputError, match="more numbers"):
        read_transform(tmp_path / "big.npz", fixed=fixed)
    np.savez(tmp_path / "other.npz", np.zeros((3, 4, 4, 4)))
    with pytest.raises(InputError, match=r"\(3, 4, 4, 4\); needed is one of \(3, 6, 6, 4\)"):
        read_transform(tmp_path / "other.npz", fixed=fixed)
    np.savez(tmp_path / "nan.npz", np.full((3, 6, 6, 4), np.nan))
    with pytest.raises(InputError, match="NaN"):
        read_transform(tmp_path / "nan.npz", fixed=fixed)
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"bad\.npz: "):
        read_transform(tmp_path / "bad.npz", fixed=fixed)


def sections(path) -> dict[str, dict[str, list[float]]]:
    """What an .lta says of both volumes."""
    out, current = {}, None
    for line in path.read_text().splitlines():
        if "volume info" in line and "=" not in line:
            current = out.setdefault(line.split()[0], {})
        elif current is not None and "=" in line and "filename" not in line:
            key, value = line.split("#")[0].split("=")
            current[key.strip()] = [float(word) for word in value.split()]
    return out


@pytest.mark.parametrize("case", SOLID)
def test_lta_by_its_definition(tmp_path, case):
    fixed, moving = GRIDS[case]
    ours, path = SpatialTransform.of_affine(some_affine(3)), tmp_path / "a.lta"
    write_transform(path, ours, fixed=fixed, moving=moving)
    lines = path.read_text().splitlines()
    assert lines[0].split()[2] == "1" and lines[4] == "1 4 4"
    matrix = np.array([[float(word) for word in line.split()] for line in lines[5:9]])
    points = inner_points(fixed)
    moved = ours.points(points)
    np.testing.assert_allclose(moved @ matrix[:3, :3].T + matrix[:3, 3], points, atol=1e-9)  # from moving to fixed
    for name, grid in (("src", moving), ("dst", fixed)):
        volume = sections(path)[name]
        header = nib.MGHImage(np.zeros(grid.shape, np.float32), grid.affine).header  # FreeSurfer's own geometry
        np.testing.assert_allclose(volume["cras"], header["Pxyz_c"], atol=1e-4)
        np.testing.assert_allclose(volume["voxelsize"], header["delta"], atol=1e-5)
        np.testing.assert_allclose([volume[f"{a}ras"] for a in "xyz"], header["Mdc"], atol=1e-5)
    np.testing.assert_allclose(read_transform(path).matrix, ours.matrix, atol=1e-9)


def test_lta_between_voxels(tmp_path):
    fixed, moving = GRIDS["mixed"]
    ours, path = SpatialTransform.of_affine(some_affine(3)), tmp_path / "a.lta"
    write_transform(path, ours, fixed=fixed, moving=moving)
    text = path.read_text().splitlines()
    between = np.linalg.inv(fixed.affine) @ np.linalg.inv(ours.matrix) @ moving.affine
    text[0] = "type      = 0 # LINEAR_VOX_TO_VOX"
    text[5:9] = [" ".join(map(str, row)) for row in between]
    path.write_text("# transform file\n" + "\n".join(text))
    np.testing.assert_allclose(read_transform(path).matrix, ours.matrix, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("type      = 1", "type      = 14", "type 14.*lta_convert"),
        ("nxforms   = 1", "nxforms   = 2", "several"),
        ("1 4 4", "", "no 4x4 matrix"),
        ("type ", "tipe ", "no line 'type"),
        ("type      = 1", "type      = x", "x"),
    ],
)
def test_lta_refusals(tmp_path, old, new, words):
    fixed, moving = GRIDS["mixed"]
    path = tmp_path / "a.lta"
    write_transform(path, SpatialTransform.of_affine(some_affine(3)), fixed=fixed, moving=moving)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"a\.lta: .*{words}"):
        read_transform(path)


def test_lta_without_geometry(tmp_path):
    text = "type = 0\nnxforms = 1\n1 4 4\n" + "".join(" ".join(map(str, row)) + "\n" for row in np.eye(4))
    (tmp_path / "a.lta").write_text(text)
    with pytest.raises(InputError, match="does not say where its src image lies"):
        read_transform(tmp_path / "a.lta")
    with pytest.raises(InputError, match="fixed image"):
        write_transform(tmp_path / "b.lta", SpatialTransform.of_affine(np.eye(4)))


def test_images_of_the_challenge_keep_their_grid(tmp_path):
    """A field whose file says where it lies needs no fixed image to be read on its own grid."""
    write_image(tmp_path / "f.nii.gz", torch.zeros(EVEN.shape), EVEN)
    ours = SpatialTransform.of_field(smooth_field(EVEN), EVEN)
    write_transform(tmp_path / "d.nii.gz", ours, format="learn2reg")
    back = read_transform(tmp_path / "d.nii.gz")
    torch.testing.assert_close(back.displacement(EVEN), ours.displacement(EVEN), atol=1e-4, rtol=0)


@pytest.mark.parametrize("last", ["9.999999403953552e-01", "9.999998807907104e-01", "1.000000119209290e+00"])
@pytest.mark.parametrize("kind", [0, 1])
def test_the_last_row_of_an_lta_may_be_rounded(tmp_path, last, kind):
    """mri_robust_register and mri_concatenate_lta go through single precision."""
    fixed, moving = GRIDS["mixed"]
    ours, path = SpatialTransform.of_affine(some_affine(3)), tmp_path / "a.lta"
    write_transform(path, ours, fixed=fixed, moving=moving)
    text = path.read_text().splitlines()
    matrix = np.linalg.inv(ours.matrix)
    matrix = matrix if kind else np.linalg.inv(fixed.affine) @ matrix @ moving.affine
    text[0], text[5:9] = f"type = {kind}", [" ".join(map(str, row)) for row in matrix[:3]] + [f"0 0 0 {last}"]
    path.write_text("\n".join(text))
    np.testing.assert_allclose(read_transform(path).matrix, ours.matrix, atol=1e-6)
    path.write_text("\n".join([*text[:8], "0 0 0 0.5", *text[9:]]))
    with pytest.raises(InputError, match=r"a\.lta: the last row of its matrix is \[0.*0\.5\]"):
        read_transform(path)
