# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""nitransforms, an independent reader, maps points as we do, and we as it does."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io.transforms import read_transform, write_transform

from .transform_cases import GRIDS, SOLID, inner_points, some_affine, some_transform

nitransforms = pytest.importorskip("nitransforms")
LIMIT_MM = 1e-3


def image_of(grid: Grid) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(grid.shape, np.float32), grid.affine)


def grid_nodes(grid: Grid) -> np.ndarray:
    """Positions of voxels inside, where no interpolation is needed: nitransforms' is cubic."""
    return grid.points()[2:-2:3, 2:-2:3, 2:-2:2].reshape(-1, 3)


@pytest.mark.parametrize("grids", SOLID)
@pytest.mark.parametrize(("ours", "theirs", "suffix"), [("itk", "itk", ".tfm"), ("x5", "X5", ".x5"), ("flirt", "fsl", ".mat")])
def test_affine(tmp_path, grids, ours, theirs, suffix):
    fixed, moving = GRIDS[grids]
    path, matrix = tmp_path / f"t{suffix}", some_affine(3)
    write_transform(path, SpatialTransform.of_affine(matrix), format=ours, fixed=fixed, moving=moving)
    images = {"reference": image_of(fixed), "moving": image_of(moving)}
    found = nitransforms.linear.Affine.from_filename(str(path), fmt=theirs, **images)
    points = inner_points(fixed)
    expected = points @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.abs(found.map(points) - expected).max() < LIMIT_MM


@pytest.mark.parametrize("grids", SOLID)
def test_field(tmp_path, grids):
    fixed, _ = GRIDS[grids]
    transform = some_transform(fixed)
    write_transform(tmp_path / "t.nii.gz", transform, fixed=fixed)
    found = nitransforms.nonlinear.DenseFieldTransform.from_filename(str(tmp_path / "t.nii.gz"), fmt="itk")
    points = grid_nodes(fixed)
    assert np.abs(found.map(points) - transform.points(points)).max() < LIMIT_MM


@pytest.mark.parametrize("grids", SOLID)
@pytest.mark.parametrize("suffix", [".x5", ".h5"])
def test_chain(tmp_path, grids, suffix):
    fixed, _ = GRIDS[grids]
    transform, path = some_transform(fixed), tmp_path / f"t{suffix}"
    write_transform(path, transform, fixed=fixed)
    found = nitransforms.manip.TransformChain.from_filename(str(path), fmt="X5" if suffix == ".x5" else "itk")
    points = grid_nodes(fixed)
    assert np.abs(found.map(points) - transform.points(points)).max() < LIMIT_MM


@pytest.mark.parametrize("grids", SOLID)
def test_its_files(tmp_path, grids):
    fixed, _ = GRIDS[grids]
    transform = some_transform(fixed)
    field = np.moveaxis(transform.steps[0].array, 0, -1).astype(np.float64)
    dense = nitransforms.nonlinear.DenseFieldTransform(field, is_deltas=True, reference=image_of(fixed))
    affine = nitransforms.linear.Affine(transform.steps[1].matrix, reference=image_of(fixed))
    nitransforms.manip.TransformChain([dense, affine]).to_filename(str(tmp_path / "t.x5"), fmt="X5")
    points = inner_points(fixed)
    np.testing.assert_allclose(read_transform(tmp_path / "t.x5").points(points), transform.points(points), atol=LIMIT_MM)
