# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cavities of the benchmark of missing tissue, and its rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from .cases import FIXED, SHAPE, SHIFT, scripts, write_blob_case

SPACING = np.array([2.0, 2.0, 3.0])


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return scripts(monkeypatch, "missing", "_cavity")


def ball(radius_mm: float = 26.0) -> tuple[np.ndarray, np.ndarray]:
    """An image of a ball, and the ball."""
    offset = (np.moveaxis(np.indices((32, 32, 22)), 0, -1) - [16, 16, 11]) * SPACING
    inside = np.linalg.norm(offset, axis=-1) < radius_mm
    return np.where(inside, 100 + 5 * np.sin(offset[..., 0]), 2).astype(np.float32), inside


@pytest.mark.parametrize("kind", ["csf", "zero", "rim", "metal"])
def test_a_cavity_has_its_volume_inside_the_tissue(modules, kind):
    image, inside = ball()
    made = modules.cavity.cut(image, inside, SPACING, 6.0, kind, True, np.random.default_rng(1))
    ml = made.hole.sum() * SPACING.prod() / 1000
    assert ml == pytest.approx(6.0, abs=0.02) if kind != "rim" else ml > 7
    assert not (made.hole & ~inside).any()
    assert not (made.hole & ~made.changed).any()
    far = ~made.changed & ~np.isclose(made.image, image, atol=12)
    assert far.sum() < 0.6 * made.hole.sum()  # the border is blurred


def test_the_same_seed_gives_the_same_cavity(modules):
    image, inside = ball()
    first, second, other = (
        modules.cavity.cut(image, inside, SPACING, 6.0, "csf", True, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.image, second.image)
    assert (first.hole != other.hole).any()


def test_area_under_the_curve(modules):
    area = modules.missing.area_under_curve
    positive = np.array([0, 0, 1, 1], dtype=bool)
    assert area(np.array([0.1, 0.2, 0.3, 0.4]), positive) == 1
    assert area(np.array([0.4, 0.3, 0.2, 0.1]), positive) == 0
    assert area(np.ones(4), positive) == 0.5
    assert np.isnan(area(np.ones(4), ~np.zeros(4, dtype=bool)))


def test_a_row_of_the_true_and_of_a_worse_transform(modules, tmp_path):
    folder = write_blob_case(tmp_path / "case")
    (folder / "case.json").write_text(json.dumps({"fixed": "a_T1.nii.gz", "moving": "a_T2.nii.gz"}))
    case = modules.missing.Case(folder)
    hole = np.zeros(SHAPE, dtype=bool)
    hole[6:9, 8:11, 5:8] = True
    made = modules.cavity.Cut(case.images["fixed"], hole, hole)
    intact = np.broadcast_to(SHIFT + [1.0, 0, 0], (*SHAPE, 3))
    worse = np.moveaxis(np.broadcast_to(SHIFT + [3.0, 0, 0], (*SHAPE, 3)), -1, 0).copy()
    result = SimpleNamespace(
        forward_mm=worse, missing_fixed=hole[None].astype(float), missing_ml={"fixed": 1.0, "moving": 1.0}, seconds=2.0
    )
    found = modules.missing.row(case, made, intact, result)
    assert found["error"] == found["rim"] == 3
    assert found["volume %"] == 0
    assert found["AUROC"] == 1
    np.testing.assert_allclose(case.determinant(intact), 1)
    np.testing.assert_allclose(case.spacings["fixed"], np.linalg.norm(FIXED[:3, :3], axis=0))
