# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files of ITK and ANTs: what SimpleITK and ANTs make of ours, and we of theirs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform, SplineStep
from monai_locor.io import read_transform, read_transforms, write_displacement_field, write_image, write_transform
from monai_locor.io.transforms import itk_fields

from ..parameters import mostly_slow
from .transform_cases import (
    GRIDS,
    LIMIT,
    difference,
    inner_points,
    smooth_field,
    some_affine,
    some_transform,
    write_coordinates,
)

FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.fixture
def sitk():
    return pytest.importorskip("SimpleITK")


@pytest.fixture
def ants():
    return pytest.importorskip("ants")


def mapped_by_sitk(transform, points: np.ndarray) -> np.ndarray:
    flip = FLIP[: points.shape[1]]
    return np.array([transform.TransformPoint(p.tolist()) for p in points * flip]) * flip


def some_spline(fixed: Grid) -> SplineStep:
    coarse = fixed.resampled(fixed.spacing * (np.array(fixed.shape) - 1) / 4)
    affine = coarse.affine.copy()
    affine[:-1, -1] -= affine[:-1, :-1].sum(1)
    lattice = Grid(tuple(n + 2 for n in coarse.shape), affine)
    return SplineStep(smooth_field(lattice).double(), lattice)


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("suffix", mostly_slow([".h5", ".nii.gz", ".nrrd", ".mha"], 2))
def test_simpleitk_resamples_as_we_do(tmp_path, sitk, case, suffix):
    fixed, moving = GRIDS[case]
    ours = some_transform(fixed)
    path = tmp_path / f"transform{suffix}"
    assert write_transform(path, ours, fixed=fixed) == [path]
    if suffix == ".h5":
        theirs = sitk.ReadTransform(str(path))
    else:
        theirs = sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64))
    write_image(tmp_path / "fixed.nii.gz", torch.zeros(fixed.shape), fixed)
    reference = sitk.ReadImage(str(tmp_path / "fixed.nii.gz"))
    images = [sitk.ReadImage(str(p)) for p in write_coordinates(tmp_path, moving)]
    found = [sitk.GetArrayFromImage(sitk.Resample(image, reference, theirs, sitk.sitkLinear)).T for image in images]
    assert difference(np.stack(found, -1), ours, fixed, moving) < LIMIT


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("suffix", [".h5", ".nii.gz", ".nii", ".nrrd", ".mha"])
def test_transforms_come_back(tmp_path, case, suffix):
    fixed, _ = GRIDS[case]
    ours, points = some_transform(fixed), inner_points(fixed)
    write_transform(tmp_path / f"t{suffix}", ours)
    back = read_transform(tmp_path / f"t{suffix}", fixed=fixed)
    torch.testing.assert_close(back.displacement(fixed), ours.displacement(fixed), atol=1e-4, rtol=0)
    assert suffix != ".h5" or [type(step) for step in back.steps] == [FieldStep, AffineStep]
    if suffix == ".h5":
        np.testing.assert_allclose(back.points(points), ours.points(points), atol=1e-4)


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".txt", ".mat"])
@pytest.mark.parametrize("dims", [2, 3])
def test_affine_maps_in_all_files_of_itk(tmp_path, sitk, dims, suffix):
    ours, points = SpatialTransform.of_affine(some_affine(dims)), np.random.default_rng(1).normal(size=(9, dims)) * 50
    write_transform(tmp_path / f"a{suffix}", ours)
    np.testing.assert_allclose(read_transform(tmp_path / f"a{suffix}").matrix, ours.matrix, atol=1e-12)
    theirs = sitk.ReadTransform(str(tmp_path / f"a{suffix}"))
    np.testing.assert_allclose(mapped_by_sitk(theirs, points), ours.points(points), atol=1e-9)


def test_the_order_of_a_chain_is_kept(tmp_path, sitk):
    fixed, _ = GRIDS["left-handed"]
    chain = SpatialTransform((AffineStep(some_affine(3)), some_spline(fixed), FieldStep(smooth_field(fixed, 1.0), fixed)))
    write_transform(tmp_path / "chain.h5", chain)
    points = inner_points(fixed)
    points = (points - some_affine(3)[:3, 3]) @ np.linalg.inv(some_affine(3)[:3, :3]).T
    np.testing.assert_allclose(read_transform(tmp_path / "chain.h5").points(points), chain.points(points), atol=1e-4)
    theirs = mapped_by_sitk(sitk.ReadTransform(str(tmp_path / "chain.h5")), points)
    np.testing.assert_allclose(theirs, chain.points(points), atol=1e-4)
    assert np.linalg.norm(theirs - points, axis=1).mean() > 2


@pytest.mark.parametrize("dims", [2, 3])
def test_transforms_of_simpleitk_are_read(tmp_path, sitk, dims):
    fixed = GRIDS["flat" if dims == 2 else "mixed"][0]
    flip, center = FLIP[:dims], (fixed.center * FLIP[:dims]).tolist()
    if dims == 2:
        parts = [sitk.Euler2DTransform(center, 0.2, (1.0, 2.0)), sitk.Similarity2DTransform(1.1, 0.1, (2.0, 1.0), center)]
    else:
        parts = [sitk.Euler3DTransform(center, 0.2, 0.1, -0.1, (1.0, 2.0, 3.0)), sitk.ScaleTransform(3, (1.1, 0.9, 1.2))]
    reference = sitk.GetImageFromArray(np.zeros(fixed.shape[::-1], np.float32))
    reference.SetSpacing(fixed.spacing.tolist())
    reference.SetOrigin((fixed.affine[:-1, -1] * flip).tolist())
    reference.SetDirection((flip[:, None] * fixed.affine[:-1, :-1] / fixed.spacing).ravel().tolist())
    spline = sitk.BSplineTransformInitializer(reference, [3] * dims)
    spline.SetParameters(np.random.default_rng(0).normal(size=len(spline.GetParameters())).tolist())
    whole = sitk.CompositeTransform([*parts, sitk.TranslationTransform(dims, [1.0] * dims), spline])
    for suffix in (".h5", ".tfm"):
        sitk.WriteTransform(whole, str(tmp_path / f"t{suffix}"))
        points = inner_points(fixed)
        found = read_transform(tmp_path / f"t{suffix}")
        np.testing.assert_allclose(found.points(points), mapped_by_sitk(whole, points), atol=1e-6)
        assert isinstance(found.steps[0], SplineStep) and len(found.steps) == 4


def test_the_known_inverse_goes_to_a_second_file(tmp_path, caplog):
    fixed, moving = GRIDS["right-handed"]
    forward = some_transform(fixed)
    both = SpatialTransform(forward.steps, forward.inverse(moving).steps)
    written = write_transform(tmp_path / "t.h5", both)
    assert [p.name for p in written] == ["t.h5", "t_inverse.h5"]
    back = read_transform(tmp_path / "t.h5")
    assert back.inverse_steps is not None
    points = forward.points(inner_points(fixed))
    np.testing.assert_allclose(back.inverse().points(points), both.inverse().points(points), atol=1e-4)
    other = SpatialTransform.of_field(3 * smooth_field(fixed) + 7, fixed)
    write_transform(tmp_path / "t.h5", other)  # what lies beside it is not its inverse any more
    with caplog.at_level(logging.WARNING):
        assert read_transform(tmp_path / "t.h5").inverse_steps is None
    assert "t_inverse.h5 is left aside" in caplog.text


def warped_by_ants(ants, tmp_path, fixed: Grid, moving: Grid, transforms, invert) -> np.ndarray:
    write_image(tmp_path / "grid.nii.gz", torch.zeros(fixed.shape), fixed)
    reference = ants.image_read(str(tmp_path / "grid.nii.gz"))
    found = []
    for path in write_coordinates(tmp_path, moving, "seen"):
        image = ants.image_read(str(path))
        names = [str(t) for t in transforms]
        found.append(ants.apply_transforms(reference, image, names, whichtoinvert=invert, interpolator="linear").numpy())
    return np.stack(found, -1)


@pytest.mark.parametrize("case", GRIDS)
def test_ants_applies_our_pair_forward_and_back(tmp_path, ants, case):
    fixed, moving = GRIDS[case]
    ours = some_transform(fixed)
    whole = SpatialTransform.of_field(ours.displacement(fixed), fixed)  # the affine part must be found again
    affine, warp, inverse = write_transform(tmp_path / "out_", whole, format="ants", fixed=fixed)
    assert [p.name[4:] for p in (affine, warp, inverse)] == ["0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz"]
    found = warped_by_ants(ants, tmp_path, fixed, moving, [warp, affine], [False, False])
    assert difference(found, whole, fixed, moving) < LIMIT
    back = read_transform(tmp_path / "out_")
    assert difference(found, back, fixed, moving) < LIMIT
    assert difference(found, read_transforms([warp, affine]), fixed, moving) < LIMIT
    inner = moving.cropped([slice(n // 2 - 2, n // 2 + 2) for n in moving.shape])
    found = warped_by_ants(ants, tmp_path, inner, fixed, [affine, inverse], [True, False])
    assert difference(found, back.inverse(), inner, fixed) < LIMIT
    assert difference(found, read_transforms([affine, inverse], invert=[True, False]), inner, fixed) < LIMIT
    assert difference(found, whole.inverse(inner), inner, fixed) < 3 * LIMIT  # of another lattice
    np.testing.assert_allclose(back.inverse().points(back.points(inner_points(fixed))), inner_points(fixed), atol=0.1)


@pytest.mark.parametrize("case", ["left-handed", "flat"])
def test_ants_applies_our_composite(tmp_path, ants, case):
    fixed, moving = GRIDS[case]
    ours = some_transform(fixed)
    write_transform(tmp_path / "t.h5", ours)
    found = warped_by_ants(ants, tmp_path, fixed, moving, [tmp_path / "t.h5"], [False])
    assert difference(found, ours, fixed, moving) < LIMIT


@pytest.mark.slow
def test_a_registration_of_ants_is_read(tmp_path, ants):
    fixed, moving = GRIDS["left-handed"]
    fixed = fixed.resampled([0.8, 0.8, 1.0])
    for name, grid, width in (("f", fixed, [6.0, 5, 7]), ("m", moving, [5.0, 6.5, 6])):
        blob = np.exp(-((((grid.points() - fixed.center) / width) ** 2).sum(-1)))
        write_image(tmp_path / f"{name}.nii.gz", torch.from_numpy(blob).float(), grid)
    images = [ants.image_read(str(tmp_path / f"{name}.nii.gz")) for name in "fm"]
    ants.registration(*images, "SyN", outprefix=str(tmp_path / "reg_"), random_seed=1, reg_iterations=(5, 5))
    names = [tmp_path / f"reg_{end}" for end in ("1Warp.nii.gz", "0GenericAffine.mat")]
    found = warped_by_ants(ants, tmp_path, fixed, moving, names, [False, False])
    read = read_transform(tmp_path / "reg_")
    assert not read.is_affine and read.inverse_steps is not None
    seen = found.any(-1)
    ours = read.points(fixed.points()[seen])
    assert np.linalg.norm(found[seen] - ours, axis=1).mean() < LIMIT and seen.mean() > 0.5


def test_the_list_is_in_the_order_of_ants_apply_transforms(tmp_path, ants):
    """Two maps that do not commute."""
    fixed, moving = GRIDS["right-handed"]
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    move = np.eye(4)
    move[:3, 3] = 4.0, -3.0, 2.0
    for name, matrix in (("turn", turn), ("move", move)):
        write_transform(tmp_path / f"{name}.mat", SpatialTransform.of_affine(matrix))
    names = [tmp_path / "turn.mat", tmp_path / "move.mat"]
    found = warped_by_ants(ants, tmp_path, fixed, moving, names, [False, False])
    ours = read_transforms(names)
    np.testing.assert_allclose(ours.matrix, move @ turn, atol=1e-12)  # points: the first first
    assert difference(found, ours, fixed, moving) < LIMIT
    found = warped_by_ants(ants, tmp_path, fixed, moving, names, [False, True])
    assert difference(found, read_transforms(names, invert=[False, True]), fixed, moving) < LIMIT


def test_affine_maps_alone_are_one_file_of_ants(tmp_path):
    ours = SpatialTransform.of_affine(some_affine(3))
    assert [p.name for p in write_transform(tmp_path / "a", ours, format="ants")] == ["a0GenericAffine.mat"]
    np.testing.assert_allclose(read_transform(tmp_path / "a").matrix, ours.matrix, atol=1e-12)


@pytest.mark.parametrize("suffix", [".h5", ".nrrd", ".mha"])
def test_itk_files_keep_sheared_grids(tmp_path, sitk, suffix):
    affine = np.diag([1.2, 1.5, 2.0, 1.0])
    affine[0, 1] = 0.4
    fixed = Grid((14, 12, 8), affine)
    ours = SpatialTransform.of_field(smooth_field(fixed), fixed)
    write_transform(tmp_path / f"t{suffix}", ours)
    points = inner_points(fixed)
    np.testing.assert_allclose(read_transform(tmp_path / f"t{suffix}").points(points), ours.points(points), atol=1e-4)
    if suffix == ".h5":
        theirs = sitk.ReadTransform(str(tmp_path / "t.h5"))
    else:
        theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / f"t{suffix}"), sitk.sitkVectorFloat64))
    np.testing.assert_allclose(mapped_by_sitk(theirs, points), ours.points(points), atol=1e-4)


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_single_classes_of_itk_read_the_same_field(tmp_path, sitk, monkeypatch, case, suffix):
    fixed, _ = GRIDS[case]
    ours = SpatialTransform.of_field(smooth_field(fixed), fixed)
    write_transform(tmp_path / f"single{suffix}", ours)
    image = sitk.ReadImage(str(tmp_path / f"single{suffix}"))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat64), str(tmp_path / f"double{suffix}"))
    with (tmp_path / f"short{suffix}").open("wb") as short:
        short.write((tmp_path / f"single{suffix}").read_bytes()[:-500])
    names = [f"{name}{suffix}" for name in ("single", "double")]
    expected = [read_transform(tmp_path / name).steps[0] for name in names]
    monkeypatch.setattr(itk_fields, "load_simpleitk", lambda: None)
    assert itk_fields._light(tmp_path / f"short{suffix}") is None
    monkeypatch.setattr(itk_fields, "read_stored", None)  # not asked
    for name, step in zip(names, expected, strict=True):
        found = read_transform(tmp_path / name).steps[0]
        torch.testing.assert_close(found.displacement, step.displacement, rtol=0, atol=0)
        np.testing.assert_allclose(found.grid.affine, step.grid.affine, atol=1e-9)


def test_what_nifti_and_ants_cannot_hold_of_shear(tmp_path, caplog):
    affine = np.diag([1.2, 1.5, 2.0, 1.0])
    affine[0, 1] = 0.4
    fixed = Grid((14, 12, 8), affine)
    ours = SpatialTransform.of_field(smooth_field(fixed), fixed)
    with caplog.at_level(logging.WARNING):
        write_transform(tmp_path / "t.nii.gz", ours)
    assert "ITK" in caplog.text
    with pytest.raises(InputError, match=r"out_: .*right angles.*\.h5 or \.nrrd"):
        write_transform(tmp_path / "out_", ours, format="ants")
    assert [p.name for p in tmp_path.iterdir()] == ["t.nii.gz"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.h5", b"not HDF5", "is not an HDF5 file"),
        ("t.h5", b"\x89HDF\r\n\x1a\n", ".*complete .*\\.h5"),
        ("t.tfm", b"", "does not begin with '#Insight"),
        ("t.tfm", b"#Insight Transform File V1.0\n", "holds 0 transforms"),
        ("t.tfm", b"#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n", "has no line 'Parameters'"),
        ("t.mat", b"\0" * 20, "is not a complete MATLAB file of version 4"),
        ("t.mat", b"\0\0\0\0\x0c\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0A\0", "ends too early"),
        ("t.nrrd", b"NRRD0004\n", "cannot be read"),
        ("t.mha", b"", "(cannot be read|its header is invalid)"),
        ("t.nii.gz", b"\x1f\x8b", "Cannot work out"),
    ],
)
def test_broken_files(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {words}") as caught:
        read_transform(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_truncated_files(tmp_path):
    fixed, _ = GRIDS["mixed"]
    for suffix in (".h5", ".nii.gz", ".nii", ".nrrd", ".mha"):
        path = tmp_path / f"t{suffix}"
        write_transform(path, some_transform(fixed), fixed=fixed)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=rf"t{suffix}: "):
            read_transform(path)


def affine_text(*numbers: str) -> str:
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    return f"{head}Parameters: {' '.join(numbers)}\nFixedParameters: 0 0 0\n"


@pytest.mark.parametrize("numbers", [["0"] * 12, ["nan"] * 12, ["1"] * 12])
def test_singular_and_undefined_affine_maps(tmp_path, numbers):
    (tmp_path / "a.tfm").write_text(affine_text(*numbers))
    with pytest.raises(InputError, match=r"a\.tfm: .*(singular|finite|cannot read)"):
        read_transform(tmp_path / "a.tfm")


def test_files_that_do_not_fit(tmp_path, sitk):
    fixed, _ = GRIDS["mixed"]
    flat, _ = GRIDS["flat"]
    write_transform(tmp_path / "t.h5", some_transform(fixed))
    write_displacement_field(tmp_path / "f.nii.gz", smooth_field(fixed), fixed)
    for name in ("t.h5", "f.nii.gz"):
        with pytest.raises(InputError, match=rf"{name}: .*3 dimensions, the image 2"):
            read_transform(tmp_path / name, fixed=flat)
    with pytest.raises(InputError, match="dimensions"):
        write_transform(tmp_path / "x.h5", some_transform(fixed), fixed=flat)
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 2), str(tmp_path / "two.mha"))
    with pytest.raises(InputError, match=r"two\.mha: has 3 axes and 2 components"):
        read_transform(tmp_path / "two.mha")
    four = sitk.TranslationTransform(3, [np.nan] * 3)
    sitk.WriteTransform(four, str(tmp_path / "nan.h5"))
    with pytest.raises(InputError, match=r"nan\.h5: .*finite"):
        read_transform(tmp_path / "nan.h5")
