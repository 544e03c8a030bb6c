# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The windows one by one, in Triton's interpreter, against a dense matrix."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from monai_locor.losses.streaming import StreamedWindows
from monai_locor.losses.windows import GridPlan, WindowPlan

from ..reference import axis_matrix
from ..test_windows import GEOMETRY, SHARES

SIZES = (1, 5, 34), (2, 24, 3), (97, 1, 13)


def dense_from_rows(first: torch.Tensor, weights: torch.Tensor, size: int) -> torch.Tensor:
    out = torch.zeros(len(weights), size + weights.shape[1])
    for row, (begin, values) in enumerate(zip(first.tolist(), weights, strict=True)):
        out[row, begin : begin + len(values)] = values
    assert not out[:, size:].any()
    return out[:, :size]


@pytest.mark.parametrize(("sigma", "stride", "truncated"), GEOMETRY)
def test_they_are_the_dense_matrices(interpreter, sigma, stride, truncated):
    for sizes, share in product(SIZES, SHARES):
        axes = [WindowPlan.gaussian(size, sigma, stride, truncated) for size in sizes]
        plan = GridPlan(axes, [True] * len(axes), torch.device("cpu"), torch.float32)
        shift = torch.tensor([share, -share, 0.3 * share], dtype=torch.float64) * stride
        windows = StreamedWindows(plan.shifted(shift), 1 << 22)
        for lists, size, own in zip(interpreter._lists(windows), sizes, shift.tolist(), strict=True):
            dense = axis_matrix(size, sigma, stride, truncated, own).float()
            found = dense_from_rows(lists.first_voxel, lists.weights, size)
            torch.testing.assert_close(found, dense, rtol=0, atol=1e-6)
            found = dense_from_rows(lists.first_window, lists.voxel_weights, len(dense)).T
            torch.testing.assert_close(found, dense, rtol=0, atol=1e-6)
            for part in vars(lists).values():
                assert part.data_ptr() % 16 == 0 and part.is_contiguous()
