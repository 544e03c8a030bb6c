# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a network is shown of a pair, and how its prediction gets to the engine's grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from monai_locor import InputError, register
from monai_locor.geometry import Grid, apply_affine, reorder, warp
from monai_locor.inferers.network_input import align, network_grid, network_image, predict_velocity
from monai_locor.networks import RegistrationNetwork
from monai_locor.registration.start.prepare import PreparedImage, prepare

from ..phantoms import ORDERS, anatomy, grid_of, image
from ..registration.short_runs import SHORT, offset

SPACING = 3.0


def prepared(picture: torch.Tensor, weight: torch.Tensor | None = None) -> PreparedImage:
    return prepare(picture, weight, 0.001, torch.device("cpu"))


def seen(grid: Grid) -> PreparedImage:
    return prepared(image(anatomy(grid.points()), grid))


def test_the_grid_is_isotropic_canonical_and_inside():
    fixed = seen(grid_of((30, 26, 40), (1.5, 4.0, 2.0), (3.0, -8.0, 20.0), turn=0.3))
    grid = network_grid(fixed, SPACING)
    np.testing.assert_allclose(grid.spacing, SPACING)
    np.testing.assert_allclose(grid.center, fixed.grid.center)
    index = apply_affine(np.linalg.inv(fixed.grid.affine), grid.corners())
    assert (index > -1e-6).all() and (index < np.array(fixed.grid.shape) - 1 + 1e-6).all()
    assert ((np.array(fixed.grid.shape) - 1) * fixed.grid.spacing - (np.array(grid.shape) - 1) * SPACING < SPACING).all()


@pytest.mark.parametrize(("axes", "flips"), ORDERS[::7])
def test_the_order_of_axes_does_not_matter(axes, flips):
    grid = grid_of((26, 28, 30), (2.0, 2.5, 3.0), (5.0, -3.0, 8.0), turn=0.1)
    picture = anatomy(grid.points())
    stored = reorder(torch.from_numpy(picture)[None].float(), axes, flips)[0].numpy()
    one, other = prepared(image(picture, grid)), prepared(image(stored, grid.reordered(axes, flips)))
    grids = [network_grid(x, SPACING) for x in (one, other)]
    np.testing.assert_array_equal(grids[0].affine, grids[1].affine)
    for a, b in zip(network_image(one, None, grids[0]), network_image(other, None, grids[1]), strict=True):
        assert torch.equal(a, b)


def test_the_affine_brings_anatomy_to_anatomy():
    fixed = seen(grid_of())
    matrix = offset((6.0, -4.0, 3.0))
    matrix[:3, :3] = [[0.98, -0.17, 0], [0.17, 0.98, 0], [0, 0, 1.05]]
    moving_grid = grid_of((36, 34, 38), (2.0, 2.2, 1.9), (6.0, -4.0, 3.0))
    world = apply_affine(np.linalg.inv(matrix), moving_grid.points())  # the fixed anatomy, moved by the matrix
    moving = prepared(image(anatomy(world), moving_grid))
    grid = network_grid(fixed, SPACING)
    (a, weight_a), (b, weight_b) = network_image(fixed, None, grid), network_image(moving, matrix, grid)
    both = (weight_a * weight_b > 0.99)[0]
    both[:2], both[-2:], both[:, :2], both[:, -2:], both[..., :2], both[..., -2:] = (False,) * 6
    assert float(both.float().mean()) > 0.3
    assert float((a - b)[0][both].abs().mean()) < 0.03
    assert float((a - network_image(moving, None, grid)[0])[0][both].abs().mean()) > 0.08


def test_weights_are_where_the_image_counts():
    grid = grid_of((20, 20, 20))
    weight = torch.ones(1, 20, 20, 20)
    weight[:, :10] = 0
    picture = prepared(image(anatomy(grid.points()), grid), weight)
    _, found = network_image(picture, None, network_grid(picture, 2.0))
    assert found[:, :9].max() == 0 and found[:, 12:].min() == 1
    _, away = network_image(picture, offset((1000.0, 0, 0)), network_grid(picture, 2.0))
    assert away.max() == 0


@pytest.mark.slow
def test_alignment_is_that_of_the_affine_stages():
    pictures = [
        image(anatomy(grid_of((24, 24, 24), (4.0,) * 3).points() + shift), grid_of((24, 24, 24), (4.0,) * 3))
        for shift in (0.0, 5.0)
    ]
    fixed, moving = (prepared(p) for p in pictures)
    expected = register(*pictures, preset=SHORT.with_iterations(0), device="cpu", progress=False).affine
    np.testing.assert_array_equal(align(fixed, moving, SHORT), expected)
    np.testing.assert_array_equal(align(fixed, moving, SHORT, "start"), np.eye(4))
    assert float(np.abs(expected[:3, 3] - [-5.0] * 3).max()) < 1.0
    with pytest.raises(ValueError, match="alignment"):
        align(fixed, moving, SHORT, "rigid")


class Called(torch.nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        return self.function(shown)


def wrapped(function: Callable[[torch.Tensor], torch.Tensor], **options: int) -> RegistrationNetwork:
    return RegistrationNetwork(Called(function), **options)


def test_predictions_are_millimeters_on_the_fixed_grid():
    fixed = seen(grid_of((24, 26, 28), (3.0, 2.0, 4.0), turn=0.4))
    grid = network_grid(fixed, 4.0)
    field = torch.randn(1, 3, *(-(-n // 8) * 8 for n in grid.shape))

    def network(shown: torch.Tensor) -> torch.Tensor:
        assert shown.shape == (1, 2, *field.shape[2:])
        torch.testing.assert_close(
            shown[0, 1, : grid.shape[0], : grid.shape[1], : grid.shape[2]], network_image(fixed, None, grid)[0][0]
        )
        return field

    found = predict_velocity(wrapped(network, divisible=8), fixed, fixed, np.eye(4), 4.0)
    # voxels to mm by hand: 4 mm along the turned axes
    inside = field[0, :, : grid.shape[0], : grid.shape[1], : grid.shape[2]].double()
    mm = torch.einsum("ij,jxyz->ixyz", torch.from_numpy(grid.affine[:3, :3].copy()), inside).float()
    torch.testing.assert_close(found, warp(mm, grid, None, fixed.grid, padding_mode="border"))


def test_predictions_on_larger_voxels():
    """A velocity linear in world coordinates comes out as it is, whatever voxels it is predicted on."""
    fixed = seen(grid_of((24, 26, 28), (3.0, 2.0, 4.0), turn=0.4))
    grid = network_grid(fixed, 3.0)
    slope = torch.tensor([[0.1, 0.02, 0], [0, -0.05, 0.03], [0.04, 0, 0.06]], dtype=torch.float64)

    def network(shown: torch.Tensor) -> torch.Tensor:
        index = torch.from_numpy(np.indices(shown.shape[2:]).reshape(3, -1)) * 2 + 0.5  # centers, voxels of the grid
        world = torch.from_numpy(apply_affine(grid.affine, index.T.numpy()))
        voxels = torch.linalg.solve(torch.from_numpy(grid.affine[:3, :3].copy()), (world @ slope.T).T) / 2
        return voxels.reshape(1, 3, *shown.shape[2:]).float()

    found = predict_velocity(wrapped(network, divisible=4, downsampling=2), fixed, fixed, np.eye(4), 3.0)
    expected = torch.from_numpy(fixed.grid.points()) @ slope.T
    inside = (slice(None), *(slice(3, -3),) * 3)
    torch.testing.assert_close(found[inside].double(), expected.movedim(-1, 0)[inside], atol=1e-3, rtol=0)


def test_misuse_is_named():
    fixed = seen(grid_of((20, 20, 20)))
    with pytest.raises(InputError, match="8 along each axis"):
        network_grid(fixed, 10.0)
    with pytest.raises(InputError, match="must be positive"):
        network_grid(fixed, -1.0)
    for wrong in (torch.zeros(1, 2, 16, 16, 16), torch.zeros(3, 16, 16, 16), (1, 2)):
        with pytest.raises(ValueError, match="must return a field"):
            predict_velocity(wrapped(lambda x, out=wrong: out), fixed, fixed, np.eye(4), 4.0)
