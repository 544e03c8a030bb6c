# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""NiftyReg's files: what its programs make of ours and we of theirs, and their definition where they are not installed."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import FieldStep, Grid, SpatialTransform, SplineStep
from monai_locor.io import read_displacement_field, read_transform, write_image, write_transform

from .transform_cases import (
    GRIDS,
    LIMIT,
    SOLID,
    difference,
    inner_points,
    smooth_field,
    some_affine,
    some_transform,
    write_coordinates,
)

KINDS = ["niftyreg-def", "niftyreg-disp", "niftyreg-cpp"]


def run(program: str, *arguments: object) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} of NiftyReg is not installed")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def some_spline(fixed: Grid, size: float = 3.0) -> SplineStep:
    """A lattice of five voxels' spacing that begins one node before the first voxel."""
    spacing = fixed.affine @ np.diag([5.0] * fixed.dims + [1.0])
    spacing[:-1, -1] = fixed.affine[:-1, -1] - spacing[:-1, :-1].sum(1)
    lattice = Grid(tuple(-(-n // 5) + 4 for n in fixed.shape), spacing)
    return SplineStep(smooth_field(lattice, size).double(), lattice)


def resampled(tmp_path, transform, fixed: Grid, moving: Grid) -> np.ndarray:
    write_image(tmp_path / "fixed.nii.gz", torch.zeros(fixed.shape), fixed)
    found = []
    for path in write_coordinates(tmp_path, moving, "seen"):
        out = tmp_path / "out.nii.gz"
        run("reg_resample", "-ref", tmp_path / "fixed.nii.gz", "-flo", path, "-trans", transform, "-res", out, "-inter", 1)
        found.append(nib.load(out).get_fdata())
    return np.stack(found, -1)


@pytest.mark.parametrize("case", SOLID)
@pytest.mark.parametrize("kind", KINDS)
def test_niftyreg_resamples_with_ours(tmp_path, case, kind):
    fixed, moving = GRIDS[case]
    ours, path = some_transform(fixed), tmp_path / "t.nii.gz"
    assert write_transform(path, ours, format=kind, fixed=fixed) == [path]
    assert difference(resampled(tmp_path, path, fixed, moving), ours, fixed, moving) < LIMIT


@pytest.mark.parametrize("case", SOLID)
def test_niftyreg_evaluates_a_spline_as_we_do(tmp_path, case):
    fixed, moving = GRIDS[case]
    ours, path = SpatialTransform((some_spline(fixed),)), tmp_path / "t.nii.gz"
    write_transform(path, ours, format="niftyreg-cpp", fixed=fixed)
    assert nib.load(path).shape[:3] == ours.steps[0].grid.shape  # as it is, not fitted
    assert difference(resampled(tmp_path, path, fixed, moving), ours, fixed, moving) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_niftyreg_resamples_on_a_sheared_grid(tmp_path, kind):
    fixed, moving = GRIDS["left-handed"]
    fixed = Grid(fixed.shape, fixed.affine @ (np.eye(4) + 0.3 * np.eye(4, k=1) * [0, 1, 0, 0]))
    ours, path = some_transform(fixed), tmp_path / "t.nii.gz"
    write_transform(path, ours, format=kind)
    assert difference(resampled(tmp_path, path, fixed, moving), ours, fixed, moving) < LIMIT


def test_niftyreg_resamples_with_our_matrix(tmp_path):
    fixed, moving = GRIDS["mixed"]
    ours, path = SpatialTransform.of_affine(some_affine(3)), tmp_path / "a.txt"
    write_transform(path, ours, format="niftyreg-affine")
    assert difference(resampled(tmp_path, path, fixed, moving), ours, fixed, moving) < LIMIT
    np.testing.assert_allclose(read_transform(path).matrix, ours.matrix, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", SOLID)
def test_registrations_of_niftyreg_are_read(tmp_path, case):
    fixed, moving = GRIDS[case]
    fixed = fixed.resampled([0.8, 0.8, 1.0])
    for name, grid, width in (("f", fixed, [6.0, 5, 7]), ("m", moving, [5.0, 6.5, 6])):
        blob = np.exp(-((((grid.points() - fixed.center) / width) ** 2).sum(-1)))
        write_image(tmp_path / f"{name}.nii", torch.from_numpy(blob).float(), grid)
    images = ["-ref", tmp_path / "f.nii", "-flo", tmp_path / "m.nii"]
    run("reg_aladin", *images, "-aff", tmp_path / "a.txt", "-res", tmp_path / "r.nii", "-rigOnly")
    cpp, ref = tmp_path / "cpp.nii", images[:2]
    run("reg_f3d", *images, "-aff", tmp_path / "a.txt", "-cpp", cpp, "-res", tmp_path / "r.nii", "-sx", 4, "-maxit", 15)
    run("reg_transform", *ref, "-def", cpp, tmp_path / "def.nii")
    run("reg_transform", *ref, "-disp", cpp, tmp_path / "disp.nii")
    read = {name: read_transform(tmp_path / f"{name}.nii") for name in ("cpp", "def", "disp")}
    assert [type(read[name].steps[0]) for name in read] == [SplineStep, FieldStep, FieldStep]
    affine = read_transform(tmp_path / "a.txt")
    assert np.linalg.norm(read["cpp"].points(inner_points(fixed)) - affine.points(inner_points(fixed)), axis=1).max() > 0.1
    for transform in read.values():
        torch.testing.assert_close(transform.displacement(fixed), read["def"].displacement(fixed), atol=5e-3, rtol=0)
    for name in ("cpp", "def", "disp"):
        found = resampled(tmp_path, tmp_path / f"{name}.nii", fixed, moving)
        ours = fixed.points() + np.moveaxis(read[name].displacement(fixed).numpy(), 0, -1)
        seen = found.any(-1)
        assert seen.mean() > 0.5 and np.linalg.norm(found - ours, axis=-1)[seen].mean() < LIMIT
    run("reg_f3d", *images, "-vel", "-cpp", tmp_path / "vel.nii", "-res", tmp_path / "r.nii", "-maxit", 2, "-ln", 1)
    with pytest.raises(InputError, match=r"velocity.*reg_transform"):
        read_transform(tmp_path / "vel.nii")


@pytest.mark.parametrize("case", GRIDS)
def test_numbers_in_the_files(tmp_path, case):
    """By NiftyReg's definition: positions or displacements of reference voxels, RAS mm."""
    fixed, _ = GRIDS[case]
    ours = some_transform(fixed)
    end = fixed.points() + np.moveaxis(ours.displacement(fixed).double().numpy(), 0, -1)
    for code, (kind, expected) in enumerate(((KINDS[0], end), (KINDS[1], end - fixed.points()))):
        write_transform(tmp_path / "t.nii", ours, format=kind)
        image = nib.load(tmp_path / "t.nii")
        assert int(image.header["intent_code"]) == 1007 and image.header["intent_name"].item() == b"NREG_TRANS"
        assert image.header["intent_p1"] == code and image.ndim == 5
        np.testing.assert_allclose(np.squeeze(image.get_fdata()), expected, atol=1e-4)
        back = read_transform(tmp_path / "t.nii")
        torch.testing.assert_close(back.displacement(fixed), ours.displacement(fixed), atol=1e-4, rtol=0)


def slow_spline(path, point: np.ndarray) -> np.ndarray:
    """Where a control point file takes a point: a sum over all nodes."""
    image = nib.load(path)
    node = np.linalg.inv(image.affine) @ [*point, 1]
    out = np.zeros(3)
    for index in itertools.product(*map(range, image.shape[:3])):
        t = np.abs(node[:3] - index)
        weight = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0)).prod()
        out += weight * image.get_fdata()[index][0] if weight else 0
    return out


def test_splines_are_evaluated_by_their_definition(tmp_path):
    fixed, _ = GRIDS["left-handed"]
    ours = SpatialTransform((some_spline(fixed),))
    write_transform(tmp_path / "t.nii", ours, format="niftyreg-cpp")
    points = inner_points(fixed, 5)
    np.testing.assert_allclose([slow_spline(tmp_path / "t.nii", p) for p in points], ours.points(points), atol=1e-4)
    np.testing.assert_allclose(read_transform(tmp_path / "t.nii").points(points), ours.points(points), atol=1e-4)


@pytest.mark.parametrize("case", GRIDS)
def test_a_fitted_spline_goes_through_all_voxels(tmp_path, case):
    fixed, _ = GRIDS[case]
    ours = some_transform(fixed)
    write_transform(tmp_path / "t.nii", ours, format="niftyreg-cpp", fixed=fixed)
    back = read_transform(tmp_path / "t.nii")
    assert isinstance(back.steps[0], SplineStep)
    torch.testing.assert_close(back.displacement(fixed), ours.displacement(fixed), atol=1e-4, rtol=0)
    if case != "flat":
        corner = fixed.points()[-1, 0, -1]
        np.testing.assert_allclose(slow_spline(tmp_path / "t.nii", corner), ours.points(corner[None])[0], atol=1e-4)


def test_files_of_niftyreg_are_not_taken_for_itk(tmp_path):
    fixed, _ = GRIDS["mixed"]
    write_transform(tmp_path / "t.nii", some_transform(fixed), format="niftyreg-def")
    with pytest.raises(InputError, match="NiftyReg"):
        read_displacement_field(tmp_path / "t.nii")


def test_refusals(tmp_path):
    fixed, _ = GRIDS["mixed"]
    ours = some_transform(fixed)
    with pytest.raises(InputError, match=r"a\.txt: holds affine maps only"):
        write_transform(tmp_path / "a.txt", ours, format="niftyreg-affine")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(InputError, match=r"four\.nii: has shape \(4, 4, 4, 3\)"):
        read_transform(tmp_path / "four.nii", format="niftyreg-def")
    for content, words in (("1 2\n3 4\n", "four"), ("a b c d\n" * 4, "four lines"), ("0 0 0 0\n" * 3 + "0 0 0 1", "singular")):
        (tmp_path / "b.txt").write_text(content)
        with pytest.raises(InputError, match=rf"b\.txt: .*{words}"):
            read_transform(tmp_path / "b.txt", format="niftyreg-affine")
