# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results as transforms, points and objects of other libraries, which must do with them what we do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.geometry import AffineStep, FieldStep, SpatialTransform, inside
from monai_locor.io import read_displacement_field, read_transform
from monai_locor.io.libraries import from_library
from monai_locor.registration import RegistrationConfig, RegistrationResult

from ..io.library_objects import itk, sitk, sitk_image
from ..io.test_libraries import through_library
from ..io.transform_cases import GRIDS, inner_points, smooth_field, some_affine


def made(place: str, deformed: bool = True) -> RegistrationResult:
    """A result of this transform, without its registration."""
    fixed, moving = GRIDS[place]
    affine = AffineStep(some_affine(fixed.dims))
    steps = (FieldStep(smooth_field(fixed), fixed), affine) if deformed else (affine,)
    forward, inverse = SpatialTransform(steps), SpatialTransform(steps).inverse(moving)
    image = torch.from_numpy(np.sin(moving.points() @ [0.1, 0.15, 0.12][: moving.dims]))[None].float()
    other = torch.from_numpy(np.cos(fixed.points() @ [0.1, 0.15, 0.12][: moving.dims]))[None].float()
    return RegistrationResult(
        affine=affine.matrix,
        forward_mm=forward.displacement(fixed),
        inverse_mm=inverse.displacement(moving),
        warped_moving=forward.warp(image, moving, fixed),
        warped_fixed=inverse.warp(other, fixed, moving),
        fixed_grid=fixed,
        moving_grid=moving,
        history=[],
        jacobian={},
        config=RegistrationConfig(transform="deformable" if deformed else "affine"),
        seed=0,
        seconds=0.0,
        fixed_image=None,
        moving_image=image,
    )


@pytest.fixture(scope="module", params=GRIDS)
def result(request) -> RegistrationResult:
    return made(request.param)


def test_the_transform_is_that_of_the_fields(result):
    points = inner_points(result.fixed_grid)
    field = SpatialTransform.of_field(result.forward_mm, result.fixed_grid)
    np.testing.assert_allclose(result.transform.points(points), field.points(points), atol=2e-2)
    torch.testing.assert_close(result.transform.displacement(result.fixed_grid), result.forward_mm, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.transform.inverse().displacement(result.moving_grid), result.inverse_mm)
    assert result.transform is result.transform  # computed once


def test_it_goes_on_beyond_the_grid_as_the_affine(result):
    far = result.fixed_grid.center[None] + 1000
    np.testing.assert_allclose(result.transform.points(far), far @ result.affine[:-1, :-1].T + result.affine[:-1, -1])


def test_points_go_there_and_back(result):
    points = inner_points(result.fixed_grid)
    there = result.transform_points(points)
    np.testing.assert_allclose(there, result.transform.points(points))
    np.testing.assert_allclose(result.transform_points(there, inverse=True), points, atol=0.1)
    np.testing.assert_allclose(result.transform_points(points.tolist()), there)
    np.testing.assert_allclose(result.transform_points(points[0]), there[0])
    assert isinstance(result.transform_points(torch.from_numpy(points)), torch.Tensor)
    with pytest.raises(ValueError, match="points must be"):
        result.transform_points(np.zeros((4, 5)))


@pytest.mark.parametrize("deformed", [True, False])
@pytest.mark.parametrize("place", GRIDS)
def test_transform_objects_map_points_as_we_do(place, deformed):
    result = made(place, deformed)
    there, back = inner_points(result.fixed_grid), inner_points(result.moving_grid)
    for export in (result.to_sitk, result.to_itk):
        np.testing.assert_allclose(through_library(export(), there), result.transform_points(there), atol=1e-3)
        inverse = through_library(export("inverse"), back)
        np.testing.assert_allclose(inverse, result.transform_points(back, inverse=True), atol=1e-3)
    assert result.transform.is_affine != deformed
    assert isinstance(result.to_sitk(), sitk.CompositeTransform if deformed else sitk.AffineTransform)


def test_simpleitk_resamples_the_moving_image_as_we_do(result):
    moving, fixed = result.moving_grid, result.fixed_grid
    image = sitk_image(result.moving_image[0].double().numpy(), moving)
    grid = sitk_image(np.zeros(fixed.shape), fixed)
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, grid, result.to_sitk(), sitk.sitkLinear)).T
    points = torch.from_numpy(fixed.points().reshape(-1, fixed.dims)) + result.forward_mm.flatten(1).T
    voxels = torch.from_numpy(np.linalg.inv(moving.affine)) @ torch.cat((points.T, torch.ones(1, len(points))))
    here = inside(voxels[:-1], moving.shape, margin=0.01).numpy().reshape(fixed.shape)
    assert here.mean() > 0.9
    np.testing.assert_allclose(result.warped_moving[0].numpy()[here], theirs[here], atol=1e-4)


@pytest.mark.parametrize("what", ["warped_moving", "warped_fixed"])
def test_images_of_all_libraries_are_ours(result, what):
    image, grid = getattr(result, what), result.fixed_grid if what == "warped_moving" else result.moving_grid
    for export in (result.to_nibabel, result.to_sitk, result.to_itk):
        found = from_library(export(what), "image")
        np.testing.assert_array_equal(found.voxels[..., 0].reshape(grid.shape), image[0].numpy())
        dims = grid.dims
        np.testing.assert_allclose(found.affine[:dims, :dims], grid.affine[:dims, :dims], atol=1e-5)
        np.testing.assert_allclose(found.affine[:dims, 3], grid.affine[:dims, dims], atol=1e-4)


def test_fields_of_nibabel_are_those_of_files(result, tmp_path):
    for what, field in (("forward_field", result.forward_mm), ("inverse_field", result.inverse_mm)):
        result.to_nibabel(what).to_filename(tmp_path / "field.nii.gz")
        torch.testing.assert_close(read_displacement_field(tmp_path / "field.nii.gz")[0], field)


def test_written_transform_objects_are_read_again(result, tmp_path):
    sitk.WriteTransform(result.to_sitk(), str(tmp_path / "sitk.h5"))
    itk.transformwrite([result.to_itk()], str(tmp_path / "itk.h5"))
    points = inner_points(result.fixed_grid)
    for name in ("sitk.h5", "itk.h5"):
        np.testing.assert_allclose(read_transform(tmp_path / name).points(points), result.transform_points(points), atol=1e-3)


def test_what_is_not_there_is_refused(result):
    for export in (result.to_sitk, result.to_itk, result.to_nibabel):
        with pytest.raises(InputError, match=r"'warp' cannot be converted; choose one of .*warped_moving"):
            export("warp")


def test_a_changed_result_has_its_own_transform(result):
    moved = dataclasses.replace(result, forward_mm=result.forward_mm + 1, affine=result.affine)
    points = inner_points(result.fixed_grid)
    np.testing.assert_allclose(moved.transform_points(points), result.transform_points(points) + 1, atol=1e-3)
