# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images, masks and starts that lie on different devices. Without a GPU these are the same, and must go all the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.registration import Start, optimize
from monai_locor.registration.engine import RegistrationEngine
from monai_locor.registration.start.prepare import prepare

from ..phantoms import grid_of, pair
from .short_runs import TINY, run

PLANE = grid_of((24, 22), (3.0, 3.0), (0.0, 0.0))
CPU = torch.device("cpu")


def on(image: MetaTensor, device: torch.device) -> MetaTensor:
    return MetaTensor(image.as_tensor().to(device), affine=image.affine)


def with_gap(image: MetaTensor) -> MetaTensor:
    out = MetaTensor(image.as_tensor().clone(), affine=image.affine)
    out[:, :3] = torch.nan
    return out


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor, torch.Tensor]:
    return pair(PLANE, PLANE)


@pytest.mark.parametrize("places", [*itertools.product("hd", repeat=4)], ids="".join)
def test_inputs_anywhere(places, images, device):
    """Fixed image (with voxels that do not count), moving image, mask and start, on the host or the device."""
    if device.type == "cpu" and "d" in places:
        pytest.skip("host and device are the same")
    fixed, moving, truth = images
    where = [CPU if place == "h" else device for place in places]
    mask = MetaTensor((fixed > -0.9).float(), affine=fixed.affine)
    result = run(
        on(with_gap(fixed), where[0]),
        on(moving, where[1]),
        TINY,
        fixed_mask=on(mask, where[2]),
        moving_mask=on(mask, where[3]),
        initial=truth.to(where[3]),
        device=device,
    )
    tensors = [result.forward_mm, result.inverse_mm, result.warped_moving, result.warped_fixed]
    assert result.fixed_image is not None and result.moving_image is not None and result.basis is not None
    tensors += [result.fixed_image, result.moving_image, *result.basis.forward.values(), *result.basis.inverse.values()]
    assert all(x.device.type == "cpu" for x in tensors)
    assert torch.isfinite(result.forward_mm).all()


@pytest.mark.slow
def test_the_start_may_be_an_array_a_tensor_or_ask_for_gradients(images, device):
    fixed, moving, truth = images
    matrix = np.eye(3) + np.array([[0, 0.01, 1], [-0.01, 0, 2], [0, 0, 0]])
    found = [
        run(fixed, moving, TINY, initial=start)
        for start in (matrix, torch.from_numpy(matrix).to(device), torch.from_numpy(matrix).to(device).requires_grad_())
    ]
    assert all(torch.equal(r.forward_mm, found[0].forward_mm) for r in found)
    velocity = 0.1 * truth
    found = [
        run(fixed, moving, TINY, initial_velocity=start)
        for start in (velocity, velocity.to(device), velocity.to(device).requires_grad_())
    ]
    assert all(torch.equal(r.forward_mm, found[0].forward_mm) for r in found)


def test_an_engine_works_where_the_fixed_image_is(images, device):
    fixed, moving, _ = images
    sides = [prepare(image, None, TINY.quantile, CPU) for image in (fixed, moving)]
    engine = optimize(RegistrationEngine(Start((sides[0].to(device), sides[1]), np.eye(3)), TINY))
    assert engine.device.type == device.type and engine.moving.image.device.type == device.type
    assert engine.forward_mm().isfinite().all()
