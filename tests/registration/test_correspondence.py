# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Large residuals of the local fits, as in inter-subject pairs, switch the fine stages to the robust form."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.geometry import Grid
from monai_locor.io import write_image
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.registration import PRESETS, RegistrationResult, Stage
from monai_locor.registration import run as run_module
from monai_locor.registration.correspondence import MAX_UNEXPLAINED_BENDING, MAX_UNEXPLAINED_SHARE, relative_bending, use_form
from monai_locor.registration.similarity import make_similarity
from monai_locor.visualize import samples_of_result

from ..losses.reference import window_matrix, window_values
from ..parameters import mostly_slow
from ..phantoms import CUBE, PLANE, anatomy, image, other_modality, pair
from .short_runs import engine_of, run

STAGES = (Stage(4, 12), Stage(4, 12, spacing=8, learning_rate=0.16), Stage(2, 4, spacing=8, learning_rate=0.08))
CONFIG = RegistrationConfig(stages=STAGES, multistart="never", num_basis=3)
NEVER = dataclasses.replace(CONFIG, intersubject="never")


def intersubject_pair(grid=PLANE):
    """The fixed image has structures of its own on top of what both images share."""
    points = grid.points()
    own = anatomy(points[..., ::-1] + np.arange(5, 5 + grid.dims))
    return image(other_modality(anatomy(points)) + 1.5 * own, grid), image(anatomy(points), grid)


@pytest.fixture(scope="module")
def images():
    return intersubject_pair()


@pytest.fixture(scope="module")
def taken(images):
    return run(*images, preset=CONFIG)


@pytest.mark.slow
def test_an_intra_subject_pair_keeps_its_settings():
    fixed, moving, _ = pair(PLANE, PLANE)
    found, never = run(fixed, moving, preset=CONFIG), run(fixed, moving, preset=NEVER)
    assert 0 < found.unexplained < MAX_UNEXPLAINED_SHARE and never.unexplained is None
    assert not found.intersubject and found.last_config == found.config == CONFIG
    assert torch.equal(found.forward_mm, never.forward_mm)


def test_an_inter_subject_pair_continues_with_the_intersubject_settings(images, taken):
    assert taken.intersubject and taken.unexplained > MAX_UNEXPLAINED_SHARE and taken.config == CONFIG
    assert taken.last_config == CONFIG.for_intersubject
    names = ("form", "kernel_sigma", "eps", "bending_weight")
    assert all(getattr(taken.last_config, n) == getattr(PRESETS["intersubject"], n) for n in names)
    never = run(*images, preset=NEVER)
    assert not never.intersubject and not torch.allclose(taken.forward_mm, never.forward_mm, atol=0.01)
    # no stage is repeated, and the coarse stages are the same
    assert [(s["factor"], s["spacing"]) for s in taken.history] == [(s.factor, s.spacing) for s in STAGES]
    coarse = [[s["loss"] for s in result.history[:2]] for result in (taken, never)]
    assert coarse[0] == coarse[1] and max(never.history[2]["loss"]) < 0 < min(taken.history[2]["loss"])


@pytest.mark.slow
def test_the_log_names_the_setting(images, caplog):
    with caplog.at_level(logging.INFO):
        run(*images, preset=CONFIG)
    assert "as between two subjects" in caplog.text and "intersubject=never" in caplog.text


@pytest.mark.slow
def test_it_is_deterministic(images, taken):
    assert torch.equal(run(*images, preset=CONFIG).forward_mm, taken.forward_mm)


@pytest.mark.slow
def test_in_three_dimensions():
    assert run(*intersubject_pair(CUBE), preset=CONFIG).intersubject


@pytest.mark.parametrize("derivative", mostly_slow(["none", "basis", "both"]))
@pytest.mark.parametrize("role", mostly_slow(["fixed", "moving"]))
def test_with_masks(derivative, role):
    images = intersubject_pair(CUBE)
    config = dataclasses.replace(CONFIG, derivative=derivative, stages=(Stage(2, 1), Stage(4, 1, spacing=8)))
    everywhere = torch.ones_like(images[0])
    found = run(*images, preset=config, **{f"{role}_mask": everywhere})
    assert found.unexplained == pytest.approx(run(*images, preset=config).unexplained, abs=0.02)
    part = everywhere.clone()
    part[:, :12] = 0
    assert run(*images, preset=config, **{f"{role}_mask": part}).unexplained != found.unexplained


def disc(radius: float):
    """A mask of the middle of the plane, mm."""
    return image((np.linalg.norm(PLANE.points(), axis=-1) < radius).astype(np.float64), PLANE)


class TestMasks:
    """Inside the mask the images fit badly, and around it well."""

    MASK = disc(15)

    @pytest.fixture
    def intra_subject_pair(self):
        fixed, moving, _ = pair(PLANE, PLANE)
        noise = torch.from_numpy(np.random.default_rng(0).normal(size=PLANE.shape))[None]
        noise = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 6 * self.MASK.as_tensor()
        return image((fixed.as_tensor() + noise)[0].numpy(), PLANE), moving

    @pytest.mark.slow
    @pytest.mark.parametrize("roles", [("fixed",), ("fixed", "moving")])
    def test_a_mask_does_not_make_a_pair_inter_subject(self, intra_subject_pair, roles, monkeypatch):
        masks = {f"{role}_mask": self.MASK for role in roles}
        without, found = run(*intra_subject_pair, preset=CONFIG), run(*intra_subject_pair, preset=CONFIG, **masks)
        assert not without.intersubject and not found.intersubject
        assert found.unexplained == without.unexplained < MAX_UNEXPLAINED_SHARE
        never = run(*intra_subject_pair, preset=dataclasses.replace(CONFIG, intersubject="never"), **masks)
        assert torch.equal(found.forward_mm, never.forward_mm)

        def not_measured(_):
            yield from ()
            return math.inf

        monkeypatch.setattr(run_module.Run, "_share_without_masks", not_measured)
        assert run(*intra_subject_pair, preset=CONFIG, **masks).intersubject  # as they would by themselves

    @pytest.mark.slow
    @pytest.mark.parametrize("role", ["fixed", "moving"])
    def test_an_inter_subject_pair_stays_one_with_a_mask(self, role):
        found = run(*intersubject_pair(), preset=CONFIG, **{f"{role}_mask": disc(22)})
        assert found.intersubject and found.unexplained > MAX_UNEXPLAINED_SHARE

    @pytest.mark.slow
    @pytest.mark.usefixtures("forked")
    def test_two_processes_agree(self, intra_subject_pair):
        found = run(*intra_subject_pair, preset=CONFIG, fixed_mask=self.MASK, device=None, devices=["cpu", "cpu"])
        assert not found.intersubject and found.unexplained < MAX_UNEXPLAINED_SHARE


@pytest.mark.parametrize("changes", mostly_slow([{"similarity": "local_ncc"}, {"form": "normalized"}, {"stages": STAGES[:1]}]))
def test_other_settings_are_left_alone(images, changes):
    assert not run(*images, preset=dataclasses.replace(CONFIG, **changes)).intersubject


@pytest.mark.slow
def test_the_start_of_the_deformation_is_kept():
    """With steps this small, the result is the given velocity."""
    images = intersubject_pair(CUBE)
    velocity = torch.zeros(3, *CUBE.shape)
    velocity[0] = torch.from_numpy(np.exp(-(CUBE.points() ** 2).sum(-1) / 300))
    stages = (Stage(4, 1, spacing=8, learning_rate=1e-9),)
    config = dataclasses.replace(CONFIG, stages=stages, affine=False)
    starts = {"initial": np.eye(4), "initial_velocity": velocity}
    found = run(*images, preset=config, **starts)
    never = run(*images, preset=dataclasses.replace(config, intersubject="never"), **starts)
    assert found.intersubject and not never.intersubject
    torch.testing.assert_close(found.forward_mm, never.forward_mm, atol=1e-4, rtol=0)
    assert float(found.forward_mm.abs().max()) > 1


@pytest.mark.slow
def test_the_network_predicts_once(images):
    asked = []

    def predict(fixed, moving, affine):
        asked.append(affine)
        return torch.zeros(fixed.grid.dims, *fixed.grid.shape)

    found = run(*images, preset=CONFIG, predict=predict)
    assert found.intersubject and len(asked) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_processes_agree(images, taken):
    two = run(*images, preset=CONFIG, device=None, devices=["cpu", "cpu"])
    assert two.intersubject
    # they begin at the same place; where nothing fits well, the order of sums tells in the end
    assert two.history[0]["loss"][0] == pytest.approx(taken.history[0]["loss"][0], abs=1e-3)
    assert float((two.forward_mm - taken.forward_mm).abs().mean()) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("share", "told"), [(math.nan, None), (0.1, 0.1)])
def test_a_share_that_is_unknown_or_small_changes_nothing(images, monkeypatch, share, told):
    monkeypatch.setattr(run_module, "median_unexplained_share", lambda engine: share)
    found = run(*images, preset=CONFIG)
    assert not found.intersubject and found.unexplained == told
    json.dumps(found.summary(), allow_nan=False)


@pytest.mark.parametrize(("factor", "robust"), [(0.9, False), (1.1, True)])
def test_large_residuals_without_a_deformation_change_nothing(images, monkeypatch, factor, robust):
    """Two scans of one patient, with noise or a lesion in one of them."""
    monkeypatch.setattr(run_module, "median_unexplained_share", lambda engine: 0.2)
    monkeypatch.setattr(run_module, "relative_bending", lambda engine: factor * MAX_UNEXPLAINED_BENDING / 0.2)
    found = run(*images, preset=CONFIG)
    assert found.intersubject is robust and found.unexplained == 0.2
    if not robust:
        assert torch.equal(found.forward_mm, run(*images, preset=NEVER).forward_mm)


class TestBending:
    """The measured bending energy of the coarse deformation."""

    @staticmethod
    def engine(voxel=1.0, factor=4, bend=None, config=CONFIG, initial=None):
        shape = (32, 32, 32)
        grid = Grid(shape, np.diag([voxel, voxel, voxel, 1]))
        values = anatomy(Grid(shape, np.diag([1.0, 1, 1, 1])).points() - 16)
        engine = engine_of([image(values, grid)] * 2, config, initial=initial)
        engine.enter(Stage(factor, 1, spacing=8))
        if bend is not None:
            with torch.no_grad():
                engine.velocity.coefficients.copy_(bend(engine.velocity.coefficients))
        return engine

    @staticmethod
    def wave(coefficients):
        n = torch.arange(coefficients.shape[-1], dtype=coefficients.dtype)
        return (0.2 * torch.sin(n)).expand_as(coefficients)

    def test_no_deformation_has_none_whatever_the_affine_is(self):
        turned = np.eye(4)
        turned[:2, :2] = [[0.9, -0.3], [0.3, 1.1]]
        assert relative_bending(self.engine(initial=turned)) == 0
        bent = [relative_bending(self.engine(initial=start, bend=self.wave)) for start in (None, turned)]
        assert bent[0] == pytest.approx(bent[1], rel=1e-5) and bent[0] > 0

    def test_it_does_not_depend_on_the_unit_of_length_or_the_weight(self):
        values = [relative_bending(self.engine(voxel, bend=self.wave)) for voxel in (0.5, 1.0, 3.0)]
        assert values == pytest.approx([values[0]] * 3, rel=1e-3)
        free = dataclasses.replace(CONFIG, bending_weight=0.0)
        assert relative_bending(self.engine(bend=self.wave, config=free)) == values[1]

    def test_it_is_the_mean_square_of_the_second_derivatives_times_the_sample_distance(self):
        engine = self.engine(bend=lambda c: 0.02 * torch.arange(c.shape[-1], dtype=c.dtype).square().expand_as(c))
        field = engine.velocity.reversed([0])[0].detach().double().numpy()

        def moved(*steps):
            return field[(slice(None), *(slice(1 + d, n - 1 + d) for d, n in zip(steps, field.shape[1:], strict=True)))]

        total, axes = np.zeros_like(moved(0, 0, 0)), np.eye(3, dtype=int)
        for a, b in itertools.product(axes, axes):
            if (a == b).all():
                second = moved(*a) - 2 * moved(0, 0, 0) + moved(*-a)
            else:
                second = (moved(*(a + b)) - moved(*(a - b)) - moved(*(b - a)) + moved(*(-a - b))) / 4
            total += second**2
        assert relative_bending(engine) == pytest.approx(total.mean() * (4 / engine.velocity.step) ** 2, rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_losses_continue_as_if_made_with_the_new_settings(dims):
    losses, changed = torch.nn.ModuleList([make_similarity(CONFIG, dims)]), CONFIG.for_intersubject
    engine = SimpleNamespace(losses=losses, config=CONFIG)
    use_form(engine, changed)
    assert engine.config == changed and repr(losses[0]) == repr(make_similarity(changed, dims))


def test_settings_of_the_user_stay():
    own = RegistrationConfig(bending_weight=33.0, kernel_sigma=1.0)
    found = own.for_intersubject
    assert (found.bending_weight, found.kernel_sigma, found.form) == (33.0, 1.0, "robust")
    assert RegistrationConfig(eps=1e-4).for_intersubject.eps == 1e-4
    assert dataclasses.replace(PRESETS["fast"].for_intersubject, intersubject="always") == PRESETS["intersubject"]


@pytest.mark.parametrize(("word", "expected"), [("always", True), ("never", False)])
def test_a_pair_that_is_known_to_be_of_one_or_two(word, expected):
    """Whatever its residuals are."""
    fixed, moving, _ = pair(PLANE, PLANE)
    for images in ((fixed, moving), intersubject_pair()):
        found = run(*images, preset=dataclasses.replace(CONFIG, intersubject=word))
        assert found.intersubject is expected and found.unexplained is None


@pytest.mark.slow
def test_pictures_and_files_record_it(images, taken, tmp_path):
    names = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    for name, values in zip(names, images, strict=True):
        write_image(name, values, PLANE)
    found = run(*names, preset=CONFIG)
    assert samples_of_result(found, *names)[1].config.form == "robust"
    found.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["intersubject"] is True
    again = RegistrationResult.load(tmp_path / "out")
    assert (again.last_config, again.unexplained) == (found.last_config, found.unexplained)


class TestUnexplained:
    def test_against_windows_one_by_one(self):
        torch.manual_seed(0)
        loss = LocalLearnedBasisCRLoss(2, num_basis=2, stride=2, eps=1e-3).double().eval()
        pred, target = torch.rand(2, 1, 1, 14, 12, dtype=torch.float64)
        share, variance = loss.unexplained_share(pred, target)
        averages = window_matrix(loss, (14, 12), (0.0, 0.0))
        t = target.flatten()
        torch.testing.assert_close(variance.flatten(), averages @ t**2 - (averages @ t) ** 2)
        loss.form = "normalized"
        torch.testing.assert_close(share.flatten(2), window_values(loss, pred, target)[0])

    def test_windows_that_do_not_count_have_no_variance(self):
        loss = LocalLearnedBasisCRLoss(2, stride=2).eval()
        pred, target = torch.rand(2, 1, 1, 16, 12)
        mask = torch.ones(1, 1, 16, 12)
        mask[:, :, :8] = 0
        _, variance = loss.unexplained_share(pred, target, mask)
        assert float(variance[..., :2, :].max()) == 0 < float(variance[..., -2:, :].min())

    def test_a_function_leaves_little_and_noise_much(self):
        torch.manual_seed(0)
        loss = LocalLearnedBasisCRLoss(2, basis="polynomial", eps=1e-5).eval()
        pred = torch.rand(1, 1, 40, 40)
        shares = [loss.unexplained_share(pred, target)[0].median() for target in (pred**2 - pred, torch.rand(1, 1, 40, 40))]
        assert shares[0] < 0.05 and shares[1] > 0.3
