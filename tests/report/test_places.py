# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The most doubtful places: far apart, inside the anatomy, the same however the images are stored."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, apply_affine, reorder
from monai_locor.report.evidence import Evidence
from monai_locor.report.places import MAX_PLACES, doubtful_places, separate_maxima

from ..phantoms import grid_of
from .results import aligned, result_with

GRID = grid_of((30, 28, 26), (2.0, 2.0, 2.0))
CENTERS = np.array([[-20.0, 0, 0], [20, 0, 0], [0, 20, 0], [0, -20, 0], [0, 0, 20], [0, 0, -20], [0, 0, 0]])


def bumps(grid: Grid, heights: list[float], width: float = 3.0) -> np.ndarray:
    """Gaussians at the centers, ``(*grid)``."""
    distance = np.linalg.norm(grid.points()[..., None, :] - CENTERS[: len(heights)], axis=-1)
    return (np.exp(-0.5 * (distance / width) ** 2) * heights).sum(-1)


def evidence_of(determinant: np.ndarray | None = None, anatomy: np.ndarray | None = None, **changes) -> Evidence:
    """Of a result without displacement."""
    result = result_with(*aligned(GRID), **changes)
    upright = GRID.reordered(*GRID.canonical_order())
    fixed = np.random.default_rng(0).random(upright.shape, np.float32)
    where = np.ones(upright.shape, dtype=bool) if anatomy is None else anatomy
    return Evidence.of(result, fixed, where, np.ones(upright.shape) if determinant is None else determinant, None)


class TestMaxima:
    def test_the_highest_come_first(self):
        found = separate_maxima(bumps(GRID, [3, 5, 4, 2, 1, 6, 7]), GRID, 6.0, 5)
        places = apply_affine(GRID.affine, np.array(found, dtype=float))
        np.testing.assert_allclose(places, CENTERS[[6, 5, 1, 2, 0]], atol=1.5)

    def test_they_are_apart(self):
        noise = np.random.default_rng(1).random(GRID.shape)
        for distance in (8.0, 15.0):
            points = apply_affine(GRID.affine, np.array(separate_maxima(noise, GRID, distance, 8), dtype=float))
            steps = np.linalg.norm(points[:, None] - points[None], axis=-1)[~np.eye(len(points), dtype=bool)]
            assert len(points) > 3 and steps.min() >= distance

    def test_a_slope_is_no_maximum_and_unknown_values_do_not_count(self):
        slope = GRID.points()[..., 0]
        (end,) = separate_maxima(np.where(slope < 10, slope + 1e-6 * GRID.points()[..., 1:].sum(-1), math.nan), GRID, 6.0, 5)
        assert slope[end] < 10 and slope[end] > 7
        assert separate_maxima(np.full(GRID.shape, math.nan), GRID, 6.0, 5) == []


class TestPlaces:
    def test_nothing_stands_out_in_a_result_without_errors(self):
        assert doubtful_places(evidence_of(), GRID) == []

    def test_strong_changes_of_volume_are_found_in_the_anatomy_only(self):
        anatomy = GRID.points()[..., 0] < 10
        places = doubtful_places(evidence_of(1 + bumps(GRID, [3, 5, 4, 2, 2.5, 3.5, 4.5]), anatomy), GRID)
        assert len(places) == MAX_PLACES and all("volumes change" in place.reason for place in places)
        points = np.array([place.position_mm for place in places])
        assert points[:, 0].max() < 10
        np.testing.assert_allclose(points[0], CENTERS[6], atol=1.5)
        for place in places:
            np.testing.assert_allclose(apply_affine(GRID.affine, np.array(place.voxel, dtype=float)), place.position_mm)

    def test_inverses_that_disagree_are_found_and_named(self):
        shift = torch.zeros(3, *GRID.shape)
        shift[0] = torch.from_numpy(bumps(GRID, [3.0])).float()
        (place,) = doubtful_places(evidence_of(forward=torch.zeros_like(shift), inverse=shift), GRID)
        np.testing.assert_allclose(place.position_mm, CENTERS[0], atol=2.1)
        assert place.reason.startswith("forward and inverse transform differ by")

    def test_folds_missing_tissue_and_borders_have_their_words(self):
        determinant, missing = np.ones(GRID.shape), torch.zeros(1, *GRID.shape)
        determinant[10:13, 10:13, 10:13] = -0.1
        missing[0, 9:14, 9:14, 9:14] = 0.8
        evidence = evidence_of(determinant, missing_fixed=missing)
        assert {"the transform folds", "the moving image may not show this tissue (probability 0.80)"} <= set(
            doubtful_places(evidence, GRID)[0].reason.split("; ")
        )
        edge = evidence.reasons((0, 5, 5))
        assert edge == ["at the border of the field of view of the moving image"]

    def test_poor_fits_are_relative_to_the_median(self):
        residual = 0.001 * (1 + bumps(GRID, [9.0, 0, 0, 4.0]))
        evidence = dataclasses.replace(evidence_of(), residual=residual / np.median(residual))
        places = doubtful_places(evidence, GRID)
        np.testing.assert_allclose([place.position_mm for place in places], CENTERS[[0, 3]], atol=1.5)
        assert all(place.reason.startswith("the images fit poorly (local residual") for place in places)


@pytest.mark.parametrize(("axes", "flips"), [((2, 0, 1), (True, False, True)), ((0, 1, 2), (False, True, False))])
def test_places_do_not_depend_on_the_order_of_the_axes(axes, flips):
    from monai_locor.report.html.report_images import ReportImages

    shift = torch.zeros(3, *GRID.shape)
    shift[1] = torch.from_numpy(bumps(GRID, [3.0, 4.0, 5.0])).float()
    found = []
    for grid, inverse in ((GRID, shift), (GRID.reordered(axes, flips), reorder(shift, axes, flips))):
        fixed, moving = aligned(grid)
        result = result_with(fixed, moving, torch.zeros_like(inverse), inverse)
        places = ReportImages.of(result, fixed, moving, {}, residuals=False).places
        found.append(places)
        assert len(places) == 3
        for place in places:
            np.testing.assert_allclose(apply_affine(grid.affine, np.array(place.voxel, dtype=float)), place.position_mm)
    np.testing.assert_allclose(*([place.position_mm for place in places] for places in found), atol=1e-9)
