# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Metrics, warps and transforms of tensors on the pretended device: the answers of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import metrics
from monai_locor.geometry import warp, warped
from monai_locor.transforms import DerivativeMagnitude, DerivativeMagnituded

from ..phantoms import grid_of, pair

GRID = grid_of((14, 13, 12), (2.0, 2.0, 2.5))
FIXED, MOVING, FIELD = pair(GRID, GRID)
LABELS = (FIXED.as_tensor() > 0.3).long() + (FIXED.as_tensor() > 0.8)
MASK = (FIXED.as_tensor() > 0.1).float()

There = Callable[[torch.Tensor], torch.Tensor]


def image(there: There) -> MetaTensor:
    return MetaTensor(there(FIXED.as_tensor()), affine=FIXED.affine)


CALLS: dict[str, Callable[[There], Any]] = {
    "jacobian_determinant": lambda c: metrics.jacobian_determinant(c(FIELD), GRID),
    "jacobian_statistics": lambda c: metrics.jacobian_statistics(c(FIELD), GRID, c(MASK)),
    "jacobian_statistics, mask of the host": lambda c: metrics.jacobian_statistics(c(FIELD), GRID, MASK),
    "non_diffeomorphic_volume": lambda c: metrics.non_diffeomorphic_volume(c(FIELD), GRID, c(MASK)),
    "normalized_mutual_information": lambda c: metrics.normalized_mutual_information(image(c), c(MOVING), c(MASK)),
    "target_registration_error": lambda c: metrics.target_registration_error(c(FIELD), c(FIELD / 2), c(MASK[0])),
    "target_registration_error, truth of the host": lambda c: metrics.target_registration_error(c(FIELD), FIELD / 2),
    "inverse_consistency": lambda c: metrics.inverse_consistency(c(FIELD), GRID, c(-FIELD), GRID, c(MASK[0])),
    "dice_per_label": lambda c: metrics.dice_per_label(c(LABELS), c(LABELS.flip(1))),
    "hausdorff_per_label": lambda c: metrics.hausdorff_per_label(c(LABELS), c(LABELS.flip(1)), GRID),
    "warp": lambda c: warp(c(FIXED.as_tensor()), GRID, c(FIELD), GRID),
    "warped": lambda c: warped(image(c), GRID, c(FIELD), GRID),
    "warped, field of the host": lambda c: warped(image(c), GRID, FIELD, GRID),
    "warped labels": lambda c: warped(c(LABELS), GRID, c(FIELD), GRID, "nearest"),
    "derivative": lambda c: DerivativeMagnitude()(image(c)),
    "derivative, smoothed": lambda c: DerivativeMagnitude(sigma=1.5)(image(c)),
    "derivative, spacing": lambda c: DerivativeMagnitude(spacing=2.0, append=False)(c(FIXED.as_tensor())),
    "derivative, dictionary": lambda c: DerivativeMagnituded("x", spacing="voxel")({"x": image(c)})["x"],
}


def numbers(value: Any) -> Any:
    """Tensors as arrays on the host."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return {key: numbers(v) for key, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", CALLS)
def test_answers_are_those_of_the_host(cuda, name):
    there, here = CALLS[name](lambda x: x.to("cuda")), CALLS[name](lambda x: x)
    assert cuda.record.launches
    found, expected = numbers(there), numbers(here)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("derivative")])
def test_transforms_stay_where_they_are(cuda, name):
    there, here = CALLS[name](lambda x: x.to("cuda")), CALLS[name](lambda x: x)
    assert there.device.type == "cuda" and isinstance(there, MetaTensor) == isinstance(here, MetaTensor)
    if isinstance(here, MetaTensor):
        np.testing.assert_array_equal(there.affine, here.affine)
