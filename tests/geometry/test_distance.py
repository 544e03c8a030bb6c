# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Distances on a lattice: those of SciPy, and of the definition."""

from __future__ import annotations

import pytest
import torch

from monai_locor.geometry import identity_points
from monai_locor.geometry.distance import signed_distance, squared_distance


@pytest.mark.parametrize("shape", [(7,), (9, 6), (6, 5, 7)], ids=str)
def test_distances_are_those_of_the_nearest_target(shape, device):
    targets = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)) < 0.1
    targets[:, 0] |= ~targets.flatten(1).any(1).view(-1, *[1] * (len(shape) - 1))
    places = identity_points(shape).flatten(1).T
    expected = [torch.cdist(places, places[each.flatten()]).square().amin(1).view(shape) for each in targets]
    torch.testing.assert_close(squared_distance(targets.to(device)).cpu(), torch.stack(expected), rtol=0, atol=1e-3)


def test_without_a_target_they_are_infinite():
    assert squared_distance(torch.zeros(1, 3, 4, dtype=torch.bool)).isinf().all()


def test_scipy_agrees():
    ndimage = pytest.importorskip("scipy.ndimage")
    inside = torch.rand(2, 12, 11, 10, generator=torch.Generator().manual_seed(2)) < 0.3
    for own, found in zip(inside.numpy(), signed_distance(inside), strict=True):
        expected = ndimage.distance_transform_edt(~own) - ndimage.distance_transform_edt(own)
        expected += 0.5 * own - 0.5 * ~own
        torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=0, atol=1e-5)


def test_a_ball_has_its_radius():
    places = identity_points((24, 24, 24)) - 11.5
    radius = places.norm(dim=0)
    found = signed_distance((radius < 8)[None])[0]
    assert float((found - (radius - 8)).abs().max()) < 1.0
    assert float((found - (radius - 8))[radius < 11].mean().abs()) < 0.2
