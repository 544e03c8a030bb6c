# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Fields and affines in files: read by ITK alone they must do what they do here."""

from __future__ import annotations

import itertools
import logging

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, apply_affine
from monai_locor.io import (
    read_affine,
    read_displacement_field,
    write_affine,
    write_displacement_field,
    write_image,
)

from ..phantoms import turned

HEADER = "#Insight Transform File V1.0\n#Transform 0\n"
ORDERS = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product([False, True], repeat=3)]

FIXED = {
    2: turned(0.4, (1.0, -1.5), (12, 10)),
    3: turned(0.3, (1.0, -1.5, 3.0), (12, 10, 6)),
}
MOVING = {
    2: turned(-0.2, (-0.8, 1.1), (60, 50)),
    3: turned(-0.2, (-0.8, 1.1, 1.3), (60, 50, 40)),
}


def smooth_field(grid: Grid) -> torch.Tensor:
    """``(D, *shape)``, RAS mm, a different function in each component."""
    world = grid.points()
    return torch.from_numpy(
        np.stack([3 * np.sin(world @ np.arange(1.0, grid.dims + 1) / 20 + k) + k for k in range(grid.dims)])
    )


def moving_image(grid: Grid) -> np.ndarray:
    return np.cos(grid.points() @ np.array([0.2, 0.3, 0.25])[: grid.dims]).astype(np.float32)


def read_with_itk(path, pixel, dims):
    reader = itk.ImageFileReader[itk.Image[pixel, dims]].New(FileName=str(path))
    reader.Update()
    return reader.GetOutput()


def warp_with_itk(moving, vectors, dims):
    image, field = itk.Image[itk.F, dims], itk.Image[itk.Vector[itk.F, dims], dims]
    warp = itk.WarpImageFilter[image, image, field].New(moving, DisplacementField=vectors)
    warp.SetOutputParametersFromImage(vectors)
    warp.Update()
    return itk.array_from_image(warp.GetOutput()).T


def resample_with_itk(moving, transform, reference):
    return itk.array_from_image(
        itk.resample_image_filter(moving, transform=transform, reference_image=reference, use_reference_image=True)
    ).T


def resample_directly(image: np.ndarray, grid: Grid, world: np.ndarray) -> np.ndarray:
    voxels = apply_affine(np.linalg.inv(grid.affine), world)
    return ndimage.map_coordinates(image, np.moveaxis(voxels, -1, 0), order=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_itk_alone_resamples_with_the_field(tmp_path, dims):
    fixed, moving = FIXED[dims], MOVING[dims]
    image, field = moving_image(moving), smooth_field(fixed)
    write_image(tmp_path / "moving.nii.gz", torch.from_numpy(image), moving)
    write_displacement_field(tmp_path / "field.nii.gz", field, fixed)
    vectors = read_with_itk(tmp_path / "field.nii.gz", itk.Vector[itk.F, dims], dims)
    warped = warp_with_itk(read_with_itk(tmp_path / "moving.nii.gz", itk.F, dims), vectors, dims)
    expected = resample_directly(image, moving, fixed.points() + np.moveaxis(field.numpy(), 0, -1))
    assert np.abs(expected).min() < 0.5  # the field lands inside the moving image, on something to see
    np.testing.assert_allclose(warped, expected, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_itk_chooses_a_vector_image_by_itself(tmp_path, dims):
    write_displacement_field(tmp_path / "field.nii.gz", smooth_field(FIXED[dims]), FIXED[dims])
    image = itk.imread(str(tmp_path / "field.nii.gz"))
    assert image.GetImageDimension() == dims and image.GetNumberOfComponentsPerPixel() == dims


@pytest.mark.slow
def test_itk_reads_the_field_the_same_in_all_48_axis_orders(tmp_path):
    path = tmp_path / "field.nii"
    point = np.array([4.0, -3.0, 6.0])
    for axes, flips in ORDERS:
        grid = FIXED[3].reordered(axes, flips)
        field = torch.from_numpy(np.moveaxis(grid.points() * [0.1, 0.2, -0.3], -1, 0).copy())
        write_displacement_field(path, field, grid)
        vectors = read_with_itk(path, itk.Vector[itk.F, 3], 3)
        transform = itk.DisplacementFieldTransform[itk.F, 3].New(DisplacementField=vectors)
        lps = np.array(transform.TransformPoint((point * [-1, -1, 1]).tolist()))
        np.testing.assert_allclose(lps * [-1, -1, 1], point * [1.1, 1.2, 0.7], atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_header_of_a_field(tmp_path, dims):
    write_displacement_field(tmp_path / "field.nii.gz", smooth_field(FIXED[dims]), FIXED[dims])
    image = nib.load(tmp_path / "field.nii.gz")
    assert image.shape == {2: (12, 10, 1, 1, 2), 3: (12, 10, 6, 1, 3)}[dims]
    assert int(image.header["intent_code"]) == 1007 and image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_fields_come_back(tmp_path, dims, suffix):
    field = smooth_field(FIXED[dims])
    write_displacement_field(tmp_path / f"f{suffix}", field, FIXED[dims])
    back, grid = read_displacement_field(tmp_path / f"f{suffix}")
    assert back.dtype == torch.float32 and grid.shape == FIXED[dims].shape
    torch.testing.assert_close(back, field.float())
    np.testing.assert_allclose(grid.affine, FIXED[dims].affine, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [f"f{suffix}"]


def test_a_field_of_one_slice_stays_three_dimensional(tmp_path):
    grid = turned(0.1, (1.0, 1.0, 3.0), (6, 5, 1))
    write_displacement_field(tmp_path / "f.nii", smooth_field(grid), grid)
    back, read = read_displacement_field(tmp_path / "f.nii")
    assert back.shape == (3, 6, 5, 1) and read.shape == (6, 5, 1)


def test_fields_of_other_tools_are_read(tmp_path):
    grid = FIXED[3]
    ras = smooth_field(grid).float()
    image = nib.Nifti1Image(np.moveaxis(ras.numpy(), 0, -1)[:, :, :, None], grid.affine)
    image.header.set_intent(1006)  # components in RAS
    nib.save(image, tmp_path / "ras.nii")
    torch.testing.assert_close(read_displacement_field(tmp_path / "ras.nii")[0], ras)
    vectors = read_with_itk(tmp_path / "ras.nii", itk.Vector[itk.F, 3], 3)
    itk.imwrite(vectors, str(tmp_path / "itk.nii.gz"))
    back, read = read_displacement_field(tmp_path / "itk.nii.gz")
    torch.testing.assert_close(back, ras)
    np.testing.assert_allclose(read.affine, grid.affine, atol=1e-5)


def test_a_sheared_field_is_written_with_a_warning(tmp_path, caplog):
    affine = np.eye(4)
    affine[0, 1] = 0.2
    grid = Grid((4, 5, 6), affine)
    with caplog.at_level(logging.WARNING):
        write_displacement_field(tmp_path / "f.nii.gz", smooth_field(grid), grid)
    assert "right angles" in caplog.text and "ITK" in caplog.text
    np.testing.assert_allclose(read_displacement_field(tmp_path / "f.nii.gz")[1].affine, affine, atol=1e-6)


def test_fields_that_cannot_be_written(tmp_path):
    field = smooth_field(FIXED[3])
    with pytest.raises(ValueError, match=r"\(3, 12, 10, 6\).*\(12, 10\)"):
        write_displacement_field(tmp_path / "f.nii", field, FIXED[2])
    with pytest.raises(InputError, match=r"f\.mha.*\.nii"):
        write_displacement_field(tmp_path / "f.mha", field, FIXED[3])
    field[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        write_displacement_field(tmp_path / "f.nii", field, FIXED[3])
    assert list(tmp_path.iterdir()) == []


def bad_field(path, shape, intent=1007, value=0.0, affine=None):
    image = nib.Nifti1Image(np.full(shape, value, dtype=np.float32), np.eye(4))
    image.header.set_intent(intent)
    if affine is not None:
        image.header.set_sform(affine, code=1)
    image.header["vox_offset"] = 352
    path.write_bytes(image.header.binaryblock + bytes(4) + np.asarray(image.dataobj).tobytes(order="F"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (4, 5, 6)}, r"\(4, 5, 6\)"),
        ({"shape": (4, 5, 6, 3)}, r"\(4, 5, 6, 3\)"),
        ({"shape": (4, 5, 6, 2, 3)}, r"\(4, 5, 6, 2, 3\)"),
        ({"shape": (4, 5, 6, 1, 2)}, r"\(4, 5, 6, 1, 2\)"),
        ({"shape": (4, 5, 6, 1, 3), "intent": 0}, "intent 0"),
        ({"shape": (4, 5, 6, 1, 3), "value": np.nan}, "NaN"),
        ({"shape": (4, 5, 6, 1, 3), "affine": np.diag([1.0, 0, 1, 1])}, "affine"),
    ],
)
def test_files_that_are_no_fields(tmp_path, options, words):
    bad_field(tmp_path / "f.nii", **options)
    with pytest.raises(InputError, match=rf"^displacement field .*f\.nii: .*{words}") as caught:
        read_displacement_field(tmp_path / "f.nii")
    assert "\n" not in str(caught.value)


def test_missing_and_broken_fields(tmp_path):
    with pytest.raises(InputError, match="no such NIfTI"):
        read_displacement_field(tmp_path / "missing.nii")
    (tmp_path / "text.nii").write_text("not an image")
    with pytest.raises(InputError, match="cannot be read"):
        read_displacement_field(tmp_path / "text.nii")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1, 3), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(InputError, match="complex64"):
        read_displacement_field(tmp_path / "complex.nii")


def some_affine(dims: int) -> np.ndarray:
    matrix = np.eye(dims + 1)
    matrix[:dims] += np.random.default_rng(dims).normal(size=(dims, dims + 1)) * 0.1
    matrix[:dims, -1] *= 100
    return matrix


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".mat"])
@pytest.mark.parametrize("dims", [2, 3])
def test_itk_maps_points_with_the_affine(tmp_path, dims, suffix):
    matrix, path = some_affine(dims), tmp_path / f"affine{suffix}"
    write_affine(path, matrix)
    transform = itk.transformread(str(path))[0]
    points = np.random.default_rng(0).normal(size=(20, dims)) * 50
    flip = np.array([-1.0, -1.0, 1.0])[:dims]
    mapped = np.array([transform.TransformPoint(p.tolist()) for p in points * flip]) * flip
    np.testing.assert_allclose(mapped, apply_affine(matrix, points), atol=1e-9)
    np.testing.assert_allclose(read_affine(path), matrix, atol=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_itk_alone_resamples_with_the_affine(tmp_path):
    fixed, moving, matrix = FIXED[3], MOVING[3], some_affine(3)
    image = moving_image(moving)
    write_image(tmp_path / "moving.nii", torch.from_numpy(image), moving)
    write_image(tmp_path / "fixed.nii", torch.zeros(fixed.shape), fixed)
    write_affine(tmp_path / "a.tfm", matrix)
    transform = itk.transformread(str(tmp_path / "a.tfm"))[0]
    images = [read_with_itk(tmp_path / name, itk.F, 3) for name in ("moving.nii", "fixed.nii")]
    expected = resample_directly(image, moving, apply_affine(matrix, fixed.points()))
    warped = resample_with_itk(images[0], transform, images[1])
    inside = expected != 0
    assert inside.mean() > 0.5
    np.testing.assert_allclose(warped[inside], expected[inside], atol=1e-3)


def test_a_center_of_rotation_is_honored(tmp_path):
    text = "Transform: Euler3DTransform_double_3_3\nParameters: 0.1 0.2 0.3 1 2 3\nFixedParameters: 5 6 7 0\n"
    (tmp_path / "rigid.txt").write_text(HEADER + text)
    transform = itk.transformread(str(tmp_path / "rigid.txt"))[0]
    flip = np.array([-1.0, -1.0, 1.0])
    expected = np.array(transform.TransformPoint((np.array([10.0, 20, 30]) * flip).tolist())) * flip
    np.testing.assert_allclose(apply_affine(read_affine(tmp_path / "rigid.txt"), np.array([10.0, 20, 30])), expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Transform: ThinPlateSplineKernelTransform_double_3_3\nParameters: 1 2 3\nFixedParameters: \n", "ThinPlateSpline"),
        (2 * "Transform: AffineTransform_double_2_2\nParameters: 1 0 0 1 0 0\nFixedParameters: 0 0\n", "one affine"),
        ("Transform: AffineTransform_double_2_2\nParameters: 1 1 1 1 0 0\nFixedParameters: 0 0\n", "singular"),
        ("nothing\n", "unexpected line 'nothing'"),
    ],
    ids=["other", "two", "singular", "junk"],
)
def test_files_that_are_no_affine(tmp_path, text, words):
    (tmp_path / "a.tfm").write_text(HEADER + text)
    with pytest.raises(InputError, match=rf"^affine .*a\.tfm: .*{words}") as caught:
        read_affine(tmp_path / "a.tfm")
    assert "\n" not in str(caught.value)


def test_affines_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_affine(tmp_path / "missing.tfm")
    with pytest.raises(InputError, match=r"a\.json.*\.tfm"):
        write_affine(tmp_path / "a.json", np.eye(4))
    for wrong in (np.eye(5), np.eye(4)[:3], np.full((4, 4), np.nan), np.ones((4, 4))):
        with pytest.raises(ValueError, match="3x3 or 4x4"):
            write_affine(tmp_path / "a.tfm", wrong)
    assert list(tmp_path.iterdir()) == []
