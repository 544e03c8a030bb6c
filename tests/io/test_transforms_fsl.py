# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""FSL's warps and matrices against a slow implementation of their documented definition."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import read_transform, write_image, write_transform

from .transform_cases import GRIDS, LIMIT, SOLID, some_affine, some_transform


def fsl_position(grid: Grid, voxel) -> np.ndarray:
    """Millimeters along the axes; the first one backwards if the image is stored in neurological order."""
    index = np.array(voxel, dtype=float)
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        index[0] = grid.shape[0] - 1 - index[0]
    return index * np.linalg.norm(grid.affine[:3, :3], axis=0)


def world_of(grid: Grid, position: np.ndarray) -> np.ndarray:
    index = position / np.linalg.norm(grid.affine[:3, :3], axis=0)
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        index[0] = grid.shape[0] - 1 - index[0]
    return (grid.affine @ [*index, 1])[:3]


def slow_warp(path, fixed: Grid, moving: Grid, relative: bool) -> np.ndarray:
    """World positions ``(*fixed, 3)`` that a warp file sends the reference voxels to."""
    data = nib.load(path).get_fdata()
    out = np.zeros_like(data)
    for voxel in itertools.product(*map(range, fixed.shape)):
        position = data[voxel] + (fsl_position(fixed, voxel) if relative else 0)
        out[voxel] = world_of(moving, position)
    return out


@pytest.mark.parametrize("case", SOLID)
@pytest.mark.parametrize("kind", ["fsl", "fsl-abs"])
def test_warps_by_their_definition(tmp_path, case, kind):
    fixed, moving = GRIDS[case]
    ours, path = some_transform(fixed), tmp_path / "warp.nii.gz"
    write_transform(path, ours, format=kind, fixed=fixed, moving=moving)
    image = nib.load(path)
    assert image.shape == (*fixed.shape, 3) and int(image.header["intent_code"]) == 2006
    expected = fixed.points() + np.moveaxis(ours.displacement(fixed).double().numpy(), 0, -1)
    away = np.linalg.norm(slow_warp(path, fixed, moving, kind == "fsl") - expected, axis=-1)
    assert away.max() < LIMIT * moving.spacing.min()
    for name in (None, kind):  # relative or absolute is found out
        back = read_transform(path, moving=moving, format=name)
        torch.testing.assert_close(back.displacement(fixed), ours.displacement(fixed), atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", SOLID)
def test_matrices_by_their_definition(tmp_path, case):
    fixed, moving = GRIDS[case]
    ours, path = SpatialTransform.of_affine(some_affine(3)), tmp_path / "m.mat"
    write_transform(path, ours, format="flirt", fixed=fixed, moving=moving)
    matrix = np.linalg.inv(np.loadtxt(path))
    for voxel in itertools.product((0, 5), (1, 4), (2, 7)):
        end = world_of(moving, (matrix @ [*fsl_position(fixed, voxel), 1])[:3])
        np.testing.assert_allclose(end, ours.points((fixed.affine @ [*voxel, 1])[None, :3])[0], atol=1e-6)
    np.testing.assert_allclose(read_transform(path, fixed=fixed, moving=moving).matrix, ours.matrix, atol=1e-8)


def write_coefficients(path, fixed: Grid, knots=(3, 4, 2)) -> np.ndarray:
    """A file as ``fnirt --cout`` writes it, and the matrix in it."""
    shape = tuple(-(-(n + 1) // k) + 2 for n, k in zip(fixed.shape, knots))
    matrix = some_affine(3)
    matrix[:3, 3] = 3.0, -2.0, 4.0
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32) * 2, None)
    image.header.set_intent("fnirt cubic spline coef")
    for axis, size in enumerate(fixed.spacing, 1):
        image.header[f"intent_p{axis}"] = size
    image.header["pixdim"][1:4] = knots
    image.header.set_sform(matrix, code=1)
    image.header["vox_offset"] = 352
    path.write_bytes(image.header.binaryblock + bytes(4) + np.asarray(image.dataobj).tobytes(order="F"))
    return matrix


def test_coefficients_by_their_definition(tmp_path):
    fixed, moving = GRIDS["left-handed"]
    knots = (3, 4, 2)
    matrix = np.linalg.inv(write_coefficients(tmp_path / "c.nii", fixed, knots))
    data = nib.load(tmp_path / "c.nii").get_fdata()
    ours = read_transform(tmp_path / "c.nii", fixed=fixed, moving=moving)
    for voxel in ((0, 0, 0), (5, 6, 3), (13, 11, 7)):
        position = fsl_position(fixed, voxel)
        end = (matrix @ [*position, 1])[:3]
        for index in itertools.product(*map(range, data.shape[:3])):
            t = np.abs(np.array(voxel) / knots + 1 - index)
            weight = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0)).prod()
            end = end + weight * data[index]
        expected = world_of(moving, end)
        np.testing.assert_allclose(ours.points((fixed.affine @ [*voxel, 1])[None, :3])[0], expected, atol=1e-4)


def test_the_library_of_fsl_reads_coefficients_as_we_do(tmp_path):
    fnirt = pytest.importorskip("fsl.transform.fnirt")
    image = pytest.importorskip("fsl.data.image").Image
    fixed, moving = GRIDS["left-handed"]
    write_coefficients(tmp_path / "c.nii", fixed)
    for name, grid in (("f", fixed), ("m", moving)):
        write_image(tmp_path / f"{name}.nii.gz", torch.zeros(grid.shape), grid)
    reference, source = (image(str(tmp_path / f"{name}.nii.gz")) for name in "fm")
    theirs = fnirt.readFnirt(str(tmp_path / "c.nii"), source, reference)
    points = fixed.points().reshape(-1, 3)
    ours = read_transform(tmp_path / "c.nii", fixed=fixed, moving=moving)
    np.testing.assert_allclose(theirs.transform(points, from_="world", to="world"), ours.points(points), atol=1e-3)


@pytest.mark.parametrize("case", SOLID)
def test_the_library_of_fsl_agrees(tmp_path, case):
    fnirt, flirt = pytest.importorskip("fsl.transform.fnirt"), pytest.importorskip("fsl.transform.flirt")
    image = pytest.importorskip("fsl.data.image").Image
    fixed, moving = GRIDS[case]
    for name, grid in (("f", fixed), ("m", moving)):
        write_image(tmp_path / f"{name}.nii.gz", torch.zeros(grid.shape), grid)
    reference, source = (image(str(tmp_path / f"{name}.nii.gz")) for name in "fm")
    ours, points = some_transform(fixed), fixed.points().reshape(-1, 3)
    for kind, meaning in (("fsl-rel", "relative"), ("fsl-abs", "absolute")):
        write_transform(tmp_path / "w.nii.gz", ours, format=kind, moving=moving)
        theirs = fnirt.readFnirt(str(tmp_path / "w.nii.gz"), source, reference, defType=meaning)
        np.testing.assert_allclose(theirs.transform(points, from_="world", to="world"), ours.points(points), atol=1e-4)
    write_transform(tmp_path / "a.mat", SpatialTransform.of_affine(some_affine(3)), format="flirt", fixed=fixed, moving=moving)
    matrix = flirt.fromFlirt(flirt.readFlirt(str(tmp_path / "a.mat")), source, reference, "world", "world")
    np.testing.assert_allclose(np.linalg.inv(matrix), some_affine(3), atol=1e-4)


def test_niftyreg_understands_our_flirt_matrix(tmp_path):
    """Its conversion knows of images in radiological order only."""
    case = "left-handed"
    if shutil.which("reg_transform") is None:
        pytest.skip("reg_transform of NiftyReg is not installed")
    fixed, moving = GRIDS[case]
    ours = SpatialTransform.of_affine(some_affine(3))
    write_transform(tmp_path / "m.mat", ours, format="flirt", fixed=fixed, moving=moving)
    assert np.linalg.det(fixed.affine) < 0 and np.linalg.det(moving.affine) < 0
    for name, grid in (("f", fixed), ("m", moving)):
        write_image(tmp_path / f"{name}.nii", torch.zeros(grid.shape), grid)
    files = [str(tmp_path / name) for name in ("m.mat", "f.nii", "m.nii", "out.txt")]
    subprocess.run(["reg_transform", "-flirtAff2NR", *files], check=True, capture_output=True)
    np.testing.assert_allclose(read_transform(tmp_path / "out.txt").matrix, ours.matrix, atol=1e-4)


def test_refusals(tmp_path):
    fixed, moving = GRIDS["mixed"]
    ours = some_transform(fixed)
    with pytest.raises(InputError, match="counts voxels of the moving image"):
        write_transform(tmp_path / "w.nii", ours, format="fsl", fixed=fixed)
    write_transform(tmp_path / "w.nii", ours, format="fsl", fixed=fixed, moving=moving)
    with pytest.raises(InputError, match=r"w\.nii: the format fsl counts voxels of the moving image"):
        read_transform(tmp_path / "w.nii")
    flat, other = GRIDS["flat"]
    with pytest.raises(InputError, match="2 dimensions, and FSL three"):
        write_transform(tmp_path / "x.nii", some_transform(flat), format="fsl", fixed=flat, moving=other)
    image = nib.load(tmp_path / "w.nii")
    image.header.set_intent("fnirt quad spline coef")
    nib.save(image, tmp_path / "coef.nii")
    with pytest.raises(InputError, match=r"coef\.nii: holds FNIRT coefficients.*fnirtfileutils"):
        read_transform(tmp_path / "coef.nii", moving=moving)
    write_coefficients(tmp_path / "c.nii", GRIDS["left-handed"][0])
    with pytest.raises(InputError, match=r"c\.nii: .*fixed image"):
        read_transform(tmp_path / "c.nii", moving=moving)
    for other in (fixed.resampled(2 * fixed.spacing), GRIDS["right-handed"][0]):
        with pytest.raises(InputError, match=r"c\.nii: .*radiological.*1\.2"):
            read_transform(tmp_path / "c.nii", fixed=other, moving=moving)
    (tmp_path / "m.mat").write_text("0 0 0 0\n" * 3 + "0 0 0 1\n")
    with pytest.raises(InputError, match=r"m\.mat: .*[Ss]ingular"):
        read_transform(tmp_path / "m.mat", format="flirt", fixed=fixed, moving=moving)
    with pytest.raises(InputError, match="fixed image"):
        read_transform(tmp_path / "m.mat", format="flirt", moving=moving)
