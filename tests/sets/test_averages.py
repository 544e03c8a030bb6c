# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Means of affine maps, velocities, grids and images."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter

from monai_locor import InputError
from monai_locor.geometry import SpatialTransform, apply_affine
from monai_locor.sets.averages import exponential_mm, mean_affine, mean_grid, mean_velocity
from monai_locor.sets.frames import rotation_angles
from monai_locor.sets.mean_image import MAX_SHARPENING, gradient_energy, mean_image, sharpening_gain
from monai_locor.sets.subjects import Subject

from ..phantoms import grid_of, turned
from .serial import shifted, write_phantom

RNG = np.random.default_rng(3)


def affine(seed: int, size: float = 0.3, rigid: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    log = np.zeros((4, 4))
    log[:3] = rng.uniform(-size, size, (3, 4)) * [1, 1, 1, 20]
    if rigid:
        log[:3, :3] = (log[:3, :3] - log[:3, :3].T) / 2
    return expm(log)


class TestMeanAffine:
    def test_of_one_and_of_equal_maps(self):
        for count in (1, 3):
            np.testing.assert_allclose(mean_affine([affine(1)] * count), affine(1), atol=1e-9)

    def test_does_not_depend_on_the_order(self):
        maps = [affine(seed) for seed in range(5)]
        np.testing.assert_allclose(mean_affine(maps[::-1]), mean_affine(maps), atol=1e-8)

    def test_follows_changes_of_coordinates_on_both_sides(self):
        maps, left, right = [affine(seed) for seed in range(4)], affine(7, 0.8), affine(8, 0.8)
        expected = left @ mean_affine(maps) @ right
        np.testing.assert_allclose(mean_affine([left @ m @ right for m in maps]), expected, atol=1e-6)

    def test_of_inverses_is_the_inverse(self):
        maps = [affine(seed) for seed in range(4)]
        found = mean_affine([np.linalg.inv(m) for m in maps])
        np.testing.assert_allclose(found @ mean_affine(maps), np.eye(4), atol=1e-7)

    def test_of_two_rigid_maps_is_half_way_and_rigid(self):
        first, second = affine(1, rigid=True), affine(2, rigid=True)
        middle = mean_affine([first, second])
        np.testing.assert_allclose(np.linalg.solve(first, middle), np.linalg.solve(middle, second), atol=1e-8)
        np.testing.assert_allclose(middle[:3, :3] @ middle[:3, :3].T, np.eye(3), atol=1e-9)

    def test_half_a_turn_is_refused(self):
        with pytest.raises(InputError, match="differ by half a turn"):
            mean_affine([np.eye(4), np.diag([-1.0, -1, 1, 1])])


class TestMeanGrid:
    def test_of_one_image_is_its_grid(self):
        grid = grid_of((9, 8, 7))
        found = mean_grid([grid], [np.eye(4)])
        assert found.shape == grid.shape
        np.testing.assert_allclose(found.affine, grid.affine, atol=1e-9)

    @pytest.mark.parametrize("voxel_size", [None, 1.5])
    def test_half_way_between_two_fields_of_view(self, voxel_size):
        grids = [grid_of((9, 8, 7), center=(x, 0, 0)) for x in (-4.0, 6.0)]
        found = mean_grid(grids, [np.eye(4)] * 2, voxel_size)
        np.testing.assert_allclose(found.center, [1, 0, 0], atol=1e-9)
        np.testing.assert_allclose(found.spacing, voxel_size or 2.0)
        assert np.abs(found.extent - grids[0].extent).max() < 2 * found.spacing.max()

    def test_of_an_oblique_image_covers_it(self):
        grid = turned(0.2, (1.0, 2.0, 4.0), (12, 6, 3))
        found = mean_grid([grid], [np.eye(4)])
        np.testing.assert_allclose(found.spacing, 2.0)
        inside = apply_affine(np.linalg.inv(found.affine), grid.corners())
        assert (inside > -0.51).all() and (inside < np.array(found.shape) - 0.49).all()


class TestVelocities:
    GRID = grid_of((20, 18, 16), (2.0, 3.0, 2.5))

    def velocity(self, seed: int, largest: float = 4.0) -> torch.Tensor:
        noise = np.random.default_rng(seed).normal(size=(3, *self.GRID.shape))
        smooth = np.stack([gaussian_filter(n, 3.0) for n in noise])
        return torch.from_numpy(smooth / np.abs(smooth).max() * largest).float()

    def test_the_exponential_of_minus_v_is_the_inverse(self):
        v = self.velocity(1)
        there, back = (SpatialTransform.of_field(exponential_mm(s * v, self.GRID), self.GRID) for s in (1, -1))
        points = self.GRID.points()[5:-5, 5:-5, 5:-5].reshape(-1, 3)
        assert np.abs(there.points(points) - points).max() > 1
        assert np.abs(there.then(back).points(points) - points).max() < 0.1

    def test_of_a_constant_velocity_is_a_translation(self):
        v = torch.tensor([1.0, -2.0, 0.5])[:, None, None, None].expand(3, *self.GRID.shape)
        np.testing.assert_allclose(exponential_mm(v, self.GRID), v, atol=1e-5)

    def test_the_mean(self):
        parts = [self.velocity(seed) for seed in range(3)]
        torch.testing.assert_close(mean_velocity(iter(parts)), torch.stack(parts).mean(0))
        with pytest.raises(ValueError, match="no velocity"):
            mean_velocity([])


class TestMeanImage:
    GRID = grid_of((14, 14, 14), (3.0, 3.0, 3.0))

    def member(self, path, offset, **options):
        return Subject(path.stem, write_phantom(path, self.GRID, shifted(np.negative(offset)), **options)), shifted(offset)

    def test_of_equal_images_is_the_image(self, tmp_path):
        members = [self.member(tmp_path / f"{n}.nii", np.zeros(3)) for n in range(3)]
        found, one = (mean_image(some, self.GRID) for some in (members, members[:1]))
        assert found.gain == 0
        torch.testing.assert_close(found.values, one.values)
        assert float(found.coverage.min()) == 1

    def test_images_on_other_voxels_and_scales_count_alike(self, tmp_path):
        paths = [tmp_path / f"{n}.nii" for n in range(2)]
        members = [self.member(path, np.zeros(3)) for path in paths]
        stored = nib.load(paths[1])
        nib.save(nib.Nifti1Image(1000 * np.asarray(stored.dataobj) + 500, stored.affine), paths[1])
        one, both = mean_image(members[:1], self.GRID), mean_image(members, self.GRID)
        low, high = one.values.quantile(0.01), one.values.quantile(0.99)
        spread = (both.values.quantile(0.99) - both.values.quantile(0.01)) / (high - low)
        assert float(spread) == pytest.approx(500.5, rel=1e-3)
        a, b = (x.values.flatten() - x.values.mean() for x in (one, both))
        assert float(a @ b / (a.norm() * b.norm())) > 0.9999

    def test_aligned_images_of_different_places_give_the_image(self, tmp_path):
        offsets = [np.array([3.0, 0, 0]), np.array([-3.0, 0, 3.0]), np.array([0, 0, -3.0])]  # whole voxels
        members = [self.member(tmp_path / f"{n}.nii", offset) for n, offset in enumerate(offsets)]
        still = mean_image([self.member(tmp_path / "still.nii", np.zeros(3))], self.GRID)
        found = mean_image(members, self.GRID, sharpen=False)
        inner = (slice(None), *[slice(2, -2)] * 3)
        assert float((found.values - still.values)[inner].abs().max()) < 0.02 * float(still.values.max() - still.values.min())
        assert float(found.coverage[inner].min()) == pytest.approx(1) and float(found.coverage.min()) < 1

    def test_sharpening_restores_the_gradient_energy(self):
        values = torch.from_numpy(gaussian_filter(RNG.normal(size=(1, 20, 20)), (0, 1.5, 1.5)))
        weight = torch.ones_like(values)
        blurred = torch.from_numpy(gaussian_filter(values.numpy(), (0, 0.6, 0.6)))
        detail = blurred - torch.from_numpy(gaussian_filter(blurred.numpy(), (0, 1, 1)))
        wanted = gradient_energy(values, weight)
        gain = sharpening_gain(blurred, detail, weight, wanted)
        assert 0 < gain < MAX_SHARPENING
        assert gradient_energy(blurred + gain * detail, weight) == pytest.approx(wanted)
        assert sharpening_gain(blurred, detail, weight, 100 * wanted) == MAX_SHARPENING
        assert sharpening_gain(values, detail, weight, wanted / 2) == 0


@pytest.mark.parametrize("angles", [(5.0, -3.0, 10.0), (0.0, 0.0, -40.0)])
def test_angles_of_a_rotation(angles):
    from scipy.spatial.transform import Rotation

    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    np.testing.assert_allclose(rotation_angles(matrix), angles, atol=1e-9)
    np.testing.assert_allclose(rotation_angles(matrix[:2, :2])[0], angles[2], atol=0.5)
