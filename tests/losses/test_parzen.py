# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parzen windows, streamed joint histograms, and the window matrices of the other measures."""

from __future__ import annotations

import pytest
import torch

from monai_locor.losses import parzen
from monai_locor.losses.banded import ReplicatedBox
from monai_locor.losses.parzen import GaussianParzen, Powers, SplineParzen, joint_histogram, spline_moments
from monai_locor.losses.windows import GridPlan, WindowPlan

from . import reference_measures as slow

CODES = {"gaussian": GaussianParzen(7), "wide": GaussianParzen(5, 1.3), "spline": SplineParzen(6), "two bins": SplineParzen(2)}
LIKE = torch.device("cpu"), torch.float64


def uniform(*shape: int) -> torch.Tensor:
    """Both ends and the bins among the values."""
    out = torch.rand(shape, dtype=torch.float64)
    out[..., :7] = torch.arange(7, dtype=torch.float64) / 6
    return out


@pytest.mark.parametrize("code", CODES.values(), ids=CODES.keys())
class TestCodes:
    def test_columns_add_up_to_one(self, code):
        found = code.encode(uniform(2, 40))
        assert found.shape == (2, code.size, 40) and found.min() >= 0
        torch.testing.assert_close(found.sum(1), torch.ones(2, 40, dtype=torch.float64))

    def test_symmetric(self, code):
        u = uniform(1, 40)
        torch.testing.assert_close(code.encode(1 - u), code.encode(u).flip(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 2.0])
def test_gaussian_weights(ratio):
    u = uniform(1, 30)
    expected = torch.tensor([slow.gaussian_parzen(float(x), 9, ratio) for x in u[0]], dtype=torch.float64)
    # between bins of a narrow Gaussian all weights are small before they are normalized, and the least of them is cut
    torch.testing.assert_close(
        GaussianParzen(9, ratio).encode(u)[0].T, expected, rtol=1e-9, atol=1e-10 if ratio < 0.5 else 1e-14
    )


def test_spline_weights_and_their_moments():
    u = uniform(1, 30)
    expected = torch.tensor([slow.spline_parzen(float(x), 9) for x in u[0]], dtype=torch.float64)
    torch.testing.assert_close(SplineParzen(9).encode(u)[0].T, expected, rtol=1e-9, atol=1e-12)
    bins = torch.arange(9, dtype=torch.float64) / 8
    for power, found in zip((1, 2), spline_moments(u, 9), strict=True):
        torch.testing.assert_close(found[0], expected @ bins**power, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("portion", [5, 64])
@pytest.mark.parametrize("columns", [SplineParzen(4), Powers()], ids=["spline", "powers"])
@pytest.mark.parametrize("rows", [GaussianParzen(3), SplineParzen(5)], ids=["gaussian", "spline"])
def test_joint_histogram(rows, columns, portion, monkeypatch):
    """Items together or in parts: the sum over voxels of outer products, and its gradient."""
    monkeypatch.setitem(parzen.PORTION_VOXELS, "cpu", portion)
    x, y, weight = (torch.rand(3, 23, dtype=torch.float64) for _ in range(3))
    found = joint_histogram(rows, columns, x, y, weight)
    torch.testing.assert_close(found, torch.einsum("gi,gki,gli->gkl", weight, rows.encode(x), columns.encode(y)))
    x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: joint_histogram(rows, columns, a, b, weight), (x, y), fast_mode=True)


@pytest.mark.parametrize("spacing", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 9, 73])
def test_spline_windows(size, spacing):
    windows = GridPlan([WindowPlan.spline(size, spacing)], [False], *LIKE).centered[0]
    dense = slow.spline_matrix(size, spacing)
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(windows.filter(identity, 0), dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(windows.filter(identity, 1), dense.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(windows.adjoint(torch.eye(len(dense), dtype=torch.float64), 0), dense.T, rtol=0, atol=1e-12)
    rows, part = windows.part(slice(size // 3, size))
    torch.testing.assert_close(part, dense[rows, size // 3 :], rtol=0, atol=1e-12)
    assert size < 4 * spacing or ((dense.sum(0)[2 * spacing : -2 * spacing] - 1).abs() < 1e-12).all()


@pytest.mark.parametrize("radius", [0, 1, 4])
@pytest.mark.parametrize("size", [1, 2, 9, 33])
def test_replicated_box(size, radius):
    expected = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for step in range(-radius, radius + 1):
            expected[i, min(max(i + step, 0), size - 1)] += 1 / (2 * radius + 1)
    box, identity = ReplicatedBox(size, radius, *LIKE), torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(box.filter(identity, 0), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(box.adjoint(identity, 0), expected.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(box.filter(identity, 1), expected.T, rtol=0, atol=1e-12)
