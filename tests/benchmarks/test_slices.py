# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The truth of `benchmarks/slices.py`."""

import itk
import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from .cases import scripts

SHAPE = (40, 36, 10)


@pytest.fixture
def script(monkeypatch):
    return scripts(monkeypatch, "slices").slices


def test_the_displacement_tells_where_a_pixel_was(script):
    image = gaussian_filter(np.random.default_rng(0).normal(size=(60, 50)), 2.0)
    seen, displacement = script.deformed(image, 0.8, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"))
    np.testing.assert_allclose(seen, map_coordinates(image, grid + displacement / 0.8, order=1), atol=1e-12)
    assert 2 < np.linalg.norm(displacement, axis=0).mean() < 15
    determinant = np.linalg.det(
        np.stack([np.stack(np.gradient(row, 0.8)) for row in displacement]).transpose(2, 3, 0, 1) + np.eye(2)
    )
    assert determinant.min() > 0.1


def test_both_slices_show_the_same_points(script, tmp_path):
    """Intensities tell the position: x in the one image, seen through the rigid transform in the other."""
    affine = np.diag([-0.8, 0.9, 4.0, 1.0])
    x, y, z = np.moveaxis(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) @ affine[:3, :3].T, -1, 0)
    shift = np.array([3.0, -2.0, 1.0])  # RAS, from FLAIR to the other scan
    rigid = itk.VersorRigid3DTransform[itk.D].New()
    rigid.SetTranslation((shift * (-1, -1, 1)).tolist())
    for visit in script.VISITS:
        nib.save(nib.Nifti1Image((x + 2 * y + 3 * z).astype(np.float32), affine), tmp_path / f"visit{visit}_FLAIR.nii.gz")
        for contrast in script.CONTRASTS:
            values = (x - shift[0]) + 2 * (y - shift[1]) + 3 * (z - shift[2])
            nib.save(nib.Nifti1Image(values.astype(np.float32), affine), tmp_path / f"visit{visit}_{contrast}.nii.gz")
            itk.transformwrite([rigid], str(tmp_path / f"visit{visit}_{contrast}_to_FLAIR.txt"))
    pairs = list(script.slices(tmp_path))
    assert len(pairs) == 8
    for pair in pairs:
        inside = (slice(6, -6), slice(6, -6))
        np.testing.assert_allclose(pair.moving[inside], pair.fixed[inside], atol=1e-3)
        assert pair.spacing == pytest.approx(0.8)
