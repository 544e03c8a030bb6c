# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One anatomy, however its voxels are stored and whatever its header says: the same transform in the world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from PIL import Image

from monai_locor import RegistrationResult
from monai_locor.data import deform, random_diffeomorphism
from monai_locor.geometry import Grid, reorder, to_voxels, warp
from monai_locor.io import read_displacement_field, read_image, write_displacement_field
from monai_locor.registration import RegistrationConfig, Stage

from ..phantoms import ORDERS, image
from .brains import CALM, Case, placed, rotation, run, template

WILD = RegistrationConfig(stages=(Stage(2, 4), Stage(1, 4, spacing=4, learning_rate=0.16)), multistart="never")
SEARCHED = replace(WILD, multistart="auto")  # finds another start for these images; takes five times as long
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned(case: Case, world: np.ndarray) -> tuple[MetaTensor, MetaTensor]:
    return placed(case.fixed, world), placed(case.moving, world)


@pytest.fixture(scope="module")
def oblique() -> tuple[MetaTensor, MetaTensor]:
    """No entry of the affines is exact in binary."""
    world = rotation(0.3, -0.2, 0.4)
    world[:3, 3] = [3.3, -7.7, 1.1]
    return turned(template(8.0), world)


@pytest.fixture(scope="module")
def expected(oblique) -> dict[str, RegistrationResult]:
    return {config.multistart: run(*oblique, config) for config in (WILD, SEARCHED)}


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor]:
    return template(8.0).fixed, template(8.0).moving


class TestStorageOrder:
    """The 48 orders of axis-aligned images are in ``test_engine.py``."""

    @pytest.mark.slow
    @pytest.mark.parametrize("number", range(1, len(ORDERS), 2))
    def test_every_oblique(self, oblique, expected, number):
        """Both images in another order each: in 24 pairs, one of the images has each order."""
        check_orders(oblique, expected, (ORDERS[number], ORDERS[(number + 17) % len(ORDERS)]), WILD)

    @pytest.mark.slow
    @pytest.mark.parametrize("numbers", [(0, 29), (38, 7)], ids=str)
    def test_with_a_search_for_the_start(self, oblique, expected, numbers):
        check_orders(oblique, expected, tuple(ORDERS[n] for n in numbers), SEARCHED)

    @pytest.mark.slow
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    def test_with_masks_in_the_same_order(self, oblique, role):
        images = dict(zip(("fixed", "moving"), oblique))
        masks = {name: image(i.as_tensor() > 0.05, Grid.of(i)) for name, i in images.items()}
        order = ORDERS[37]
        options = {f"{name}_mask": mask for name, mask in masks.items()}
        expected = run(*images.values(), WILD, **options)
        images[role], options[f"{role}_mask"] = stored(images[role], order), stored(masks[role], order)
        found = run(*images.values(), WILD, **options)
        fields = {"fixed": expected.forward_mm, "moving": expected.inverse_mm}
        fields[role] = reorder(fields[role], *order)
        assert torch.equal(found.forward_mm, fields["fixed"]) and torch.equal(found.inverse_mm, fields["moving"])


def stored(source: MetaTensor, order) -> MetaTensor:
    return image(reorder(source.as_tensor(), *order), Grid.of(source).reordered(*order))


def check_orders(images, expected, orders, config) -> None:
    """The same world transform, bit by bit."""
    expected = expected[config.multistart]
    found = run(*(stored(each, order) for each, order in zip(images, orders, strict=True)), config)
    assert torch.equal(found.forward_mm, reorder(expected.forward_mm, *orders[0]))
    assert torch.equal(found.inverse_mm, reorder(expected.inverse_mm, *orders[1]))
    # float64: moving the origin to another corner and back costs a last digit
    np.testing.assert_allclose(found.affine, expected.affine, rtol=0, atol=1e-12)
    assert float(found.forward_mm.std()) > 0.5


class TestSize:
    """From a brain of 0.18 mm to a phantom of 5.8 m."""

    @pytest.mark.slow
    def test_a_power_of_two_gives_the_same_bytes(self, images):
        scale = 2.0**-10
        expected, found = run(*images, SEARCHED), run(*resized(images, scale), SEARCHED)
        assert torch.equal(found.forward_mm, expected.forward_mm * scale)
        assert torch.equal(found.inverse_mm, expected.inverse_mm * scale)
        # float64: the last digit
        np.testing.assert_allclose(found.affine[:3, :3], expected.affine[:3, :3], rtol=0, atol=1e-14)

    @pytest.mark.slow
    @pytest.mark.parametrize("scale", [0.001, 28.0])
    def test_other_scales_agree_to_rounding(self, images, scale):
        """Rounding in float32 grows over the steps, to less than what any other lattice or number of samples would make."""
        expected, found = run(*images, CALM), run(*resized(images, scale), CALM)
        for a, b in ((found.forward_mm, expected.forward_mm), (found.inverse_mm, expected.inverse_mm)):
            error = (a / scale - b).norm(dim=0).flatten()
            check_rounding(error)
        assert float(expected.forward_mm.norm(dim=0).mean()) > 0.5

    @pytest.mark.slow
    def test_coarse_images_are_not_thrown_out_of_view(self, images):
        """A step of five voxels is a sixth of a field of view of thirty; the answer is right to a third of a voxel."""
        case, scale = template(8.0), 0.01
        found = run(*resized(images, scale))
        error = target_error(found.forward_mm / scale, case)
        assert case.before() > 6 and error < 8 / 3, (case.before(), error)


def check_rounding(error_mm: torch.Tensor) -> None:
    """95 % of the voxels of 8 mm agree to a 200th of a voxel; a lattice of another size gives 0.06 mm."""
    assert float(error_mm.quantile(0.95)) < 0.04 and float(error_mm.max()) < 0.055


def resized(images, scale: float) -> tuple[MetaTensor, MetaTensor]:
    return tuple(placed(i, np.diag([scale, scale, scale, 1.0])) for i in images)


def target_error(forward_mm: torch.Tensor, case: Case) -> float:
    return float((forward_mm - case.truth).norm(dim=0)[case.mask].mean())


@pytest.mark.slow
def test_thick_slices():
    """Voxels of 3 x 3 x 9 mm, stored with the thick axis first: less than a fifth of a slice off.

    Of the moving image; thick slices of either image are in ``test_engine.py``.
    """
    case = template(4.0)
    grid = case.grid.resampled([3.0, 3.0, 9.0])
    smooth = torch.nn.functional.avg_pool3d(case.moving.as_tensor()[None], (1, 1, 3), 1, (0, 0, 1), count_include_pad=False)[0]
    thick = stored(image(warp(smooth, case.grid, None, grid), grid), ((2, 0, 1), (True, False, False)))
    found = run(case.fixed, thick)
    field = warp(found.forward_mm, found.fixed_grid, None, case.grid, padding_mode="border")
    error = target_error(field, case)
    assert error < 1.8 and case.before() > 6, error
    assert found.jacobian["folding_percent"] == 0


# --- headers


def with_forms(path: Path, source: MetaTensor, forms: str, unit: str = "mm") -> Path:
    affine = source.affine.numpy()
    volume = nib.Nifti1Image(source.as_tensor()[0].numpy(), affine)
    volume.header.set_xyzt_units(unit)
    volume.set_qform(affine if "q" in forms else None, code=int("q" in forms))
    volume.set_sform(affine if "s" in forms else None, code=int("s" in forms))
    nib.save(volume, path)
    return path


def itk_affine(path: Path) -> np.ndarray:
    """What ITK makes of a file, in RAS."""
    itk = pytest.importorskip("itk")
    read, affine = itk.imread(str(path)), np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(read.GetDirection()) * np.array(read.GetSpacing())
    affine[:3, 3] = read.GetOrigin()
    return LPS @ affine


@pytest.mark.slow
@pytest.mark.parametrize("forms", ["s", "q"])
@pytest.mark.parametrize("order", [ORDERS[0], ORDERS[29]], ids=["right-handed", "left-handed"])
def test_either_form_alone(oblique, tmp_path, forms, order):
    """Headers hold float32, and qform a quaternion: voxels are off by 1e-4 mm, which grows over the steps."""
    images = [stored(i, order) for i in oblique]
    paths = [with_forms(tmp_path / f"{n}.nii", i, forms) for n, i in enumerate(images)]
    for path, source in zip(paths, images):
        grids = [Grid.of(i) for i in (read_image(path)[0], source)]
        np.testing.assert_allclose(grids[0].corners(), grids[1].corners(), rtol=0, atol=2e-4)
    expected, found = run(*images, CALM), run(*paths, CALM)
    error = (found.forward_mm - expected.forward_mm).norm(dim=0).flatten()
    check_rounding(error)


class TestUnits:
    @pytest.mark.parametrize("forms", ["sq", "s", "q"])
    @pytest.mark.parametrize("unit", ["mm", "unknown", "micron", "meter"])
    def test_files_lie_where_itk_sees_them(self, oblique, tmp_path, unit, forms):
        """ITK, and so ANTs, Slicer and elastix, turn all lengths into mm; our fields are for them to apply."""
        path = with_forms(tmp_path / "a.nii.gz", oblique[0], forms, unit)
        found, expected = read_image(path)[0].affine.numpy(), itk_affine(path)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())

    def test_fields_too(self, tmp_path):
        """As in ITK, the unit is that of the grid: vectors are in mm."""
        grid, field = Grid((3, 4, 5), np.diag([2.0, 3, 4, 1])), torch.rand(3, 3, 4, 5)
        write_displacement_field(tmp_path / "a.nii", field, grid)
        volume = nib.load(tmp_path / "a.nii")
        volume.header.set_xyzt_units("micron")
        nib.save(volume, tmp_path / "b.nii")
        back, read = read_displacement_field(tmp_path / "b.nii")
        np.testing.assert_allclose(read.affine, itk_affine(tmp_path / "b.nii"), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(back, field)
        itk = pytest.importorskip("itk")
        vectors = itk.array_from_image(itk.imread(str(tmp_path / "b.nii"))).transpose(3, 2, 1, 0)
        np.testing.assert_allclose(back.numpy() * np.array([-1, -1, 1])[:, None, None, None], vectors, atol=1e-6)

    @pytest.mark.slow
    def test_an_image_in_micrometers_meets_one_in_millimeters(self, oblique, tmp_path):
        """The moving voxels lie between the fixed ones: linear interpolation has a kink on each, where rounding decides."""
        moving = placed(oblique[1], rotation(0.02, 0.05, -0.03))
        small = with_forms(tmp_path / "a.nii", placed(oblique[0], np.diag([1e3, 1e3, 1e3, 1])), "s", "micron")
        expected, found = run(oblique[0], moving, CALM), run(small, moving, CALM)
        error = (found.forward_mm - expected.forward_mm).norm(dim=0).flatten()
        check_rounding(error)


# --- two dimensions


@pytest.fixture(scope="module")
def slices() -> Case:
    """An axial slice, 3 mm pixels."""
    pytest.importorskip("nilearn")
    from monai_locor.data.demo import mni152_pair

    volumes = mni152_pair(3.0)
    at, full = volumes[0].shape[-1] // 2, Grid.of(volumes[0])
    grid = Grid(full.shape[:2], full.affine[np.ix_([0, 1, 3], [0, 1, 3])])
    t1, t2, mask = (image(v.as_tensor()[..., at], grid) for v in volumes)
    truth = random_diffeomorphism(grid, 2, rotation_deg=8, translation_mm=6, elastic_rms_mm=3, smoothing_mm=15)
    return Case(deform(t1, truth), t2, truth, deform(mask, truth, mode="nearest").as_tensor()[0] > 0)


class TestTwoDimensions:
    @pytest.mark.slow
    def test_less_than_a_pixel(self, slices):
        found = run(slices.fixed, slices.moving)
        assert slices.before() > 6 and slices.after(found) < 3, (slices.before(), slices.after(found))
        assert found.jacobian["folding_percent"] == 0

    @pytest.mark.slow
    def test_pictures(self, slices, tmp_path):
        """8 bit, without any geometry: the same in pixels."""
        paths = []
        for name in ("fixed", "moving"):
            pixels = getattr(slices, name).as_tensor()[0].numpy()
            paths.append(tmp_path / f"{name}.png")
            Image.fromarray((255 * np.clip(pixels / pixels.max(), 0, 1)).astype(np.uint8).T).save(paths[-1])
        found = run(*paths)
        truth = to_voxels(slices.truth, slices.grid)
        error = (found.forward_ddf - truth).norm(dim=0)[slices.mask]
        assert float(error.mean()) < 1 and slices.before() / 3 > 2, float(error.mean())

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=["X,Y", "X,Y,1", "X,Y,1,1"])
    def test_every_way_to_store_a_slice_gives_the_same_bytes(self, slices, tmp_path, shape):
        expected = run(slices.fixed, slices.moving, WILD)
        paths, tensors = [], []
        for name in ("fixed", "moving"):
            source = getattr(slices, name)
            values = source.as_tensor().reshape(*source.shape, *shape)
            paths.append(tmp_path / f"{name}.nii.gz")
            nib.save(nib.Nifti1Image(values[0].numpy(), source.affine.numpy()), paths[-1])
            tensors.append(MetaTensor(values, affine=source.affine))
        ways = [paths] if len(shape) == 2 else [paths, tensors]
        for way in ways:
            found = run(*way, WILD)
            assert found.forward_mm.shape == expected.forward_mm.shape
            assert torch.equal(found.forward_mm, expected.forward_mm)
            assert torch.equal(found.inverse_mm, expected.inverse_mm)
