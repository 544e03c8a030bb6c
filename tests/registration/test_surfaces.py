# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surfaces, given as meshes, drive a registration beside the images."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
import torch

from monai_locor import InputError, register, register_batch
from monai_locor.geometry import apply_affine, reorder
from monai_locor.io.meshes import SurfaceMesh
from monai_locor.registration import Stage
from monai_locor.registration.manifest import RunManifest
from monai_locor.registration.mapped_points import PointMapper
from monai_locor.registration.surface_maps import SurfaceMap
from monai_locor.registration.surface_term import SurfaceTerm
from monai_locor.registration.surfaces import Surfaces, surface_pairs
from monai_locor.schemas import run_schema

from ..meshes import ellipsoid, moved, write_mesh
from ..phantoms import CUBE, ORDERS, PLANE, grid_of, image, pair
from ..slow_distance import distances_from_mesh
from .guided import QUICK, GuidedSteps, some_map
from .short_runs import engine_of, run

GRID = grid_of((20, 19, 18), (3.0, 3.0, -3.0), turn=0.3)
MIDDLE = apply_affine(GRID.affine, (np.array(GRID.shape) - 1) / 2)
BALL, OPEN = ellipsoid(center=MIDDLE, rings=8), ellipsoid((5.0, 6.0, 7.0), MIDDLE, rings=8, open_rings=3)
BRIEF = dataclasses.replace(QUICK, stages=(Stage(4, 3), Stage(4, 3, spacing=16)))


def surfaces_of(shift=(3.0, 0.0, 0.0), weights=(1.0, 3.0)) -> Surfaces:
    given = [(mesh, moved(mesh, shift), weight) for mesh, weight in zip((BALL, OPEN), weights, strict=True)]
    return Surfaces.of(given, GRID, GRID)


def term_of(surfaces: Surfaces, velocity=None, **options) -> SurfaceTerm:
    return SurfaceTerm(surfaces, **{"weight": 0.7, "sample_distance": 2.5, **options}, mapper=PointMapper(GRID, velocity))


class TestMap:
    @pytest.mark.parametrize("mesh", [BALL, OPEN], ids=["closed", "open"])
    def test_distances_are_those_of_a_slow_search(self, mesh):
        found = SurfaceMap.of(mesh, 64, 1.0, 2**17)
        some = torch.from_numpy(MIDDLE + np.random.default_rng(0).normal(size=(100, 3)) * 7)
        expected = distances_from_mesh(some.numpy(), mesh.vertices[mesh.faces])
        error = found.squared_distance(some.T).sqrt().numpy() - expected
        assert np.abs(error).max() < 1.2 and np.abs(error).mean() < 0.06
        assert float(found.squared_distance(found.points.T).sqrt().mean()) < 0.05

    def test_distances_from_a_plane_are_exact(self):
        mesh = SurfaceMesh([[0, 0, 0.3], [40, 0, 0.3], [0, 40, 0.3], [40, 40, 0.3]], [[0, 1, 2], [1, 2, 3]])
        heights = torch.linspace(-4, 4, 41).double()
        points = torch.stack((torch.full_like(heights, 21.7), torch.full_like(heights, 13.1), 0.3 + heights))
        found = SurfaceMap.of(mesh, 64, 1.5, 2**20).squared_distance(points).sqrt()
        torch.testing.assert_close(found, heights.abs(), rtol=0, atol=1e-5)

    def test_the_number_of_nodes_is_limited(self):
        for most in (2**12, 2**15):
            assert most / 4 < SurfaceMap.of(BALL, 64, 0.1, most).values.numel() / 4 <= most

    def test_the_order_of_vertices_and_faces_does_not_matter(self):
        rng = np.random.default_rng(0)
        order = rng.permutation(len(BALL.vertices))
        other = SurfaceMesh(BALL.vertices[order], np.argsort(order)[rng.permutation(np.roll(BALL.faces, 1, 1))])
        expected, found = (SurfaceMap.of(mesh, 64, 2.0, 2**14) for mesh in (BALL, other))
        for name in ("points", "values", "center", "halves"):
            assert torch.equal(getattr(found, name), getattr(expected, name))


class TestTerm:
    @pytest.mark.parametrize("k", [0, 1])
    def test_gradient(self, k, monkeypatch):
        monkeypatch.setattr("monai_locor.registration.surfaces.POINTS_OF_SURFACE", (5, 5))
        velocity, matrices, fields = some_map(GRID)
        term = term_of(surfaces_of(), velocity)
        term.maps = [[dataclasses.replace(each, values=each.values.double()) for each in side] for side in term.maps]
        given = matrices[k].clone().requires_grad_(), fields[k].double().requires_grad_()
        assert torch.autograd.gradcheck(lambda m, u: term(k, m, u), given, eps=1e-7, atol=1e-5, fast_mode=True)

    def test_value(self):
        """Against slow distances, by the formula."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, 3] = torch.tensor([0.0, 4.0, -2.0])
        surfaces, expected = surfaces_of(), 0.0
        for own, mesh, share in zip(surfaces.maps[0], (BALL, OPEN), (0.25, 0.75), strict=True):
            target = moved(mesh, (3.0, 0, 0))
            mapped = own.points[::120].numpy() + (0, 4.0, -2.0)
            distance = distances_from_mesh(mapped, target.vertices[target.faces]) / 2.5
            expected += 0.7 * share * np.mean(2 * (np.sqrt(1 + distance**2) - 1))
        assert float(term_of(surfaces)(0, matrix, None)) == pytest.approx(expected, rel=0.05)

    def test_swapping_the_images_swaps_the_directions(self):
        one, other = term_of(surfaces_of()), term_of(surfaces_of())
        other.points, other.maps = one.points[::-1], one.maps[::-1]
        _, matrices, _ = some_map(GRID)
        for k in (0, 1):
            assert float(one(k, matrices[k], None)) == float(other(1 - k, matrices[k], None))

    def test_surfaces_far_apart_attract_each_other(self):
        """Also beyond their maps, by a bounded gradient."""
        for shift in (60.0, 1e4):
            matrix = torch.eye(4, dtype=torch.float64)
            matrix[0, 3] = shift
            matrix.requires_grad_()
            term_of(surfaces_of())(0, matrix, None).backward()
            assert 0.5 * 2 * 0.7 / 2.5 < float(matrix.grad[0, 3]) <= 2 * 0.7 / 2.5 + 1e-9

    def test_the_order_of_the_axes_of_the_images_does_not_matter(self):
        expected = surfaces_of()
        for order in ORDERS[3::13]:
            found = Surfaces.of([(BALL, moved(BALL, (3.0, 0, 0)))], GRID.reordered(*order), GRID.reordered(*order))
            for side, other in zip(found.maps, expected.maps, strict=True):
                assert torch.equal(side[0].points, other[0].points)
                torch.testing.assert_close(side[0].center, other[0].center)


class TestStep(GuidedSteps):
    def engine(self, stage: Stage, **options):
        torch.manual_seed(5)
        given = [(ellipsoid(), ellipsoid(center=(2.0, 0, 0)))]
        surfaces = Surfaces.of(given, CUBE, CUBE)
        engine = engine_of(pair(CUBE, CUBE), dataclasses.replace(QUICK, **options), surfaces=surfaces)
        engine.enter(stage)
        return engine


class TestInput:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((BALL,), "give .fixed surface, moving surface"),
            ([], "give .fixed surface, moving surface"),
            ([(BALL, None)], "give .fixed surface, moving surface"),
            ((BALL, "nowhere.vtk"), "moving surface nowhere.vtk: no such file"),
            ([(BALL, BALL, -1)], "surface weights: .-1.; give finite numbers, 0 or more"),
            ([(BALL, BALL, 0)], "not all 0"),
            ((BALL, moved(BALL, (900, 0, 0))), r"surface: lies wholly outside the moving image: .* set surface_space"),
        ],
    )
    def test_refused(self, given, message):
        fixed, moving = (image(np.random.default_rng(seed).random(GRID.shape), GRID) for seed in (0, 1))
        with pytest.raises(InputError, match=message) as error:
            register(fixed, moving, surfaces=given, device="cpu", progress=False)
        assert "\n" not in str(error.value)

    def test_they_need_three_axes(self):
        with pytest.raises(InputError, match="are for images with 3 axes, the images have 2"):
            Surfaces.of((BALL, BALL), PLANE, PLANE)

    def test_pairs(self):
        assert surface_pairs(("a.vtk", "b.vtk")) == [("a.vtk", "b.vtk", 1.0)]
        assert surface_pairs([("a.vtk", "b.vtk"), ["c.vtk", "d.vtk", 2]]) == [("a.vtk", "b.vtk", 1.0), ("c.vtk", "d.vtk", 2.0)]

    def test_the_space_of_files(self, tmp_path):
        """Read as LPS, the surface lies outside the image; the message says so, and the setting helps."""
        far = grid_of((20, 19, 18), (3.0, 3.0, 3.0), center=(200.0, 300.0, 0.0))
        file = write_mesh(tmp_path / "a.vtk", ellipsoid(center=(200.0, 300.0, 0.0)))
        with pytest.raises(InputError, match=r"a\.vtk: lies wholly outside the fixed image.*--surface-space"):
            Surfaces.of((file, file), far, far)
        assert Surfaces.of((file, file), far, far, "ras").names == ("a.vtk",)


def noise(seed: int):
    return image(np.random.default_rng(seed).random(GRID.shape), GRID)


class TestRegistration:
    def test_zero_weight_changes_no_byte(self):
        plain = run(noise(0), noise(1), BRIEF)
        given = (BALL, moved(BALL, (2.0, 0, 0)))
        found = run(noise(0), noise(1), dataclasses.replace(BRIEF, surface_weight=0.0), surfaces=given)
        for name in ("forward_mm", "inverse_mm", "warped_moving"):
            assert torch.equal(getattr(plain, name), getattr(found, name))
        assert plain.surface_mm is None and found.surface_mm["names"] == ["surface 1"] and "surfaces" not in found.history[0]

    def test_the_run_is_recorded_and_repeated(self, tmp_path):
        files = [write_mesh(tmp_path / f"{n}.obj", moved(BALL, (n, 0, 0)), "SPACE=RAS") for n in (0, 2)]
        found = run(noise(0), noise(1), BRIEF, surfaces=[(*files, 2.0), (BALL, BALL)])
        assert found.surface_mm["before"]["each"][0] == pytest.approx(1.0, abs=0.2)
        found.save(tmp_path / "out")
        content = json.loads((tmp_path / "out" / "run.json").read_text())
        jsonschema.validate(content, run_schema())
        assert content["surface_mm"] == found.surface_mm and len(content["stages"][0]["surfaces"]) == 3
        loaded = type(found).load(tmp_path / "out", fixed=noise(0), moving=noise(1))
        assert loaded.surface_mm == found.surface_mm
        with pytest.raises(InputError, match=r"was .* in memory, and must be given again"):
            RunManifest.load(tmp_path / "out").arguments(fixed=noise(0), moving=noise(1))
        found = run(noise(0), noise(1), BRIEF, surfaces=[(*files, 2.0)])
        found.save(tmp_path / "out")
        again = register(**RunManifest.load(tmp_path / "out").arguments(fixed=noise(0), moving=noise(1)), progress=False)
        assert torch.equal(again.forward_mm, found.forward_mm) and again.surface_mm == found.surface_mm
        write_mesh(files[1], BALL)
        with pytest.raises(InputError, match="has changed since"):
            RunManifest.load(tmp_path / "out").arguments(fixed=noise(0), moving=noise(1))

    def test_states_with_other_surfaces_are_refused(self, tmp_path):
        config, given = dataclasses.replace(BRIEF, stages=(Stage(4, 2),)), (BALL, moved(BALL, (2.0, 0, 0)))
        whole, again = (run(noise(0), noise(1), config, surfaces=given, resume=tmp_path) for _ in range(2))
        assert torch.equal(whole.forward_mm, again.forward_mm)
        for other in (None, (BALL, BALL), [(*given, 2.0)]):
            with pytest.raises(InputError, match="is the state of another registration"):
                run(noise(0), noise(1), config, surfaces=other, resume=tmp_path)

    def test_pairs_of_a_batch_have_their_own(self):
        given = BALL, moved(BALL, (2.0, 0, 0))
        options = {"preset": BRIEF, "device": "cpu", "progress": False}
        found = register_batch([noise(0)] * 2, [noise(1)] * 2, surfaces=[None, given], **options)
        assert found[0].surface_mm is None
        assert torch.equal(found[1].forward_mm, run(noise(0), noise(1), BRIEF, surfaces=given).forward_mm)

    def test_a_translation_is_recovered_where_the_images_say_nothing(self):
        shift = np.array([5.0, -4.0, 3.0])
        config = dataclasses.replace(QUICK, stages=(Stage(4, 60, learning_rate=0.02),), surface_weight=10.0)
        found = run(noise(0), noise(1), config, transform="rigid", surfaces=(BALL, moved(BALL, shift)))
        assert found.surface_mm["before"]["mean"] > 2 and found.surface_mm["after"]["mean"] < 0.3, found.surface_mm
        assert np.linalg.norm(apply_affine(found.affine, MIDDLE) - MIDDLE - shift) < 0.5

    @pytest.mark.slow
    def test_stored_in_another_order_the_result_is_the_same(self):
        given = BALL, moved(BALL, (4.0, 0, 0))
        expected = run(noise(0), noise(1), QUICK, surfaces=given)
        for order in ORDERS[5::17]:
            turned = [
                image(reorder(torch.from_numpy(x.numpy().copy()), *order)[0], GRID.reordered(*order))
                for x in (noise(0), noise(1))
            ]
            found = run(*turned, QUICK, surfaces=given)
            assert found.surface_mm["after"]["mean"] == pytest.approx(expected.surface_mm["after"]["mean"], abs=0.02)

    @pytest.mark.slow
    def test_they_drive_a_deformation_where_the_images_have_no_contrast(self):
        given = ellipsoid((9.0, 9.0, 9.0), MIDDLE), ellipsoid((12.0, 8.0, 9.0), MIDDLE)
        found = run(noise(0), noise(1), dataclasses.replace(QUICK, affine=False, surface_weight=10.0), surfaces=given)
        assert found.surface_mm["before"]["mean"] > 0.8 and found.surface_mm["after"]["mean"] < 0.4, found.surface_mm
        assert found.jacobian["folding_percent"] == 0
