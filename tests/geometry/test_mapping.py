# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Displacements of maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from monai_locor.geometry.mapping import displacement_of_affine

from .test_grid import GRIDS


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_that_of_an_affine_leads_from_each_voxel_to_where_it_is_mapped(grid):
    matrix = np.eye(grid.dims + 1)
    matrix[:-1] += np.random.default_rng(0).uniform(-0.3, 0.3, (grid.dims, grid.dims + 1))
    found = displacement_of_affine(matrix, grid)
    assert found.shape == (grid.dims, *grid.shape)
    for index in itertools.product(*(range(n) for n in grid.shape)):
        point = grid.affine @ [*index, 1]
        np.testing.assert_allclose(found[(slice(None), *index)], (matrix @ point - point)[:-1], atol=1e-5)
