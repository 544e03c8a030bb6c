# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The gradient magnitude: right in the world on every grid, a good citizen among MONAI's transforms."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, set_track_meta
from monai.transforms import Compose
from scipy import ndimage

from monai_locor.geometry import Grid, reorder
from monai_locor.transforms import (
    DerivativeMagnitude,
    DerivativeMagnitudeD,
    DerivativeMagnituded,
    DerivativeMagnitudeDict,
    derivative_magnitude,
)

ORDERS = [(axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product([False, True], repeat=3)]
SHEAR = np.array([[1.0, 0.3, 0.1], [0, 1.0, -0.2], [0, 0, 1.0]])


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        out = out @ turn
    return out


def affine_of(linear: np.ndarray) -> np.ndarray:
    affine = np.eye(len(linear) + 1)
    affine[:-1, :-1] = linear
    affine[:-1, -1] = [-30.0, 12.0, 7.0][: len(linear)]
    return affine


LINEAR = {
    "isotropic": np.eye(3),
    "anisotropic": np.diag([0.5, 2.0, 6.0]),
    "flipped": np.diag([-0.5, 2.0, -6.0]),
    "permuted": np.diag([0.5, 2.0, 6.0])[[2, 0, 1]],
    "oblique": rotation((0.3, -0.2, 0.7)) @ np.diag([0.5, -2.0, 6.0]),
    "sheared": rotation((0.3, -0.2, 0.7)) @ SHEAR @ np.diag([0.5, 2.0, 6.0]),
}


def ramp(grid: Grid, slope: np.ndarray) -> MetaTensor:
    """``(1, *shape)`` float64, slope @ world."""
    return MetaTensor(torch.from_numpy(grid.points() @ slope)[None], affine=torch.tensor(grid.affine))


def bumpy(grid: Grid) -> MetaTensor:
    return MetaTensor(torch.rand(1, *grid.shape, dtype=torch.float64), affine=torch.tensor(grid.affine))


@pytest.mark.parametrize("linear", LINEAR.values(), ids=LINEAR.keys())
def test_a_ramp_in_the_world_has_its_own_slope_on_every_grid(linear):
    slope = np.array([1.0, -2.0, 0.5])
    image = ramp(Grid((5, 6, 7), affine_of(linear)), slope)
    out = DerivativeMagnitude(append=False)(image)
    np.testing.assert_allclose(out.numpy(), np.linalg.norm(slope), rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "linear", [*LINEAR.values(), np.array([[2.5]]), np.array([[-0.5]])], ids=[*LINEAR, "2x2", "flipped 2x2"]
)
def test_a_line_has_its_slope_along_its_axis(linear, dtype):
    step = np.linalg.norm(linear[:, 0])
    image = MetaTensor(3 * step * torch.arange(16.0)[None], affine=torch.tensor(affine_of(linear), dtype=dtype))
    for transform in (DerivativeMagnitude(append=False), DerivativeMagnitude(spacing=step, append=False)):
        np.testing.assert_allclose(transform(image), np.full((1, 16), 3.0), rtol=1e-5)
    out = DerivativeMagnitude(sigma=step)(image)
    assert out.shape == (2, 16) and torch.equal(out.affine, image.affine)
    np.testing.assert_allclose(out[1, 5:-5], 3.0, rtol=1e-5)
    assert DerivativeMagnituded("x")({"x": image})["x"].shape == (2, 16)


def test_a_line_without_length_is_refused():
    with pytest.raises(ValueError, match="not invertible"):
        DerivativeMagnitude()(MetaTensor(torch.rand(1, 16), affine=torch.diag(torch.tensor([0.0, 1, 1, 1]))))


def test_headers_of_single_precision_are_not_taken_for_sheared():
    linear = LINEAR["oblique"].astype(np.float32)
    slope = np.array([1.0, -2.0, 0.5])
    out = derivative_magnitude(ramp(Grid((5, 6, 7), affine_of(linear)), slope), linear)
    np.testing.assert_allclose(out.numpy(), np.linalg.norm(slope), rtol=1e-6)


@pytest.mark.parametrize("kind", ["anisotropic", "sheared"])
def test_equals_the_world_gradient_of_numpy(kind):
    grid = Grid((6, 5, 7), affine_of(LINEAR[kind]))
    image = bumpy(grid)
    voxel = np.stack(np.gradient(image.numpy()[0]), -1)
    world = voxel @ np.linalg.inv(LINEAR[kind])  # rows: inv(A)^T g
    out = derivative_magnitude(image, LINEAR[kind])
    np.testing.assert_allclose(out.numpy()[0], np.linalg.norm(world, axis=-1), rtol=1e-9)


@pytest.mark.parametrize("kind", ["oblique", "sheared"])
def test_all_48_axis_orders_give_the_same_answer(kind):
    grid = Grid((5, 6, 7), affine_of(LINEAR[kind]))
    image = bumpy(grid)
    transform = DerivativeMagnitude(sigma=1.0)
    expected = transform(image)
    for axes, flips in ORDERS:
        affine = torch.tensor(grid.reordered(axes, flips).affine)
        stored = MetaTensor(reorder(image.as_tensor(), axes, flips), affine=affine)
        torch.testing.assert_close(
            transform(stored).as_tensor(), reorder(expected.as_tensor(), axes, flips), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("shape", [(9,), (9, 8), (9, 8, 7)], ids=["1-D", "2-D", "3-D"])
def test_channels_are_appended_after_the_images_or_stand_alone(shape):
    image = torch.rand(2, *shape)
    both, alone = DerivativeMagnitude()(image), DerivativeMagnitude(append=False)(image)
    assert both.shape == (4, *shape) and alone.shape == (2, *shape)
    assert both.dtype == alone.dtype == torch.float32
    assert torch.equal(both[:2].as_tensor(), image) and torch.equal(both[2:].as_tensor(), alone.as_tensor())


def test_one_sided_differences_at_the_borders():
    out = DerivativeMagnitude(append=False)(torch.tensor([[0.0, 1.0, 4.0, 9.0]]))
    torch.testing.assert_close(out.as_tensor(), torch.tensor([[1.0, 2.0, 4.0, 5.0]]))


def test_an_axis_of_one_voxel_contributes_nothing():
    image = torch.rand(1, 6, 5)
    thin = DerivativeMagnitude(append=False)(image[..., None])
    torch.testing.assert_close(thin[..., 0].as_tensor(), DerivativeMagnitude(append=False)(image).as_tensor())
    assert DerivativeMagnitude(append=False)(torch.ones(1, 1, 1)).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_other_types_become_float32(dtype):
    image = torch.tensor([[0, 1, 1, 0]]).to(dtype)
    out = DerivativeMagnitude()(image)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.as_tensor(), torch.tensor([[0, 1, 1, 0], [1, 0.5, 0.5, 1]]))


def test_float64_is_kept():
    assert DerivativeMagnitude()(torch.rand(1, 5, 5, dtype=torch.float64)).dtype == torch.float64


def test_numpy_arrays_are_taken():
    image = np.arange(8.0, dtype=np.float32).reshape(1, 2, 4)
    np.testing.assert_allclose(np.asarray(DerivativeMagnitude(append=False)(image)), np.sqrt(17), rtol=1e-6)


def test_spacing_option_overrides_the_affine():
    image = ramp(Grid((5, 6), affine_of(np.diag([2.0, 3.0]))), np.array([1.0, 1.0]))  # 2 and 3 per voxel
    result = {s: float(DerivativeMagnitude(spacing=s, append=False)(image).mean()) for s in [None, "voxel", (1.0, 3.0), 2.0]}
    expected = {None: 2**0.5, "voxel": 13**0.5, (1.0, 3.0): 5**0.5, 2.0: 3.25**0.5}
    assert result == pytest.approx(expected)
    assert float(DerivativeMagnitude(append=False)(image.as_tensor()).mean()) == pytest.approx(13**0.5)


def test_two_dimensional_images_with_the_affine_of_three():
    image = ramp(Grid((5, 6), affine_of(np.diag([2.0, 3.0]))), np.array([3.0, 4.0])).as_tensor()
    full = MetaTensor(image, affine=torch.diag(torch.tensor([-2.0, 3.0, 9.0, 1.0])))
    torch.testing.assert_close(DerivativeMagnitude(append=False)(full).as_tensor(), torch.full_like(image, 5.0))


def test_smoothing_is_in_mm_or_voxels_and_makes_no_border():
    spacing = np.array([0.5, 2.0, 1.0])
    image = bumpy(Grid((12, 9, 10), affine_of(np.diag(spacing))))
    in_mm = DerivativeMagnitude(sigma=1.5, append=False)(image)
    in_voxels = DerivativeMagnitude(sigma=tuple(1.5 / spacing), sigma_unit="voxel", append=False)(image)
    torch.testing.assert_close(in_mm.as_tensor(), in_voxels.as_tensor())
    smooth = ndimage.gaussian_filter(image.numpy()[0], 1.5 / spacing, mode="nearest")
    expected = np.linalg.norm(np.gradient(smooth, *spacing), axis=0)
    np.testing.assert_allclose(in_mm.numpy()[0], expected, atol=0.1 * expected.max())  # MONAI integrates over the voxel
    assert DerivativeMagnitude(sigma=2.0, append=False)(torch.ones(1, 8, 8)).abs().max() < 1e-6


def test_smoothing_leaves_the_appended_to_channels_alone():
    image = torch.rand(1, 8, 8)
    assert torch.equal(DerivativeMagnitude(sigma=1.0)(image)[:1].as_tensor(), image)
    assert torch.equal(DerivativeMagnitude(sigma=0)(image), DerivativeMagnitude()(image))


def test_meta_data_is_kept_and_the_input_is_not_modified():
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randint(0, 9, (1, 5, 6, 7)), affine=affine, meta={"filename_or_obj": "brain.nii.gz"})
    before = image.clone()
    out = DerivativeMagnitude(sigma=1.0)(image)
    assert isinstance(out, MetaTensor) and out.meta["filename_or_obj"] == "brain.nii.gz"
    assert torch.equal(out.affine, affine)
    assert torch.equal(image, before) and image.dtype == before.dtype and torch.equal(image.affine, before.affine)


def test_without_tracking_the_affine_still_counts():
    image = ramp(Grid((5, 6), affine_of(np.diag([2.0, 3.0]))), np.array([3.0, 4.0]))
    set_track_meta(False)
    try:
        out = DerivativeMagnitude(append=False)(image)
    finally:
        set_track_meta(True)
    assert not isinstance(out, MetaTensor)
    torch.testing.assert_close(out, torch.full_like(out, 5.0))


def test_dictionary_version_and_its_aliases():
    assert DerivativeMagnitudeD is DerivativeMagnitudeDict is DerivativeMagnituded
    assert DerivativeMagnituded.backend == DerivativeMagnitude.backend
    data = {"fixed": torch.rand(1, 5, 6), "moving": torch.rand(1, 5, 6), "name": "a"}
    out = DerivativeMagnituded(["fixed"], spacing=(1, 2), sigma=1.0, sigma_unit="voxel", append=False)(data)
    expected = DerivativeMagnitude((1, 2), 1.0, "voxel", False)(data["fixed"])
    assert torch.equal(out["fixed"], expected)
    assert out["moving"] is data["moving"] and out["name"] == "a" and data["fixed"].shape == (1, 5, 6)


def test_missing_keys():
    with pytest.raises(KeyError):
        DerivativeMagnituded("fixed")({})
    assert DerivativeMagnituded("fixed", allow_missing_keys=True)({}) == {}


def test_compose_and_pickle():
    transform = Compose([DerivativeMagnituded("image", sigma=1.0)])
    data = {"image": torch.rand(1, 6, 6)}
    assert torch.equal(pickle.loads(pickle.dumps(transform))(data)["image"], transform(data)["image"])


@pytest.mark.parametrize("linear", [LINEAR["anisotropic"], LINEAR["sheared"]], ids=["diagonal", "sheared"])
def test_gradient(linear):
    image = torch.rand(1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: derivative_magnitude(x, torch.from_numpy(linear)), (image,))


def test_gradient_is_finite_on_flat_images():
    image = torch.zeros(1, 4, 4, 4)
    image[..., 2:] = 1e-20  # squares below the smallest float32
    image.requires_grad_()
    derivative_magnitude(image, np.eye(3)).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_device(device):
    image = MetaTensor(torch.rand(1, 6, 7, 8), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    out = DerivativeMagnitude(sigma=1.0)(image.to(device))
    assert out.device.type == device.type
    torch.testing.assert_close(out.cpu().as_tensor(), DerivativeMagnitude(sigma=1.0)(image).as_tensor())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"spacing": "mm"}, "mm"),
        ({"spacing": (1.0, 0.0)}, "0.0"),
        ({"spacing": float("nan")}, "nan"),
        ({"sigma": -1.0}, "-1.0"),
        ({"sigma_unit": "cm"}, "cm"),
    ],
)
def test_wrong_options(options, word):
    with pytest.raises(ValueError, match=word):
        DerivativeMagnitude(**options)


@pytest.mark.parametrize(
    ("options", "image"),
    [
        ({}, torch.rand(4)),
        ({}, torch.rand(1, 2, 2, 2, 2)),
        ({}, torch.rand(1, 4, 4, dtype=torch.complex64)),
        ({"spacing": (1, 1)}, torch.rand(1, 4, 4, 4)),
        ({"sigma": (1, 1)}, torch.rand(1, 4, 4, 4)),
    ],
    ids=["no channel", "4-D", "complex", "spacing", "sigma"],
)
def test_wrong_images(options, image):
    with pytest.raises(ValueError, match=r"channel-first|complex|must have length"):
        DerivativeMagnitude(**options)(image)


@pytest.mark.parametrize("linear", [np.ones((2, 2)), np.zeros((2, 2)), np.eye(3)[:2], np.diag([1, np.nan])])
def test_wrong_matrices(linear):
    with pytest.raises(ValueError, match="linear part"):
        derivative_magnitude(torch.rand(1, 4, 4), linear)


def test_wrong_tensors():
    with pytest.raises(ValueError, match="int64"):
        derivative_magnitude(torch.ones(1, 4, 4, dtype=torch.int64), np.eye(2))
    with pytest.raises(ValueError, match="3 spatial axes"):
        derivative_magnitude(torch.ones(1, 4, 4), np.eye(3))
