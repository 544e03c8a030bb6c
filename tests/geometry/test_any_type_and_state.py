# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Nearest neighbors are voxels as they are, of any type; and geometry does the same whatever the caller has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch.nn.functional import grid_sample

from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform, from_voxels, sample, to_voxels, warp, warped
from monai_locor.geometry import mapped_points as mapped
from monai_locor.metrics import inverse_consistency, jacobian_determinant, jacobian_statistics, target_registration_error
from monai_locor.metrics.overlap import dice_per_label
from monai_locor.transforms import DerivativeMagnitude

TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
TYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LARGE = 2**24 + 1  # float32 has no such number
FAR = np.diag([2.0, 2.0, 2.5, 1.0]) + np.array([[0, 0.1, 0, 300], [-0.1, 0, 0, -250], [0, 0, 0, 280], [0, 0, 0, 0]])
GRID, OTHER = Grid((6, 7, 5), FAR), Grid((5, 6, 7), FAR @ np.diag([1.1, 0.9, 1.0, 1.0]))


def values_of(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """What a type can hold and others cannot."""
    if dtype == torch.bool:
        return torch.rand(shape) > 0.5
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=torch.float64).to(dtype)
    info = torch.iinfo(dtype)
    low, high = max(info.min, -(2**62)), min(info.max, 2**62)
    return torch.randint(low, high, shape, dtype=torch.int64).to(dtype)


def displacement(grid: Grid) -> torch.Tensor:
    return torch.randn(grid.dims, *grid.shape, generator=torch.Generator().manual_seed(1))


class TestNearest:
    @pytest.mark.parametrize(("shape", "padding"), [((5, 7), "border"), ((1, 6, 3), "zeros")])
    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_every_type_is_kept(self, dtype, shape, padding, device):
        image = values_of(dtype, (2, 3, *shape)).to(device)
        points = 12 * torch.rand(2, len(shape), 40, device=device) - 3
        found = sample(image, points, "nearest", padding)
        assert found.shape == (2, 3, 40) and found.dtype == dtype and found.device.type == device.type
        # the voxels' numbers, sampled by torch, say which voxel it was
        number = torch.arange(1.0, 1 + np.prod(shape), device=device).reshape(1, 1, *shape).expand(2, -1, *shape)
        scale = torch.tensor([2 / max(n - 1, 1) for n in shape], device=device)
        at = (points.transpose(1, 2) * scale - 1).flip(-1).reshape(2, *[1] * (len(shape) - 1), 40, len(shape))
        which = grid_sample(number, at, "nearest", padding, align_corners=True).reshape(2, 40).long()
        for item in range(2):
            voxels = image[item].flatten(1)
            for k, v in enumerate(which[item].tolist()):  # 0 is outside
                assert found[item, :, k].tolist() == (voxels[:, v - 1].tolist() if v else [0] * 3)

    def test_half_way_lies_the_even_voxel(self):
        image = torch.arange(10, 16)[None, None, :, None].expand(1, 1, 6, 2)
        where = torch.tensor([-0.6, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.4, 5.6])
        found = sample(image, torch.stack((where, torch.zeros(9)))[None], "nearest")
        assert found.flatten().tolist() == [0, 10, 10, 12, 12, 14, 14, 15, 0]

    @pytest.mark.parametrize("padding", ["zeros", "border"])
    def test_positions_that_are_not_finite(self, padding):
        points = torch.tensor([[torch.nan, torch.inf, -torch.inf], [0.0, 0.0, 0.0]])[None]
        found = sample(torch.tensor([[[[3, 3], [5, 5]]]]), points, "nearest", padding).flatten().tolist()
        assert found[1:] == ([0, 0] if padding == "zeros" else [5, 3]) and found[0] in (0, 3)

    def test_the_gradient_goes_to_the_voxels_read(self):
        image = torch.rand(1, 1, 4, 4, requires_grad=True)
        sample(image, torch.tensor([[1.2, 1.1, 9.0], [2.0, 2.0, 0.0]])[None], "nearest").sum().backward()
        expected = torch.zeros(4, 4)
        expected[1, 2] = 2
        assert torch.equal(image.grad[0, 0], expected)


class TestTypes:
    """Of what a registration and a transform carry."""

    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_labels(self, dtype):
        labels = values_of(dtype, (1, *OTHER.shape))
        for found in (warped(labels, OTHER, displacement(GRID), GRID, "nearest"), warp(labels, OTHER, None, GRID, "nearest")):
            assert found.dtype == dtype and found.shape == (1, *GRID.shape)
            assert set(found.flatten().tolist()) <= {*labels.flatten().tolist(), 0}

    def test_labels_that_float32_does_not_have(self):
        labels = torch.full((1, *GRID.shape), LARGE, dtype=torch.int64)
        labels[0, 2:4] = -LARGE
        found = SpatialTransform.of_affine(np.eye(4)).warp(labels, GRID, GRID, "nearest")
        assert torch.equal(found.as_tensor(), labels)
        assert dice_per_label(labels, found.double(), [LARGE]) == {LARGE: 1.0}

    @pytest.mark.parametrize("dtype", TYPES, ids=str)
    def test_interpolated(self, dtype):
        """Whole numbers are rounded, masks true from one half on, float64 as precise as it is."""
        image = values_of(dtype, (1, *GRID.shape))
        identity = torch.zeros(3, *GRID.shape)
        found = warped(image, GRID, identity, GRID)
        assert found.dtype == dtype
        if dtype in (torch.int64, torch.uint64):  # more than even float64 holds
            torch.testing.assert_close(found.double().as_tensor(), image.double(), rtol=1e-9, atol=0)
        else:
            tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}
            expected, atol = image.double(), tolerance.get(dtype, 0)
            torch.testing.assert_close(found.double().as_tensor(), expected, rtol=0, atol=atol)

    def test_a_mask_between_voxels(self):
        grid = Grid((4, 3), np.eye(3))
        mask = torch.tensor([True, True, False, False])[:, None].expand(1, 4, 3)
        for shift, expected in ((0.4, [1, 1, 0, 0]), (0.6, [1, 0, 0, 0]), (-0.6, [0, 1, 1, 0])):
            u = torch.zeros(2, 4, 3)
            u[0] = shift
            found = warped(mask, grid, u, grid)
            assert found.dtype == torch.bool and found[0, :, 0].tolist() == [bool(v) for v in expected]


@contextlib.contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "float64": float64_by_default,
    "default device": lambda: torch.device("meta"),
}
FIELD = FieldStep(displacement(GRID), GRID)
TURN = np.array([[1.02, 0.1, 0, 3], [-0.1, 0.98, 0, 1], [0, 0.03, 1, -2], [0, 0, 0, 1]])
CHAIN = SpatialTransform((FIELD, AffineStep(TURN)))
IMAGE, U, POINTS = torch.rand(2, *OTHER.shape), displacement(GRID), torch.rand(1, 3, 50) * 4
POSITIONS = GRID.points().reshape(-1, 3)[:20]
WITH_AFFINE = MetaTensor(IMAGE, affine=torch.from_numpy(OTHER.affine.copy()))
CALLS: dict[str, Callable[[], torch.Tensor | np.ndarray | list]] = {
    "sample": lambda: sample(IMAGE[None], POINTS),
    "sample nearest": lambda: sample(IMAGE[None], POINTS, "nearest"),
    "to_voxels": lambda: to_voxels(U, GRID),
    "from_voxels": lambda: from_voxels(U, GRID),
    "mapped_points": lambda: mapped(GRID, OTHER, U),
    "warp": lambda: warp(IMAGE, OTHER, U, GRID),
    "warp, resampled": lambda: warp(IMAGE, OTHER, None, GRID),
    "warped": lambda: warped(IMAGE, OTHER, U, GRID),
    "displacement": lambda: CHAIN.displacement(OTHER),
    "inverse": lambda: CHAIN.inverse().displacement(OTHER),
    "split": lambda: CHAIN.split(GRID).displacement(GRID),
    "points": lambda: CHAIN.points(POSITIONS),
    "ddf": lambda: CHAIN.ddf(GRID, OTHER),
    "of_ddf": lambda: SpatialTransform.of_ddf(U, GRID, OTHER).displacement(GRID),
    "transform.warp": lambda: CHAIN.warp(IMAGE, OTHER, GRID),
    "jacobian": lambda: jacobian_determinant(U, GRID),
    "statistics": lambda: list(jacobian_statistics(U, GRID).values()),
    "tre": lambda: target_registration_error(U, 2 * U),
    "consistency": lambda: inverse_consistency(U, GRID, -U, GRID),
    "derivative magnitude": lambda: DerivativeMagnitude(sigma=1.5)(WITH_AFFINE),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_modes_and_defaults_of_the_caller_change_nothing(call):
    expected = call()
    for name, state in STATES.items():
        with state():
            found = call()
        assert type(found) is type(expected), name
        if isinstance(expected, torch.Tensor):
            assert found.dtype == expected.dtype and found.device == expected.device and torch.equal(found, expected), name
        else:
            assert np.array_equal(np.array(found), np.array(expected)), name
