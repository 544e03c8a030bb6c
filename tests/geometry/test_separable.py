# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Maps along one axis after the other: linear, adjoint to their transposes, and equal to numpy and einsum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import interpolation_matrix, separable, toeplitz


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


class TestInterpolationMatrix:
    def test_rows_sum_to_one_with_at_most_two_neighbors(self):
        matrix = interpolation_matrix(np.random.default_rng(0).uniform(-2, 9, 50), 7)
        np.testing.assert_allclose(matrix.sum(1), 1)
        assert (matrix >= 0).all() and ((matrix > 0).sum(1) <= 2).all()

    def test_voxels_are_kept_and_lines_reproduced(self):
        np.testing.assert_array_equal(interpolation_matrix(np.arange(7.0), 7), np.eye(7))
        where = np.linspace(0, 6, 25)
        np.testing.assert_allclose(interpolation_matrix(where, 7) @ (3 * np.arange(7) - 2), 3 * where - 2, atol=1e-12)

    def test_reversed_positions_read_the_reversed_axis(self):
        where = np.random.default_rng(1).uniform(-1, 7, 9)
        np.testing.assert_allclose(interpolation_matrix(6 - where, 7), interpolation_matrix(where, 7)[:, ::-1], atol=1e-12)


class TestToeplitz:
    def test_the_unit_kernel_changes_nothing(self):
        torch.testing.assert_close(toeplitz(torch.tensor([0.0, 1, 0]), 4), torch.eye(4))

    def test_the_transpose_is_the_convolution_with_the_mirrored_kernel(self):
        kernel = torch.rand(5, dtype=torch.float64)
        torch.testing.assert_close(toeplitz(kernel, 6).T, toeplitz(kernel.flip(0), 6), rtol=0, atol=0)

    def test_linear_in_the_kernel(self):
        a, b = torch.rand(2, 5, dtype=torch.float64)
        torch.testing.assert_close(toeplitz(2 * a - b, 6), 2 * toeplitz(a, 6) - toeplitz(b, 6))

    def test_kernels_longer_than_the_axis_keep_their_middle(self):
        kernel = torch.rand(9, dtype=torch.float64)
        torch.testing.assert_close(toeplitz(kernel, 3), toeplitz(kernel[2:7], 3), rtol=0, atol=0)


class TestSeparable:
    SHAPE, SIZES = (3, 4, 5), (6, 2, 3)

    def matrices(self) -> list[torch.Tensor]:
        return [torch.rand(m, n, dtype=torch.float64) for m, n in zip(self.SIZES, self.SHAPE)]

    def test_identity(self):
        field = torch.rand(2, *self.SHAPE, dtype=torch.float64)
        torch.testing.assert_close(separable([torch.eye(n, dtype=torch.float64) for n in self.SHAPE], field), field)

    def test_the_transposed_matrices_are_the_adjoint(self):
        matrices = self.matrices()
        x, y = (torch.rand(2, *shape, dtype=torch.float64) for shape in (self.SHAPE, self.SIZES))
        ahead, back = separable(matrices, x), separable([m.T for m in matrices], y)
        torch.testing.assert_close((ahead * y).sum(), (x * back).sum())

    def test_maps_compose_axis_by_axis(self):
        first, x = self.matrices(), torch.rand(1, *self.SHAPE, dtype=torch.float64)
        second = [torch.rand(4, m, dtype=torch.float64) for m in self.SIZES]
        both = separable([b @ a for a, b in zip(first, second)], x)
        torch.testing.assert_close(separable(second, separable(first, x)), both)

    def test_permuted_axes_and_channels_of_their_own(self):
        matrices, x = self.matrices(), torch.rand(2, *self.SHAPE, dtype=torch.float64)
        found = separable([matrices[i] for i in (2, 0, 1)], x.permute(0, 3, 1, 2))
        torch.testing.assert_close(found, separable(matrices, x).permute(0, 3, 1, 2))
        torch.testing.assert_close(separable(matrices, x[:1])[0], separable(matrices, x)[0])

    def test_gradcheck(self):
        matrices, x = self.matrices(), torch.rand(1, *self.SHAPE, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda field: separable(matrices, field), x)
