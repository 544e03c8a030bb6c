# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks drive a registration beside the images."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
import torch

from monai_locor import InputError, register
from monai_locor.geometry import Grid
from monai_locor.io.points import PointList, write_points
from monai_locor.metrics import inverse_consistency
from monai_locor.registration import Stage, optimize
from monai_locor.registration.landmark_term import LandmarkTerm
from monai_locor.registration.landmarks import Landmarks
from monai_locor.registration.manifest import RunManifest
from monai_locor.registration.mapped_points import PointMapper
from monai_locor.schemas import run_schema

from ..phantoms import CUBE, PLANE, grid_of, image, pair
from .guided import FIXED, MOVING, QUICK, STAGES, GuidedSteps, some_map
from .short_runs import SHORT, TINY, engine_of, inner, run


def points(grid: Grid, count: int, seed: int = 0) -> np.ndarray:
    """Random points in the inner three quarters of a field of view, ``(N, D)``, mm."""
    voxels = (0.125 + 0.75 * np.random.default_rng(seed).random((count, grid.dims))) * (np.array(grid.shape) - 1)
    return voxels @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1]


def term_of(grid: Grid, velocity=None, weights=None, count: int = 6, **options) -> LandmarkTerm:
    fixed, moving = points(grid, count), points(grid, count, 1)
    return LandmarkTerm(
        Landmarks.of((fixed, moving, weights)),
        **{"weight": 0.7, "sample_distance": 2.5, **options},
        mapper=PointMapper(grid, velocity),
    )


class TestTerm:
    @pytest.mark.parametrize("grid", [PLANE, grid_of((9, 8, 7), (3.0, 4.0, -5.0), turn=0.4)], ids=["2-D", "3-D"])
    @pytest.mark.parametrize("k", [0, 1])
    def test_gradient(self, grid, k):
        velocity, matrices, fields = some_map(grid)
        term = term_of(grid, velocity, count=3)
        given = matrices[k].clone().requires_grad_(), fields[k].double().requires_grad_()
        # linear interpolation has a kink at lattice points, which random points do not hit
        assert torch.autograd.gradcheck(lambda m, u: term(k, m, u), given, eps=1e-7, atol=1e-5, fast_mode=True)

    def test_mapped_points_are_those_of_the_engine(self):
        """Agreement with the displacement fields of a result, an independent path from lattice to mm."""
        fixed, moving, _ = pair(PLANE, grid_of((40, 52), (1.7, 1.4), turn=0.3))
        engine = engine_of((fixed, moving), TINY)
        optimize(engine)
        mapper = PointMapper(engine.fixed.grid, engine.velocity)
        term = LandmarkTerm(Landmarks.of((points(PLANE, 5), points(PLANE, 5, 1))), 1.0, 1.0, mapper)
        with torch.no_grad():
            matrices, fields = engine.affine.both(), engine.velocity.reversed()
            moved = [term.mapped(k, matrices[k], fields[k]) for k in (0, 1)]
            back = mapper.displaced(matrices[1][:2, :2] @ moved[0] + matrices[1][:2, 2:], fields[1])
        result = Landmarks.of((moved[0].T, moved[0].T)).distances(np.eye(3), engine.forward_mm(), engine.fixed.grid)
        assert result["count"] == 5
        expected = Landmarks.of((points(PLANE, 5), moved[0].T)).distances(np.eye(3), engine.forward_mm(), engine.fixed.grid)
        assert expected["before"]["max"] > 0.5 and expected["after"]["max"] < 0.02
        assert float((back - term.points[0]).norm(dim=0).max()) < 0.1

    def test_value(self):
        """Against the formula, with numpy."""
        term = term_of(PLANE, weights=[1, 2, 3, 0, 1, 1])
        matrix = torch.tensor([[1.1, 0.1, 2.0], [0.0, 0.9, -1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        mapped = points(PLANE, 6) @ matrix[:2, :2].numpy().T + matrix[:2, 2].numpy()
        distance = np.linalg.norm(mapped - points(PLANE, 6, 1), axis=1) / 2.5
        expected = 0.7 * (np.array([1, 2, 3, 0, 1, 1]) / 8 * 2 * (np.sqrt(1 + distance**2) - 1)).sum()
        assert float(term(0, matrix, None)) == pytest.approx(expected, rel=1e-12)

    def test_shares_are_factors_of_the_pairs_in_each_direction(self):
        whole, matrices = Landmarks.of((points(PLANE, 6), points(PLANE, 6, 1), [1, 2, 3, 4, 1, 1])), some_map(PLANE)[1]
        shares = [torch.rand(2, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)]
        shares.append(1 - shares[0])
        terms = [LandmarkTerm(dataclasses.replace(whole, shares=tuple(s)), 0.7, 2.5, PointMapper(PLANE, None)) for s in shares]
        for k, expected in enumerate(
            LandmarkTerm(whole, 0.7, 2.5, PointMapper(PLANE, None))(k, matrices[k], None) for k in (0, 1)
        ):
            values = [float(term(k, matrices[k], None)) for term in terms]
            assert sum(values) == pytest.approx(float(expected), rel=1e-12) and values[0] != pytest.approx(values[1])

    def test_swapping_the_images_swaps_the_directions(self):
        _, matrices, _ = some_map(PLANE)
        one = term_of(PLANE)
        other = term_of(PLANE)
        other.points = one.points[::-1]
        for k in (0, 1):
            assert float(one(k, matrices[k], None)) == float(other(1 - k, matrices[k], None))

    def test_images_and_points_scaled_together_have_the_same_value(self):
        small, large = grid_of((48, 44), (0.1, 0.1)), grid_of((48, 44), (3.0, 3.0))
        values = [float(term_of(g, sample_distance=s)(0, torch.eye(3).double(), None)) for g, s in ((small, 0.2), (large, 6.0))]
        assert values[0] == pytest.approx(values[1], rel=1e-9)

    def test_a_far_pair_has_a_limited_pull(self):
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[0, 2] = 1e4
        matrix.requires_grad_()
        term_of(PLANE)(0, matrix, None).backward()
        assert float(matrix.grad[:2, 2].norm()) <= 2 * 0.7 / 2.5 + 1e-9


class TestStep(GuidedSteps):
    def engine(self, stage: Stage, images=None, **options):
        torch.manual_seed(5)
        images = pair(PLANE, PLANE) if images is None else images
        engine = engine_of(images, dataclasses.replace(QUICK, **options), landmarks=Landmarks.of((FIXED, MOVING)))
        engine.enter(stage)
        return engine

    def test_a_similarity_that_cancels_the_term_does_not_undo_the_steps(self):
        """The highest loss of a stage follows from the size of both parts, not from their sum."""
        engine = self.engine(STAGES[1])
        first = engine.step()
        bound = 1.5 * first[2] + first[0] + 0.5 * first[0].abs()
        assert float(engine.highest_loss) == pytest.approx(float(bound), rel=1e-5)


class TestInput:
    def test_files_lists_and_mappings_are_the_same(self, tmp_path):
        write_points(tmp_path / "a.csv", PointList(FIXED, ("p", "q", "r")))
        write_points(tmp_path / "b.csv", PointList(MOVING[::-1], ("r", "q", "p")))  # paired by label
        found = [
            Landmarks.of(each).described()
            for each in (
                (tmp_path / "a.csv", str(tmp_path / "b.csv")),
                (FIXED, np.array(MOVING)),
                {"fixed": FIXED, "moving": MOVING},
            )
        ]
        assert found[0] == found[1] == found[2] and found[0]["weights"] == [1, 1, 1]
        assert Landmarks.of(found[0]).described() == found[0]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((FIXED, MOVING[:2]), "fixed 3 points of 2 coordinates, moving 2 points"),
            ((FIXED, [[0.0, 0.0, 0.0]] * 3), "moving 3 points of 3 coordinates"),
            ((FIXED, [[0.0, float("nan")]] * 3), "moving landmarks: point 1 is not finite"),
            ((FIXED, MOVING, [1, 1, -1]), "landmark weights: .*0 or more"),
            ((FIXED, MOVING, [0, 0, 0]), "not all 0"),
            ((FIXED, MOVING, [1, 1]), "one per landmark"),
            ((FIXED,), "give .fixed points, moving points"),
            ((FIXED, "nowhere.csv"), "moving landmarks nowhere.csv"),
            ((FIXED, [[0.0]] * 3), "moving landmarks: are not points"),
            (([], []), "fixed landmarks: are not points"),
            (
                ([[0, 0], [90, 0]], [[0, 0], [0, 0]]),
                r"landmark 2 of the fixed points, .90, 0. mm: lies outside the fixed image",
            ),
            (([[0, 0]], [[0, -90]]), "landmark 1 of the moving points, .*outside the moving image"),
            (([[0, 0, 0]], [[0, 0, 0]]), "have 3 coordinates, the images 2 axes"),
        ],
    )
    def test_refused(self, given, message):
        fixed, moving, _ = pair(PLANE, PLANE)
        with pytest.raises(InputError, match=message) as error:
            register(fixed, moving, landmarks=given, device="cpu", progress=False)
        assert "\n" not in str(error.value)


class TestRegistration:
    def test_zero_weight_changes_no_byte(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        config = dataclasses.replace(QUICK, stages=(Stage(4, 3), Stage(4, 3, spacing=16)))
        plain = run(fixed, moving, config)
        found = run(fixed, moving, dataclasses.replace(config, landmark_weight=0.0), landmarks=(FIXED, MOVING))
        for name in ("forward_mm", "inverse_mm", "warped_moving"):
            assert torch.equal(getattr(plain, name), getattr(found, name))
        assert plain.landmarks_mm is None and found.landmarks_mm["count"] == 3 and "landmarks" not in found.history[0]

    def test_the_run_is_recorded_and_repeated(self, tmp_path):
        fixed, moving, _ = pair(PLANE, PLANE)
        config = dataclasses.replace(QUICK, stages=(Stage(4, 3), Stage(4, 3, spacing=16)))
        found = run(fixed, moving, config, landmarks=(FIXED, MOVING, [1, 2, 1]))
        found.save(tmp_path)
        content = json.loads((tmp_path / "run.json").read_text())
        jsonschema.validate(content, run_schema())
        assert content["landmarks_mm"] == found.landmarks_mm and len(content["stages"][0]["landmarks"]) == 3
        arguments = RunManifest.load(tmp_path).arguments(fixed=fixed, moving=moving)
        again = register(**arguments, progress=False)
        assert torch.equal(again.forward_mm, found.forward_mm) and again.landmarks_mm == found.landmarks_mm
        before = np.linalg.norm(np.subtract(FIXED, MOVING), axis=1)
        np.testing.assert_allclose(found.landmarks_mm["before"]["each"], before, atol=1e-3)

    def test_states_with_other_landmarks_are_refused(self, tmp_path):
        fixed, moving, _ = pair(PLANE, PLANE)
        config = dataclasses.replace(QUICK, stages=(Stage(4, 2),))
        whole = run(fixed, moving, config, landmarks=(FIXED, MOVING), resume=tmp_path)
        again = run(fixed, moving, config, landmarks=(FIXED, MOVING), resume=tmp_path)
        assert torch.equal(whole.forward_mm, again.forward_mm)
        for other in (None, (FIXED, FIXED), (FIXED, MOVING, [1, 2, 3])):
            with pytest.raises(InputError, match="is the state of another registration"):
                run(fixed, moving, config, landmarks=other, resume=tmp_path)

    @pytest.mark.parametrize("transform", ["rigid", "affine"])
    def test_affine_stages_follow_the_landmarks(self, transform):
        """Images of noise: only the landmarks determine the map."""
        flat = [image(np.random.default_rng(seed).random(PLANE.shape), PLANE) for seed in (0, 1)]
        turn = np.array([[np.cos(0.15), -np.sin(0.15)], [np.sin(0.15), np.cos(0.15)]])
        fixed = points(PLANE, 8) * 0.8
        config = dataclasses.replace(QUICK, stages=(Stage(4, 60, learning_rate=0.02),), landmark_weight=10.0)
        found = run(*flat, config, transform=transform, landmarks=(fixed, fixed @ turn.T + [2.0, -1.0]))
        before, after = found.landmarks_mm["before"], found.landmarks_mm["after"]
        assert before["mean"] > 2 and after["max"] < 0.25 * before["mean"], (before, after)

    @pytest.mark.slow
    def test_landmarks_determine_a_featureless_region(self):
        """The images have contrast in one half only; landmarks in the other half are brought together there."""
        fixed, moving, truth = pair(CUBE, CUBE)
        for side in (fixed, moving):
            side[:, 16:] = side[:, 16:17]  # constant along the first axis
        nodes = np.stack(np.meshgrid([19, 23, 27], [8, 16, 24], [8, 16, 24], indexing="ij"), -1).reshape(-1, 3)
        place = CUBE.points()[tuple(nodes.T)]
        target = place + truth[(slice(None), *nodes.T)].T.numpy()
        plain = run(fixed, moving, dataclasses.replace(SHORT, landmark_weight=0.0), landmarks=(place, target))
        found = run(fixed, moving, landmarks=(place, target))
        assert found.landmarks_mm["after"]["mean"] < 0.75 * plain.landmarks_mm["after"]["mean"]
        difference = (truth - found.forward_mm).norm(dim=0), (truth - plain.forward_mm).norm(dim=0)
        rest = inner(CUBE).bool()
        rest[16:] = False
        assert float(difference[0][rest].mean()) < 1.3 * float(difference[1][rest].mean())
        assert found.jacobian["folding_percent"] == 0

    @pytest.mark.slow
    def test_swapped_images_give_the_inverse(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        found = run(fixed, moving, QUICK, landmarks=(FIXED, MOVING))
        swapped = run(moving, fixed, QUICK, landmarks=(MOVING, FIXED))
        for key in ("mean", "max"):
            assert found.landmarks_mm["after"][key] == pytest.approx(swapped.landmarks_mm["after"][key], abs=0.5)
        error = inverse_consistency(found.forward_mm, PLANE, swapped.forward_mm, PLANE, inner(PLANE))
        assert float(error.median()) < 0.5
