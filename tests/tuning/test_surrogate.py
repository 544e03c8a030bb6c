# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The Gaussian processes that say which trials to trust."""

from __future__ import annotations

import numpy as np
import pytest

from monai_locor.tuning.surrogate import Surrogate

pytest.importorskip("sklearn")


def valley(points: np.ndarray) -> np.ndarray:
    return 1 + 4 * (points[:, 0] - 0.3) ** 2  # the second parameter does nothing


def test_the_mean_is_closer_to_the_truth_than_the_scores():
    lucky, expected, errors = 0.0, 0.0, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = rng.random((40, 2))
        values = valley(points) + 0.2 * rng.standard_normal(40)
        found = Surrogate(points, values, refits=2, seed=seed)
        errors.append(np.sqrt(((found.mean(points) - valley(points)) ** 2).mean()))
        lucky += abs(points[values.argmin(), 0] - 0.3)
        expected += abs(points[found.order(points)[0], 0] - 0.3)
    assert max(errors) < 0.1  # of scores that are off by 0.2
    assert expected < 0.6 * lucky  # nearer the bottom than the lowest scores


def test_a_failed_run_has_little_influence():
    points = np.linspace(0, 1, 20)[:, None]
    values = valley(points)
    values[4] = 50.0
    expected = Surrogate(points, values, refits=3).mean(points)
    assert (np.abs(expected - valley(points))[[0, 1, 9, 12, 15]] < 0.8).all()


def test_order_and_mean_agree_and_depend_on_the_seed_only():
    rng = np.random.default_rng(1)
    points, values = rng.random((12, 3)), rng.random(12)
    one, two = (Surrogate(points, values, refits=2, seed=3) for _ in range(2))
    assert np.array_equal(one.mean(points), two.mean(points))
    assert (np.diff(one.mean(points)[one.order(points)]) >= -1e-9).all()


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0]])
def test_equal_scores(values):
    points = np.arange(len(values))[:, None] / 3
    found = Surrogate(points, np.array(values))
    assert found.mean(np.array([[0.5]])) == pytest.approx([2.0]) and found.order(points) == list(range(len(values)))
