# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""AxisWindows against a dense matrix."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from monai_locor.losses import windows as module
from monai_locor.losses.windows import AxisWindows, window_count

from .reference import axis_matrix

SIZES = [1, 2, 3, 5, 24, 71, 72, 73, 97]
SHARES = [-0.5, -0.123, 0.0, 0.4, 0.5]  # of the stride
GEOMETRY = [(0.8, 3, 3.0), (0.8, 1, 3.0), (2.0, 3, 3.0), (0.3, 2, 2.0), (1.0, 2.5, 3.0), (0.7, 0.5, 3.0), (0.5, 11, 1.0)]


@pytest.fixture(params=[True, False], ids=["whole", "blocks"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first axis's matrix kept whole, as that of a short axis, or in blocks and a band."""
    monkeypatch.setattr(module, "MAX_DENSE_NUMBERS", request.param * module.MAX_DENSE_NUMBERS)


def make(size: int, sigma: float, stride: float, truncated: float, share: float = 0.0) -> tuple[AxisWindows, torch.Tensor]:
    """The windows and their dense matrix, shifted by a share of the stride."""
    shift = share * stride
    windows = AxisWindows.gaussian(size, sigma, stride, truncated, torch.tensor(shift, dtype=torch.float64))
    return windows, axis_matrix(size, sigma, stride, truncated, shift)


@pytest.mark.parametrize(
    ("size", "stride", "count"), [(1, 3, 1), (3, 3, 1), (4, 3, 2), (200, 1, 200), (5, 2.5, 2), (3, 0.1, 30)]
)
def test_count(size, stride, count):
    assert window_count(size, stride) == count


@pytest.mark.parametrize(("sigma", "stride", "truncated"), GEOMETRY)
def test_filter_and_adjoint_are_the_dense_matrix(layout, sigma, stride, truncated):
    for size, share in product(SIZES, SHARES):
        windows, dense = make(size, sigma, stride, truncated, share)
        identity = torch.eye(size, dtype=torch.float64)
        assert windows.count == len(dense)
        torch.testing.assert_close(windows.filter(identity, 0), dense, rtol=0, atol=1e-12)
        torch.testing.assert_close(windows.filter(identity, 1), dense.T, rtol=0, atol=1e-12)
        identity = torch.eye(windows.count, dtype=torch.float64)
        torch.testing.assert_close(windows.adjoint(identity, 0), dense.T, rtol=0, atol=1e-12)
        torch.testing.assert_close(windows.adjoint(identity, 1), dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sigma", "stride", "truncated"), GEOMETRY)
def test_parts_add_up(layout, sigma, stride, truncated):
    for size, share in product(SIZES, (-0.5, 0.31)):
        windows, dense = make(size, sigma, stride, truncated, share)
        for length in (1, 10, size):
            total = torch.zeros_like(dense)
            for start in range(0, size, length):
                slab = slice(start, min(start + length, size))
                rows, weight = windows.part(slab)
                total[rows, slab] = weight
            torch.testing.assert_close(total, dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(4, 30, 5, 6), (1, 61, 1, 7)])
def test_any_axis(axis, shape):
    windows, dense = make(shape[axis], 0.8, 3, 3.0, 0.2)
    x = torch.rand(shape, dtype=torch.float64)
    expected = torch.tensordot(x, dense, ([axis], [1])).movedim(-1, axis)
    torch.testing.assert_close(windows.filter(x, axis), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e-3, 0.05, 0.8, 5.0, 100.0])
def test_rows_are_averages(sigma, dtype):
    """Also where the whole Gaussian lies between two voxels or almost outside: no row is empty."""
    for size, share, stride in product((1, 2, 7, 72), (-0.5, 0.0, 0.5), (0.5, 3, 50)):
        windows = AxisWindows.gaussian(size, sigma, stride, 3.0, torch.tensor(share * stride, dtype=dtype))
        average = windows.filter(torch.ones(1, size, dtype=dtype), 1)
        assert average.dtype == dtype
        torch.testing.assert_close(average, torch.ones_like(average), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("sigma", "stride", "truncated"), GEOMETRY)
def test_symmetric_without_shift(sigma, stride, truncated):
    for size in SIZES:
        windows, _ = make(size, sigma, stride, truncated)
        matrix = windows.filter(torch.eye(size, dtype=torch.float64), 0)
        torch.testing.assert_close(matrix.flip(0, 1), matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [30, 31])
@pytest.mark.parametrize(("sigma", "stride"), [(0.8, 3), (1.5, 4), (0.8, 2.5)])
def test_on_average_over_the_shifts_all_voxels_count_equally(size, sigma, stride):
    shares = (torch.arange(100, dtype=torch.float64) + 0.5) / 100 - 0.5
    columns = [
        make(size, sigma, stride, 3.0, share)[0].filter(torch.eye(size, dtype=torch.float64), 0).sum(0)
        for share in shares.tolist()
    ]
    coverage = torch.stack(columns).mean(0)
    reach = round(3 * sigma) + 2
    interior = coverage[reach:-reach]
    torch.testing.assert_close(interior, torch.full_like(interior, 1 / stride), rtol=0.02, atol=0)
    assert coverage.min() > 0.8 / stride and coverage.max() < 2 / stride
    torch.testing.assert_close(coverage.flip(0), coverage)


@pytest.mark.parametrize(("sigma", "stride", "truncated"), GEOMETRY)
def test_no_shift_exceeds_the_overlap(sigma, stride, truncated):
    for size, share in product((1, 2, 5, 30, 61), (-0.5, -0.45, -0.2, 0.0, 0.3, 0.5)):
        windows, _ = make(size, sigma, stride, truncated, share)
        seen = windows.part(slice(0, size))[1] != 0
        # consecutive, so that the first voxel and the largest number find them all
        assert seen.int().diff(dim=1).clamp_min(0).sum(1).max() <= 1
        assert seen.sum(1).max() <= windows.overlap[0] <= seen.sum(1).max() + 2
        assert seen.sum(0).max() <= windows.overlap[1]
        assert windows.rows(slice(0, size)) == windows.part(slice(0, size))[0]
