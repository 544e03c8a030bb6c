# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A start that is judged, and another one that is found, on made-up and on real anatomy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch.nn.functional import avg_pool3d

from monai_locor import RegistrationConfig, register
from monai_locor.geometry import Grid, apply_affine
from monai_locor.io import read_image
from monai_locor.networks.affine import matrix_exponential
from monai_locor.registration import Stage, run
from monai_locor.registration.start.measure import StartSearch
from monai_locor.registration.start.prepare import PreparedImage, prepare
from monai_locor.registration.start.rotations import even_rotations
from monai_locor.registration.start.search import START, better_start, chosen_affine

from ..phantoms import anatomy, grid_of, other_modality

WIDE = grid_of((28, 25, 26), (4.0, 4.0, 4.0))  # 112 mm: some air around the anatomy
PLANE = grid_of((72, 64), (1.5, 1.5), (0.0, 0.0))
SMALL = grid_of((28, 25), (4.0, 4.0), (0.0, 0.0))
CPU = torch.device("cpu")
I = np.eye(4)


def world(values: np.ndarray) -> np.ndarray:
    """Anatomy inside an ellipsoid that is not symmetric, air of about -1 around it."""
    axes = np.array([50.0, 42.0, 45.0])[: values.shape[-1]]
    inside = ((values / axes) ** 2).sum(-1) + 0.3 * np.sin(values[..., 0] / 25) < 1
    return np.where(inside, anatomy(values) + 0.4, -1)


def prepared(grid: Grid, other: bool = False, device=CPU, weight: torch.Tensor | None = None) -> PreparedImage:
    values = world(grid.points())
    values = np.where(values > -0.9, other_modality(values), -1) if other else values
    return prepare(torch.from_numpy(values).float()[None], weight, 0.001, device, grid)


def motion(grid: Grid, degrees: float, axis: tuple[float, ...], share: tuple[float, ...]) -> np.ndarray:
    """Rotation about the center of a grid, then a translation in shares of its extent, ``(D + 1, D + 1)``."""
    dims, center = grid.dims, grid.center
    log = torch.zeros(dims, dims, dtype=torch.float64)
    vector = np.deg2rad(degrees) * np.array(axis) / np.linalg.norm(axis)
    for value, (i, j) in zip(vector, [(1, 0)] if dims == 2 else [(2, 1), (0, 2), (1, 0)], strict=True):
        log[i, j], log[j, i] = value, -value
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1] = matrix_exponential(log).numpy()
    matrix[:-1, -1] = center - matrix[:-1, :-1] @ center + np.array(share) * grid.extent
    return matrix


def scaling(grid: Grid, factor: float) -> np.ndarray:
    """Scaling about the center of a grid, ``(D + 1, D + 1)``."""
    matrix = np.diag([*[factor] * grid.dims, 1.0])
    matrix[:-1, -1] = (1 - factor) * grid.center
    return matrix


def moved(image: PreparedImage, matrix: np.ndarray) -> PreparedImage:
    """The same image with other world coordinates."""
    return replace(image, grid=Grid(image.grid.shape, matrix @ image.grid.affine))


def error(found: np.ndarray | None, truth: np.ndarray, grid: Grid) -> float:
    """Mean distance in the inner half of a grid, mm."""
    assert found is not None
    inner = grid.points()[tuple(slice(n // 4, n - n // 4) for n in grid.shape)]
    return float(np.linalg.norm(apply_affine(found, inner) - apply_affine(truth, inner), axis=-1).mean())


class TestVerdict:
    @pytest.mark.slow
    def test_a_good_affine_stays(self, device):
        assert better_start(prepared(WIDE, True, device), prepared(WIDE, False, device), I, I) is None

    @pytest.mark.slow
    def test_a_good_affine_far_from_its_start_stays(self):
        matrix, little = motion(WIDE, 30, (1, 2, -1), (0.4, 0, -0.2)), motion(WIDE, 1, (1, 0, 0), (0.005, 0, 0))
        assert better_start(prepared(WIDE, True), moved(prepared(WIDE), matrix), matrix @ little, I) is None

    @pytest.mark.slow
    def test_a_collapsed_affine_is_replaced(self):
        collapsed = np.diag([0.3, 0.4, 2.0, 1.0])
        assert error(better_start(prepared(WIDE, True), prepared(WIDE), collapsed, I), I, WIDE) < 3

    @pytest.mark.slow
    def test_images_without_contrast(self):
        flat = replace(prepared(WIDE), image=torch.zeros(1, *WIDE.shape))
        assert better_start(prepared(WIDE), flat, I, I) is None

    @pytest.mark.slow
    def test_same_bytes_twice(self):
        images = prepared(WIDE, True), moved(prepared(WIDE), motion(WIDE, 25, (1, 1, 0), (0.3, 0, 0)))
        first, second = (better_start(*images, I, I) for _ in range(2))
        assert first is not None and first.tobytes() == second.tobytes()


class TestRecovery:
    @pytest.mark.parametrize(
        ("degrees", "axis", "share"),
        [
            (30, (1, 1, 1), (0.5, -0.5, 0.5)),
            (0, (1, 0, 0), (3, 20, -5)),  # no shared world coordinates
        ],
    )
    @pytest.mark.slow
    def test_volumes(self, degrees, axis, share):
        truth = motion(WIDE, degrees, axis, share)
        assert error(better_start(prepared(WIDE, True), moved(prepared(WIDE), truth), I, I), truth, WIDE) < 4

    @pytest.mark.parametrize(("degrees", "share"), [(30, (0, 0)), (-30, (0.5, -0.5))])
    def test_planes(self, degrees, share):
        truth = motion(PLANE, degrees, (1,), share)
        found = better_start(prepared(PLANE, True), moved(prepared(PLANE), truth), np.eye(3), np.eye(3))
        assert error(found, truth, PLANE) < 3

    @pytest.mark.parametrize("degrees", [75, 180])
    def test_turned_planes(self, degrees):
        truth = motion(SMALL, degrees, (1,), (0.2, -0.3))
        found = better_start(prepared(SMALL, True), moved(prepared(SMALL), truth), np.eye(3), np.eye(3))
        assert error(found, truth, SMALL) < 5

    @pytest.mark.parametrize(("degrees", "axis", "scale"), [(180, (0, 0, 1), 1), (110, (1, -1, 2), 0.75)])
    @pytest.mark.slow
    def test_turned_volumes(self, degrees, axis, scale):
        truth = motion(WIDE, degrees, axis, (0.3, -0.2, 0.1)) @ scaling(WIDE, scale)
        found = better_start(prepared(WIDE, True), moved(prepared(WIDE), truth), I, I)
        assert error(found, truth, WIDE) < 5

    @pytest.mark.slow
    def test_rotations_count_from_the_initial_matrix(self):
        initial = motion(WIDE, 120, (0, 0, 1), (0, 0, 0))
        truth = initial @ motion(WIDE, 25, (1, 0, 0), (0.4, 0, 0))
        assert error(better_start(prepared(WIDE, True), moved(prepared(WIDE), truth), initial, initial), truth, WIDE) < 4

    @pytest.mark.slow
    @pytest.mark.parametrize("swapped", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_one_field_of_view_holds_half_of_the_other(self, swapped):
        slab, truth = grid_of((28, 25, 13), (4.0, 4.0, 4.0), (0, 0, 12)), motion(WIDE, 20, (0, 1, 1), (0.5, 0.2, 0))
        fixed, moving = (slab, WIDE) if swapped else (WIDE, slab)
        assert error(better_start(prepared(fixed, True), moved(prepared(moving), truth), I, I), truth, slab) < 5

    @pytest.mark.slow
    def test_what_masks_exclude_does_not_count(self):
        weight = torch.zeros(1, *WIDE.shape)
        weight[:, 4:-4, 4:-4, 4:-4] = 1
        truth = motion(WIDE, 25, (1, -1, 0), (0.4, 0, 0.3))
        fixed, moving = prepared(WIDE, True, weight=weight), moved(prepared(WIDE, weight=weight), truth)
        found = better_start(fixed, moving, I, I)
        assert error(found, truth, WIDE) < 4
        garbage = [replace(i, image=torch.where(weight > 0, i.image, torch.rand(weight.shape))) for i in (fixed, moving)]
        assert found.tobytes() == better_start(*garbage, I, I).tobytes()

    @pytest.mark.slow
    def test_any_unit_of_length(self):
        unit = 1e-3
        truth = motion(WIDE, 25, (1, -1, 0), (0.4, 0, 0.3))
        scale = np.diag([unit, unit, unit, 1.0])
        small = moved(prepared(WIDE, True), scale), moved(moved(prepared(WIDE), truth), scale)
        found = np.linalg.inv(scale) @ better_start(*small, I, I) @ scale
        assert error(found, truth, WIDE) < 4


class TestWhichToKeep:
    """Of the right answer, one that is a little off and one that is nowhere near it."""

    IMAGES = prepared(WIDE, True), prepared(WIDE)
    NEAR, FAR = motion(WIDE, 0, (1, 0, 0), (0.01, 0, 0)), motion(WIDE, 25, (1, 1, 0), (0.6, 0.4, 0))

    @pytest.mark.parametrize(("losses", "expected"), [((-2, -3), True), ((-3, -2), False), ((float("nan"), -1), True)])
    def test_of_two_alike_the_one_with_the_lower_loss(self, losses, expected):
        assert chosen_affine(*self.IMAGES, (I, self.NEAR), losses, I, self.NEAR) == expected

    def test_no_loss_makes_up_for_having_lost_the_anatomy(self):
        assert chosen_affine(*self.IMAGES, (self.FAR, I), (-9, -2), I, I) == 1
        assert chosen_affine(*self.IMAGES, (I, self.FAR), (-2, -9), I, self.FAR) == 0

    def test_nor_for_a_start_that_was_much_better(self):
        """It led to something that is about as good as the first affine; what is in between is a matter of scale."""
        affines = motion(WIDE, 0, (1, 0, 0), (0.018, 0, 0)), motion(WIDE, 0, (1, 0, 0), (0.02, 0, 0))
        assert chosen_affine(*self.IMAGES, affines, (-9, -2), I, I) == 1

    def test_nor_for_a_collapse(self):
        assert chosen_affine(*self.IMAGES, (np.diag([0.3, 0.4, 2.0, 1.0]), self.NEAR), (-9, -2), I, self.NEAR) == 1

    def test_the_start_itself_if_both_affines_lost_the_anatomy(self):
        farther = motion(WIDE, 30, (1, 0, 1), (0.4, 0.6, 0))
        assert chosen_affine(*self.IMAGES, (self.FAR, farther), (-9, -8), I, self.NEAR) == START
        assert chosen_affine(*self.IMAGES, (self.FAR, I), (-9, -8), I, self.NEAR) == 1  # its stages did not move away

    def test_not_a_start_that_is_not_plausible(self):
        farther, initial = motion(WIDE, 30, (1, 0, 1), (0.4, 0.6, 0)), np.diag([2.0, 2, 2, 1])
        assert chosen_affine(*self.IMAGES, (self.FAR, farther), (-9, -8), initial, self.NEAR) != START


CONFIG = RegistrationConfig(stages=(Stage(2, 30, learning_rate=0.01), Stage(2, 10, spacing=16, learning_rate=0.08)))


def meta(image: PreparedImage) -> MetaTensor:
    return MetaTensor(image.image, affine=torch.from_numpy(image.grid.affine.copy()))


class TestRegistration:
    TRUTH = motion(WIDE, 28, (0, 1, -1), (0.4, -0.3, 0))

    def images(self) -> tuple[MetaTensor, MetaTensor]:
        return meta(prepared(WIDE, True)), meta(moved(prepared(WIDE), self.TRUTH))

    @pytest.mark.slow
    def test_a_large_motion_is_recovered(self, caplog):
        found = register(*self.images(), preset=CONFIG, device="cpu", progress=False)
        assert error(found.affine, self.TRUTH, WIDE) < 2 and "from another start" in caplog.text
        assert [len(stage["loss"]) for stage in found.history] == [30, 10]

    def test_stages_that_move_away_from_the_start_are_undone(self, caplog, monkeypatch):
        starts = []
        monkeypatch.setattr(run, "chosen_affine", lambda *given: starts.append(given[-1]) or START)
        config = replace(CONFIG, stages=(Stage(4, 8, learning_rate=0.05),))
        found = register(*self.images(), preset=config, device="cpu", progress=False)
        np.testing.assert_allclose(found.affine, starts[0], atol=1e-4)
        assert "moved away" in caplog.text
        assert [stage["undone"] for stage in found.history] == [True]

    @pytest.mark.slow
    def test_not_without_the_search(self):
        config = replace(CONFIG, multistart="never")
        found = register(*self.images(), preset=config, device="cpu", progress=False)
        assert error(found.affine, self.TRUTH, WIDE) > 15

    @pytest.mark.slow
    def test_a_given_start_is_kept_unless_told_otherwise(self, caplog):
        given = motion(WIDE, 0, (1, 0, 0), (0.1, 0, 0))
        short = replace(CONFIG, stages=(Stage(4, 3),))
        found = [
            register(*self.images(), preset=replace(short, multistart=how), initial=given, device="cpu", progress=False)
            for how in ("never", "auto", "always")
        ]
        np.testing.assert_array_equal(found[0].affine, found[1].affine)
        assert error(found[0].affine, self.TRUTH, WIDE) > 15 > error(found[2].affine, self.TRUTH, WIDE)

    @pytest.mark.slow
    @pytest.mark.usefixtures("forked")
    def test_two_processes_agree_on_the_start(self):
        found = register(*self.images(), preset=CONFIG, devices=["cpu", "cpu"], progress=False)
        assert error(found.affine, self.TRUTH, WIDE) < 2


class TestMeasure:
    def test_an_image_is_most_like_itself(self):
        search = StartSearch(prepared(WIDE), prepared(WIDE), 2**14)
        offsets = [motion(WIDE, d, (1, 2, 0), (t, 0, 0)) for d, t in [(0, 0), (20, 0), (0, 0.1), (30, 0.3), (0, 0.95), (0, 2)]]
        scores = search.scores(offsets)
        assert 0.3 < scores[0] <= 1 and (scores[1:] < 0.7 * scores[0]).all() and (scores >= -1e-6).all()
        assert scores[4] < 0.05 and scores[5] == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("grid", [WIDE, PLANE])
    def test_all_translations_at_once_equal_one_at_a_time(self, grid):
        dims = grid.dims
        turned = motion(grid, 20, (1,) * (1 if dims == 2 else 3), (0.3,) * dims)
        search = StartSearch(prepared(grid, True), moved(prepared(grid), turned), 2**11)
        score, matrix = search._translated(turned[:-1, :-1])
        assert score == pytest.approx(float(search.scores([matrix])[0]), rel=1e-3)
        along = np.eye(dims + 1)
        for axis in range(dims):  # no neighbor on the lattice is better
            along[axis, -1] = search.step
            assert (search.scores([matrix @ along, matrix @ np.linalg.inv(along)]) <= score * 1.001).all()
            along[axis, -1] = 0

    def test_refinement_never_loses(self):
        search = StartSearch(prepared(WIDE, True), prepared(WIDE), 2**11)
        starts = [motion(WIDE, d, (0, 1, 1), (0.05, 0, 0)) for d in (0, 10, 15)]
        assert (search.scores(search.refined(starts)) >= search.scores(starts) - 1e-6).all()

    def test_threads_do_not_change_the_search(self):
        search, turns = StartSearch(prepared(SMALL, True), prepared(SMALL), 2**9), even_rotations(2, 6)
        found = {}
        before = torch.get_num_threads()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found[threads] = np.stack(search.screened(turns, 4))
        finally:
            torch.set_num_threads(before)
        np.testing.assert_allclose(found[1], found[2], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fixed", "moving"),
    [("openms_patient07_T2", "openms_patient07_T1"), ("stroke_FLAIR", "stroke_T1")],
)
def test_real_heads(fixed, moving, shared: Path):
    """Images that are aligned, until one of them is moved."""
    images = [real(shared / "data" / f"{name}.nii.gz") for name in (fixed, moving)]
    grid, rng = images[1].grid, np.random.default_rng(0)
    assert better_start(*images, I, I) is None
    errors = []
    for _ in range(4):
        truth = motion(grid, rng.uniform(10, 30), rng.normal(size=3), np.sign(rng.normal(size=3)) * rng.uniform(0, 0.5, 3))
        errors.append(error(better_start(images[0], moved(images[1], truth), I, I), truth, images[0].grid))
    assert max(errors) < 6, errors  # two of ten samples' breadths: the affine stages do the rest


def real(path: Path) -> PreparedImage:
    """An image at about 2 mm."""
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    image = prepare(read_image(path, "fixed")[0], None, 0.001, CPU)
    size = [max(1, round(2 / s)) for s in image.grid.spacing]
    small = avg_pool3d(image.image, size)
    affine = image.grid.affine @ np.diag([*size, 1.0])
    affine[:-1, -1] = apply_affine(image.grid.affine, (np.array(size) - 1) / 2)
    return replace(image, image=small, grid=Grid(tuple(small.shape[1:]), affine))
