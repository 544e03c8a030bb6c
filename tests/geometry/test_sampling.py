# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Sampling and warping: against scipy, exact where they must be, and the same on any number of threads."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from monai_locor.geometry import (
    Grid,
    apply_affine,
    from_voxels,
    identity_points,
    inside,
    mapped_points,
    reorder,
    sample,
    sample_gradient,
    sample_normalized,
    sample_planar,
    to_voxels,
    warp,
)

SHAPES = [(6, 9), (5, 8, 7)]
A = Grid((9, 7, 8), np.array([[-1.4, 0.3, 0.2, 10], [0.2, 0.2, 2.5, -5], [0.1, -1.9, 0.3, 3], [0, 0, 0, 1.0]]))
B = Grid((6, 8, 5), np.array([[2.0, 0.9, 0.1, -2], [0, 1.5, -0.6, 0], [0, 0.2, 3.0, -8], [0, 0, 0, 1]]))
MODES = {"zeros": "grid-constant", "border": "nearest"}


def positions(*shape: int, count: int = 300, beyond: float = 1.7) -> torch.Tensor:
    """Random voxel positions inside and around an image, ``(1, D, count)``, float64."""
    low, size = -beyond, torch.tensor(shape, dtype=torch.float64).view(1, -1, 1) - 1 + 2 * beyond
    return low + size * torch.rand(1, len(shape), count, dtype=torch.float64)


def spread(points: torch.Tensor) -> torch.Tensor:
    """``(1, D, N)`` in the shape ``(1, D, *out)`` that ``sample`` takes."""
    return points.reshape(*points.shape[:2], *[1] * (points.shape[1] - 1), -1)


@pytest.fixture
def threads():
    """Several threads, for code that divides its work among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


class TestSample:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
    @pytest.mark.parametrize("padding", list(MODES))
    def test_matches_scipy(self, shape, mode, order, padding, device):
        image, points = torch.rand(1, 2, *shape, dtype=torch.float64), positions(*shape)
        out = sample(image.to(device), spread(points).to(device), mode, padding).cpu()
        for channel in range(2):
            expected = ndimage.map_coordinates(image[0, channel].numpy(), points[0].numpy(), order=order, mode=MODES[padding])
            np.testing.assert_allclose(out[0, channel].flatten(), expected, atol=1e-10)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("mode", ["bilinear", "nearest"])
    def test_voxel_positions_give_the_voxels(self, shape, mode):
        image = torch.rand(1, 1, *shape)
        torch.testing.assert_close(sample(image, identity_points(shape)[None], mode), image, atol=1e-6, rtol=0)

    def test_batches_are_independent(self):
        image, points = torch.rand(3, 2, 6, 5, 4), torch.rand(3, 3, 2, 3, 4) * 3
        out = sample(image, points)
        assert out.shape == (3, 2, 2, 3, 4)
        for item in range(3):
            torch.testing.assert_close(out[item], sample(image[item, None], points[item, None])[0])

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_an_axis_of_one_voxel(self, axis):
        shape = [4, 5, 6]
        shape[axis] = 1
        image = torch.rand(1, 1, *shape)
        points = identity_points(shape)[None].clone()
        for offset in (-0.5, 0.0, 0.5):
            points[0, axis] = offset
            torch.testing.assert_close(sample(image, points), image)

    @pytest.mark.parametrize("mode", ["bilinear", "nearest"])
    @pytest.mark.parametrize("padding", list(MODES))
    @pytest.mark.parametrize("count", [16384, 20001])
    def test_shared_between_threads_it_is_the_same(self, mode, padding, count, threads):
        image, points = torch.rand(1, 2, 9, 8, 7), positions(9, 8, 7, count=count).float()
        shared = sample(image, spread(points), mode, padding)
        alone = torch.cat([sample(image, spread(p), mode, padding) for p in points.split(1000, -1)], -1)
        assert torch.equal(shared, alone)

    def test_gradients_of_positions_shared_between_threads(self, threads):
        image, points = torch.rand(1, 1, 9, 8, 7), spread(positions(9, 8, 7, count=20001).float())
        weights = torch.rand(1, 1, 1, 1, 20001)
        gradients = []
        for number in (threads, 1):
            torch.set_num_threads(number)
            leaf = points.clone().requires_grad_()
            (sample(image, leaf) * weights).sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
    @pytest.mark.parametrize("padding", list(MODES))
    def test_gradcheck(self, shape, padding):
        image = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
        # away from whole numbers, where linear interpolation has a kink
        points = torch.stack([torch.randint(-1, n, (7,)) + 0.2 + 0.6 * torch.rand(7) for n in shape])[None].double()
        leaf = spread(points).requires_grad_()
        assert torch.autograd.gradcheck(lambda i, p: sample(i, p, padding_mode=padding), (image, leaf))


class TestReorder:
    @pytest.mark.parametrize("axes", list(permutations(range(3))))
    def test_an_image_and_its_grid_go_together(self, axes):
        field = torch.from_numpy(A.points()).movedim(-1, 0)  # an image of the world coordinates
        for flips in product((False, True), repeat=3):
            expected = torch.from_numpy(A.reordered(axes, flips).points()).movedim(-1, 0)
            out = reorder(field, axes, flips)
            torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)
            assert out.is_contiguous()
            assert torch.equal(reorder(field[None], axes, flips, leading=2)[0], out)
            assert torch.equal(reorder(field[0], axes, flips, leading=0), out[0])


class TestDisplacements:
    def test_voxels_and_millimeters(self):
        u = torch.rand(3, *A.shape, dtype=torch.float64)
        expected = np.einsum("ij,jxyz->ixyz", np.linalg.inv(A.affine[:3, :3]), u.numpy())
        np.testing.assert_allclose(to_voxels(u, A).numpy(), expected, atol=1e-12)
        torch.testing.assert_close(from_voxels(to_voxels(u, A), A), u)
        assert to_voxels(u.float(), A).dtype == torch.float32

    def test_mapped_points(self):
        u = torch.randn(3, *A.shape, dtype=torch.float64)
        world = A.points() + u.movedim(0, -1).numpy()
        expected = np.moveaxis(apply_affine(np.linalg.inv(B.affine), world), -1, 0)
        np.testing.assert_allclose(mapped_points(A, B, u).numpy(), expected, atol=1e-9)
        torch.testing.assert_close(mapped_points(A, B), mapped_points(A, B, torch.zeros_like(u)))
        assert mapped_points(A, B, u.float()).dtype == torch.float64

    def test_mapped_points_refuse_other_shapes(self):
        with pytest.raises(ValueError, match="must be"):
            mapped_points(A, B, torch.zeros(3, 2, 2, 2))
        with pytest.raises(ValueError, match="dimensions"):
            mapped_points(A, Grid((3, 4), np.eye(3)))

    def test_inside(self):
        points = torch.tensor([[-0.01, 0.0, 2.0, 4.0, 4.01], [2.0, 2, 2, 2, 2]])
        assert inside(points, (5, 5)).tolist() == [False, True, True, True, False]
        assert inside(points, (5, 5), margin=1).tolist() == [False, False, True, False, False]
        assert inside(torch.tensor([[-0.6, -0.5, 0.0, 0.5, 0.6], [0.0] * 5]), (1, 3)).tolist() == [
            False,
            True,
            True,
            True,
            False,
        ]


class TestWarp:
    @pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
    @pytest.mark.parametrize("padding", list(MODES))
    def test_matches_scipy_between_oblique_grids(self, mode, order, padding):
        image, u = torch.rand(2, *B.shape, dtype=torch.float64), torch.randn(3, *A.shape, dtype=torch.float64)
        voxels = apply_affine(np.linalg.inv(B.affine), A.points() + u.movedim(0, -1).numpy())
        out = warp(image, B, u, A, mode, padding)
        assert out.shape == (2, *A.shape) and out.dtype == torch.float64
        for channel in range(2):
            expected = ndimage.map_coordinates(
                image[channel].numpy(), np.moveaxis(voxels, -1, 0), order=order, mode=MODES[padding]
            )
            np.testing.assert_allclose(out[channel], expected, atol=1e-9)

    def test_labels_and_meta_tensors(self):
        labels = MetaTensor(torch.randint(0, 9, (1, *B.shape), dtype=torch.uint8), affine=torch.from_numpy(B.affine.copy()))
        out = warp(labels, B, None, A, "nearest")
        assert type(out) is torch.Tensor and out.dtype == torch.uint8
        assert set(out.unique().tolist()) <= set(labels.unique().tolist()) | {0.0}

    def test_refuses_an_image_of_another_grid(self):
        with pytest.raises(ValueError, match="must be"):
            warp(torch.zeros(1, *A.shape), B, None, A)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [300, 20011], ids=["few", "shared among threads"])
def test_gradient_of_the_positions_is_that_of_autograd(shape, count, threads):
    image = torch.rand(1, 2, *shape, dtype=torch.float64)
    points = (torch.rand(1, count, len(shape), dtype=torch.float64) * 2.4 - 1.2).requires_grad_()
    gradient = torch.rand(1, 2, count, dtype=torch.float64)
    (expected,) = torch.autograd.grad(sample_normalized(image, points), points, gradient)
    found = sample_gradient(image, points.detach().mT, gradient)
    assert found.shape == points.mT.shape and float(expected.abs().max()) > 0
    torch.testing.assert_close(found.mT, expected)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7)])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_positions_of_any_layout(shape, padding, threads):
    """Components first or last, on a lattice or in a row, into a given tensor or not: the same values."""
    dims, out = len(shape), (26, 27, 25)[: len(shape)]
    image, points = torch.rand(1, 2, *shape), torch.rand(1, dims, *out) * 2.4 - 1.2
    expected = sample_normalized(image, points.flatten(2).mT.contiguous(), padding)
    given = torch.empty(1, 2, *out)
    for found in (
        sample_planar(image, points, padding),
        sample_planar(image, points.movedim(1, -1).contiguous().movedim(-1, 1), padding),
        sample_planar(image, points, padding, given),
        given,
    ):
        assert torch.equal(found.flatten(2), expected) and found.shape == (1, 2, *out)
