# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One image is the mirror image of the other, or a header says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.geometry import apply_affine
from monai_locor.metrics import jacobian_statistics
from monai_locor.metrics.jacobian import unmirrored

from ..parameters import mostly_slow
from ..phantoms import CUBE, PLANE, anatomy, image, other_modality, pair, small_deformation
from .short_runs import SHORT, TINY, run


@pytest.fixture(scope="module", params=mostly_slow([2, 3]))
def mirrored(request):
    grid = PLANE if request.param == 2 else CUBE
    mirror = np.diag([-1.0, *[1.0] * grid.dims])
    truth = small_deformation(grid)
    moved = grid.points() + truth.movedim(0, -1).double().numpy()
    moving = image(anatomy(apply_affine(mirror, grid.points())), grid)
    found = run(image(other_modality(anatomy(moved)), grid), moving, SHORT, initial=mirror)
    return found, moved, mirror


def test_an_initial_affine_that_mirrors_finds_it(mirrored):
    found, moved, mirror = mirrored
    mapped = found.fixed_grid.points() + found.forward_mm.movedim(0, -1).double().numpy()
    error = np.linalg.norm(mapped - apply_affine(mirror, moved), axis=-1)
    inner = tuple(slice(5, n - 5) for n in error.shape)
    assert error[inner].mean() < 1 and np.linalg.det(found.affine) < 0


def test_it_does_not_fold_and_warns(mirrored):
    found = mirrored[0]
    assert found.jacobian["folding_percent"] == 0 and found.jacobian["ndv"] == 0 and found.jacobian["min"] > 0.3
    assert {r.check for r in found.verdict.reasons if r.status == "FAIL"} == set()
    assert any("mirrors" in r.text for r in found.verdict.reasons if r.status == "WARN")


def test_a_half_turn_does_not_warn(caplog):
    run(*pair(PLANE, PLANE)[:2], TINY, initial=np.diag([-1.0, -1.0, 1.0]))
    assert "mirrors" not in caplog.text


@pytest.mark.parametrize("grid", [CUBE, PLANE], ids=["cube", "plane"])
def test_a_second_mirror_changes_the_sign_alone(grid):
    field = small_deformation(grid)
    mirror = np.diag([1.0, -1.0, *[1.0] * (grid.dims - 1)])
    moved = apply_affine(mirror, grid.points() + field.movedim(0, -1).double().numpy()) - grid.points()
    other = torch.from_numpy(np.moveaxis(moved, -1, 0)).float()
    assert unmirrored(field, grid, np.eye(grid.dims + 1)) is field
    found, expected = jacobian_statistics(unmirrored(other, grid, mirror), grid), jacobian_statistics(field, grid)
    assert found == pytest.approx(expected, abs=1e-3)
    assert jacobian_statistics(other, grid)["folding_percent"] == 100 and expected["folding_percent"] == 0
