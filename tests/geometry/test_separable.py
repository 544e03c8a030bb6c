# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Maps along one axis after the other, against numpy and einsum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import interpolation_matrix, separable, slabs, toeplitz


def test_interpolation_matrix():
    samples, where = np.random.default_rng(0).random(7), np.array([-2.0, 0, 0.3, 3, 5.75, 6, 9])
    expected = np.interp(where, np.arange(7), samples)
    np.testing.assert_allclose(interpolation_matrix(where, 7) @ samples, expected, atol=1e-12)
    np.testing.assert_array_equal(interpolation_matrix(where, 1), 1)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 5)])
def test_separable(shape):
    field = torch.rand(2, *shape, dtype=torch.float64)
    matrices = [torch.rand(n + 2, n, dtype=torch.float64) for n in shape]
    inner, outer = "abc"[: len(shape)], "xyz"[: len(shape)]
    terms = ",".join(f"{o}{i}" for o, i in zip(outer, inner))
    expected = torch.einsum(f"k{inner},{terms}->k{outer}", field, *matrices)
    torch.testing.assert_close(separable(matrices, field), expected)


@pytest.mark.parametrize("length", [1, 3, 7])
def test_toeplitz_is_a_convolution(length):
    kernel, values = torch.rand(length, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    expected = np.convolve(values, kernel.flip(0))[length // 2 : length // 2 + 5]  # a correlation, as in neural networks
    np.testing.assert_allclose(toeplitz(kernel, 5) @ values, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3), (7, 4, 5), (100, 1, 1)])
@pytest.mark.parametrize("voxels", [1, 20, 60, 10**6])
def test_slabs_cover_the_axis_once_and_keep_to_their_size(shape, voxels):
    found = slabs(shape, voxels)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(shape[0]))
    plane = int(np.prod(shape[1:]))
    longest = max(part.stop - part.start for part in found)
    assert longest * plane <= max(voxels, plane)
    assert len(found) == -(-shape[0] // max(1, voxels // plane))
