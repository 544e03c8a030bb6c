# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Labels drive a registration beside the images."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, register, register_batch
from monai_locor.geometry import Grid, apply_affine, reorder
from monai_locor.io import write_image
from monai_locor.registration import Stage, label_surfaces
from monai_locor.registration.guides import Guides
from monai_locor.registration.label_surfaces import LabelSurfaces, surface_faces
from monai_locor.registration.label_term import LabelTerm
from monai_locor.registration.labels import Labels
from monai_locor.registration.manifest import RunManifest
from monai_locor.registration.mapped_points import PointMapper
from monai_locor.schemas import run_schema

from ..phantoms import CUBE, ORDERS, PLANE, grid_of, image, pair, turned
from .guided import FIXED, MOVING, QUICK, GuidedSteps, some_map
from .short_runs import engine_of, run

BRIEF = dataclasses.replace(QUICK, stages=(Stage(4, 3), Stage(4, 3, spacing=16)))
OTHER = grid_of((40, 52), (1.7, -1.4), turn=0.3)


def balls(grid: Grid, shift=0.0, radii=(9.0, 6.0), values=(3, 40)) -> MetaTensor:
    """A label map of two balls; their centers are 20 mm apart along the first axis of the world."""
    points, out = grid.points() - np.eye(grid.dims)[0] * shift, np.zeros(grid.shape)
    for sign, radius, value in zip((-1, 1), radii, values, strict=True):
        out[np.linalg.norm(points - 10.0 * sign * np.eye(grid.dims)[0], axis=-1) < radius] = value
    return MetaTensor(torch.from_numpy(out)[None].long(), affine=torch.from_numpy(grid.full_affine))


def labels_of(fixed: Grid = PLANE, moving: Grid = OTHER, shift: float = 4.0, weights=None) -> Labels:
    return Labels.of((balls(fixed), balls(moving, shift), weights), fixed, moving)


def term_of(labels: Labels, grid: Grid = PLANE, velocity=None, **options) -> LabelTerm:
    return LabelTerm(labels, **{"weight": 0.7, "sample_distance": 2.5, **options}, mapper=PointMapper(grid, velocity))


class TestSurfaces:
    @pytest.mark.parametrize("grid", [PLANE, OTHER, CUBE, turned(0.3, (2.0, -1.5, 2.5), (30, 34, 26))], ids=str)
    def test_points_lie_on_the_surface_and_distances_are_from_it(self, grid):
        center = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
        shift = float(center[0])
        labels = balls(grid, shift)
        found = LabelSurfaces.of(labels.as_tensor(), grid, (3, 40))
        middle = np.stack([np.eye(grid.dims)[0] * (shift + x) for x in (-10, 10)])
        radius = np.linalg.norm(found.points.numpy() - middle[:, None], axis=-1)
        voxel = float(grid.spacing.max())
        for k, own in enumerate((9.0, 6.0)):
            assert np.abs(radius[k] - own).max() < voxel and abs(radius[k].mean() - own) < 0.3 * voxel
        for part in found.distances:
            for k in part.labels.tolist():
                some = torch.from_numpy(middle[k] + np.random.default_rng(0).normal(size=(500, grid.dims)) * 6)
                distance = part(some.T[:, None].expand(-1, 2, -1))[part.labels.tolist().index(k)]
                error = distance.numpy() - (np.linalg.norm(some.numpy() - middle[k], axis=1) - (9.0, 6.0)[k])
                assert np.abs(error).max() < 1.2 * voxel and np.abs(error.mean()) < 0.4 * voxel

    def test_faces_are_those_of_a_slow_search(self):
        numbers = torch.randint(0, 4, (1, 5, 4, 3), generator=torch.Generator().manual_seed(0))
        grid = Grid((5, 4, 3), np.diag([1.0, 2.0, 3.0, 1.0]))
        faces, areas, owners = surface_faces(numbers, grid)
        expected = []
        for a in np.ndindex(5, 4, 3):
            for axis in range(3):
                b = tuple(np.array(a) + np.eye(3, dtype=int)[axis])
                if b[axis] < (5, 4, 3)[axis] and numbers[0][a] != numbers[0][b]:
                    place = (np.array(a) + np.array(b)) / 2 * (1, 2, 3)
                    expected += [(int(numbers[0][x]), 6 / (1, 2, 3)[axis], *place) for x in (a, b) if numbers[0][x] > 0]
        found = [(o, a, *p) for o, a, p in zip(owners.tolist(), areas.tolist(), faces.tolist(), strict=True)]
        np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-12)
        assert owners.tolist() == sorted(owners.tolist())

    def test_the_border_of_the_image_is_no_surface(self):
        half = torch.zeros(1, *PLANE.shape, dtype=torch.int64)
        half[:, :20] = 1
        found = LabelSurfaces.of(half, PLANE, (1,))
        voxels = apply_affine(np.linalg.inv(PLANE.affine), found.points[0].numpy())
        np.testing.assert_allclose(voxels[:, 0], 19.5, atol=1e-9)

    def test_the_nodes_of_all_labels_are_limited(self, monkeypatch):
        """And are equally far apart in all of them."""
        labels = balls(CUBE, radii=(14.0, 4.0)).as_tensor()
        for most in (2**14, 2**16):
            monkeypatch.setattr(label_surfaces, "MAX_NODES", most)
            found = LabelSurfaces.of(labels, CUBE, (3, 40))
            assert most / 4 < found.numbers <= most
            steps = [float((2 * part.halves / (part.maps.shape[-1] - 1)).max()) for part in found.distances]
            assert len(steps) == 2 and max(steps) < 1.6 * min(steps)

    def test_a_label_thinner_than_the_nodes_has_distances(self, monkeypatch):
        monkeypatch.setattr(label_surfaces, "NODES_ALONG", (5,))
        thin = torch.zeros(1, *PLANE.shape, dtype=torch.int64)
        thin[0, 5:40, 21] = 7
        for numbers in (thin, torch.where(thin == 0, 7, 1)):
            part = LabelSurfaces.of(numbers, PLANE, (7,)).distances[0]
            assert part.maps.isfinite().all() and float(part.maps.min()) < 0 < float(part.maps.max())


class TestTerm:
    @pytest.mark.parametrize("grid", [PLANE, grid_of((14, 13, 12), (3.0, 4.0, -5.0), turn=0.4)], ids=["2-D", "3-D"])
    @pytest.mark.parametrize("k", [0, 1])
    def test_gradient(self, grid, k, monkeypatch):
        monkeypatch.setattr(label_surfaces, "POINTS_OF_LABEL", (5, 5))
        velocity, matrices, fields = some_map(grid)
        term = term_of(labels_of(grid, grid), grid, velocity)
        for part in term.distances[1 - k]:
            object.__setattr__(part, "maps", part.maps.double())
        given = matrices[k].clone().requires_grad_(), fields[k].double().requires_grad_()
        assert torch.autograd.gradcheck(lambda m, u: term(k, m, u), given, eps=1e-7, atol=1e-5, fast_mode=True)

    def test_value(self):
        """Against distances to the circles, by the formula."""
        fine = grid_of((130, 120), (0.5, 0.5))
        labels = labels_of(fine, fine, weights={3: 1, 40: 3})
        matrix = torch.tensor([[1.05, 0.1, 6.0], [0.0, 0.9, -3.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        found, expected = float(term_of(labels)(0, matrix, None)), 0.0
        # as dense as the faces of voxels, of which an oblique line has more
        angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
        for x, radius, weight in ((-10, 9.0, 0.25), (10, 6.0, 0.75)):
            circle = np.stack((x + radius * np.cos(angle), radius * np.sin(angle)), 1)
            mapped = apply_affine(matrix.numpy(), circle)
            distance = (np.linalg.norm(mapped - [x + 4.0, 0], axis=1) - radius) / 2.5
            density = np.abs(np.cos(angle)) + np.abs(np.sin(angle))
            expected += 0.7 * weight * np.average(2 * (np.sqrt(1 + distance**2) - 1), weights=density)
        assert found == pytest.approx(expected, rel=0.08)  # distances of nodes are wrong by up to half a node

    def test_shares_are_factors_of_the_points_in_each_direction(self):
        whole, matrices = labels_of(weights={3: 1, 40: 3}), some_map(PLANE)[1]
        shares = [torch.rand(2, *whole.surfaces[0].points.shape[:2], dtype=torch.float64)]
        shares.append(1 - shares[0])
        terms = [term_of(dataclasses.replace(whole, shares=tuple(s))) for s in shares]
        for k, expected in enumerate(term_of(whole)(k, matrices[k], None) for k in (0, 1)):
            values = [float(term(k, matrices[k], None)) for term in terms]
            assert sum(values) == pytest.approx(float(expected), rel=1e-12) and values[0] != pytest.approx(values[1])

    def test_swapping_the_images_swaps_the_directions(self):
        one, other = term_of(labels_of()), term_of(labels_of())
        other.points, other.distances, other.weights = (x[::-1] for x in (one.points, one.distances, one.weights))
        _, matrices, _ = some_map(PLANE)
        for k in (0, 1):
            assert float(one(k, matrices[k], None)) == float(other(1 - k, matrices[k], None))

    def test_labels_far_apart_attract_each_other(self):
        """Also beyond their distance maps, by a bounded gradient."""
        for shift in (60.0, 1e4):
            matrix = torch.eye(3, dtype=torch.float64)
            matrix[0, 2] = shift
            matrix.requires_grad_()
            term_of(labels_of())(0, matrix, None).backward()
            assert 0.5 * 2 * 0.7 / 2.5 < float(matrix.grad[0, 2]) <= 2 * 0.7 / 2.5 + 1e-9
            assert abs(float(matrix.grad[1, 2])) < 0.1 * float(matrix.grad[0, 2])

    def test_images_and_labels_scaled_together_have_the_same_value(self):
        values = []
        for scale in (0.25, 8.0):
            grids = [Grid(g.shape, np.diag([scale, scale, 1.0]) @ g.affine) for g in (PLANE, OTHER)]
            maps = [image(balls(g, s).as_tensor(), own) for g, s, own in zip((PLANE, OTHER), (0, 4), grids, strict=True)]
            values.append(float(term_of(Labels.of(maps, *grids), sample_distance=2.5 * scale)(0, torch.eye(3).double(), None)))
        assert values[0] == pytest.approx(values[1], rel=1e-5)

    @pytest.mark.parametrize("order", ORDERS[3::13], ids=str)
    def test_the_order_of_the_axes_does_not_matter(self, order):
        grid = grid_of((14, 13, 12), (3.0, 4.0, 5.0))
        labels, turned_grid = balls(grid), grid.reordered(*order)
        stored = MetaTensor(reorder(labels.as_tensor(), *order).contiguous(), affine=torch.from_numpy(turned_grid.full_affine))
        expected, found = (Labels.of((x, labels), g, grid) for x, g in ((labels, grid), (stored, turned_grid)))
        for name in ("points", "numbers"):
            a, b = (getattr(each.surfaces[0], name) for each in (expected, found))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        for a, b in zip(expected.surfaces[0].distances, found.surfaces[0].distances, strict=True):
            assert torch.equal(a.maps, b.maps)


class TestStep(GuidedSteps):
    def engine(self, stage: Stage, **options):
        torch.manual_seed(5)
        engine = engine_of(pair(PLANE, PLANE), dataclasses.replace(QUICK, **options), labels=labels_of(PLANE, PLANE))
        engine.enter(stage)
        return engine

    def test_terms_add_up(self):
        one, matrix = torch.ones(()), torch.eye(3)
        guides = Guides({"a": lambda *_: one * 2, "b": lambda k, *_: one * k}, torch.device("cpu"))
        assert [float(guides.added(one, k, matrix, None)) for k in (0, 1)] == [3, 4]
        assert [float(x) for x in guides.means()] == [2, 0.5] and not Guides({}, torch.device("cpu")).means()


class TestInput:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((balls(PLANE),), "give .fixed labels, moving labels"),
            ((balls(PLANE), None), "give .fixed labels, moving labels"),
            ((balls(PLANE), "nowhere.nii"), "moving labels nowhere.nii"),
            (
                (balls(PLANE), balls(PLANE, values=(5, 6))),
                "no label in common: fixed 3, 40; moving 5, 6; give the same in both",
            ),
            ((balls(PLANE), balls(PLANE), {7: 1}), "no label in common: .* weights for 7"),
            ((balls(PLANE), image(balls(PLANE).as_tensor() + 0.3, PLANE)), "moving labels .*: holds the value 0.3"),
            ((balls(CUBE), balls(PLANE)), r"fixed labels: have shape .* both must be 2-D or both 3-D"),
            ((balls(grid_of((48, 44), (1.5, 1.5), (900, 0))), balls(PLANE)), "fixed labels: no label lies in the fixed image"),
            ((balls(PLANE), balls(PLANE), {3: -1}), "0 or more, not all 0"),
            ((balls(PLANE), balls(PLANE), {"liver": 1}), "is not a mapping from labels to numbers"),
        ],
    )
    def test_refused(self, given, message):
        fixed, moving, _ = pair(PLANE, PLANE)
        with pytest.raises(InputError, match=message) as error:
            register(fixed, moving, labels=given, device="cpu", progress=False)
        assert "\n" not in str(error.value)

    def test_labels_of_one_image_are_named(self, caplog):
        found = Labels.of((balls(PLANE), balls(PLANE, values=(3, 7))), PLANE, PLANE)
        assert found.values == (3,) and "labels in one image only are not used: 7, 40" in caplog.text

    def test_any_integers(self):
        values = (-2, 2**40)
        assert Labels.of((balls(PLANE, values=values), balls(OTHER, values=values)), PLANE, OTHER).values == values


class TestRegistration:
    def test_zero_weight_changes_no_byte(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        plain = run(fixed, moving, BRIEF)
        found = run(fixed, moving, dataclasses.replace(BRIEF, label_weight=0.0), labels=(balls(PLANE), balls(PLANE, 2.0)))
        for name in ("forward_mm", "inverse_mm", "warped_moving"):
            assert torch.equal(getattr(plain, name), getattr(found, name))
        assert plain.label_dice is None and found.label_dice["labels"] == [3, 40] and "labels" not in found.history[0]

    def test_the_run_is_recorded_and_repeated(self, tmp_path):
        fixed, moving, _ = pair(PLANE, PLANE)
        files = [tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"]
        for path, labels in zip(files, (balls(PLANE), balls(PLANE, 2.0)), strict=True):
            write_image(path, labels.float(), PLANE)
        found = run(fixed, moving, BRIEF, labels=(*files, {3: 1, 40: 2}))
        found.save(tmp_path / "out")
        content = json.loads((tmp_path / "out" / "run.json").read_text())
        jsonschema.validate(content, run_schema())
        assert content["label_dice"] == found.label_dice and len(content["stages"][0]["labels"]) == 3
        again = register(**RunManifest.load(tmp_path / "out").arguments(fixed=fixed, moving=moving), progress=False)
        assert torch.equal(again.forward_mm, found.forward_mm) and again.label_dice == found.label_dice
        loaded = type(found).load(tmp_path / "out", fixed=fixed, moving=moving)
        assert loaded.label_dice == found.label_dice
        write_image(files[1], balls(PLANE, 3.0).float(), PLANE)
        with pytest.raises(InputError, match="has changed since"):
            RunManifest.load(tmp_path / "out").arguments(fixed=fixed, moving=moving)

    def test_states_with_other_labels_are_refused(self, tmp_path):
        fixed, moving, _ = pair(PLANE, PLANE)
        config = dataclasses.replace(BRIEF, stages=(Stage(4, 2),))
        given = balls(PLANE), balls(PLANE, 2.0)
        whole, again = (run(fixed, moving, config, labels=given, resume=tmp_path) for _ in range(2))
        assert torch.equal(whole.forward_mm, again.forward_mm)
        for other in (None, (given[0], given[0]), (*given, {3: 1})):
            with pytest.raises(InputError, match="is the state of another registration"):
                run(fixed, moving, config, labels=other, resume=tmp_path)

    def test_landmarks_and_labels_together(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        found = run(fixed, moving, BRIEF, labels=(balls(PLANE), balls(PLANE, 2.0)), landmarks=([[0, 0]], [[2.0, 0]]))
        assert {"landmarks", "labels"} < set(found.history[0]) and found.landmarks_mm and found.label_dice

    def test_pairs_of_a_batch_have_their_own(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        given = balls(PLANE), balls(PLANE, 2.0)
        options = {"preset": BRIEF, "device": "cpu", "progress": False}
        found = register_batch([fixed] * 2, [moving] * 2, labels=[None, given], landmarks=[(FIXED, MOVING), None], **options)
        assert found[0].label_dice is None and found[1].landmarks_mm is None
        assert torch.equal(found[1].forward_mm, run(fixed, moving, BRIEF, labels=given).forward_mm)
        assert found[0].landmarks_mm == run(fixed, moving, BRIEF, landmarks=(FIXED, MOVING)).landmarks_mm

    def test_affine_stages_follow_labels_that_do_not_overlap(self):
        """Images of noise: only the labels determine the map."""
        flat = [image(np.random.default_rng(seed).random(PLANE.shape), PLANE) for seed in (0, 1)]
        config = dataclasses.replace(QUICK, stages=(Stage(4, 80, learning_rate=0.02),), label_weight=10.0)
        given = balls(PLANE, -6.0, radii=(5.0, 4.0)), balls(PLANE, 6.0, radii=(5.0, 4.0))
        found = run(*flat, config, transform="affine", labels=given).label_dice
        assert found["before"]["mean"] < 0.01 and found["after"]["mean"] > 0.8, found

    @pytest.mark.slow
    def test_they_drive_a_deformation_where_the_images_have_no_contrast(self):
        blank = image(np.full(PLANE.shape, 0.5), PLANE), image(np.full(PLANE.shape, 0.5), PLANE)
        for each in blank:
            each[:, :2, :2] = 1.0  # an image must not be constant
        given = balls(PLANE), balls(PLANE, 0.0, radii=(6.0, 9.0))  # one has to shrink, the other to grow
        found = run(*blank, dataclasses.replace(QUICK, region="image", affine=False, label_weight=1.0), labels=given)
        assert found.label_dice["before"]["mean"] < 0.65 and found.label_dice["after"]["mean"] > 0.85
        assert found.jacobian["folding_percent"] == 0

    @pytest.mark.slow
    def test_swapped_images_give_the_inverse(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        given = balls(PLANE), balls(PLANE, 3.0)
        found = run(fixed, moving, QUICK, labels=given)
        swapped = run(moving, fixed, QUICK, labels=given[::-1])
        assert found.label_dice["after"]["mean"] == pytest.approx(swapped.label_dice["after"]["mean"], abs=0.05)
        assert float((found.inverse_mm - swapped.forward_mm).norm(dim=0).median()) < 0.5
