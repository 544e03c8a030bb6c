# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Several pairs at once: each has the result that it has alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from monai.networks.layers import GaussianFilter

from monai_locor import InputError, RegistrationConfig, register, register_batch
from monai_locor.registration import InitialLosses, Stage, batch
from monai_locor.registration.batch_group import outline, partition
from monai_locor.registration.batch_step import BatchStep
from monai_locor.registration.similarity import make_similarity

from ..phantoms import grid_of, image, pair
from .short_runs import difference, engine_of, run

GRID = grid_of((16, 14, 12), (2.5, 2.5, 2.5))
AFFINE, DENSE = Stage(2, 4), Stage(2, 4, spacing=8, learning_rate=0.16)
TOLERANCE = 2e-3  # a step is up to 0.16
CONFIG = RegistrationConfig(stages=(AFFINE, DENSE), region="image", multistart="never", intersubject="never")


@pytest.fixture(scope="module")
def pairs():
    """Three pairs that differ in contrast, position and orientation of the moving grid."""
    out = []
    for shift in (0.0, 2.0, -3.0):
        moving = grid_of((14, 14, 12), (2.5, 2.5, 2.5), center=(shift, 0, 0), turn=0.03 * shift)
        fixed, other, _ = pair(GRID, moving)
        out.append((fixed, other))
    return out


def engines_of(pairs, config=CONFIG, **options):
    return [engine_of(images, config, **options) for images in pairs]


def advance_alone(engines, stage, evaluate=False):
    """Values of all steps, ``(engines, steps, 2)``."""
    values = []
    for engine in engines:
        engine.enter(stage)
        engine.losses.train(not evaluate)
        values.append(torch.stack([torch.stack(engine.step()) for _ in range(stage.iterations)]))
    return torch.stack(values)


def advance_together(engines, stage, evaluate=False):
    for engine in engines:
        engine.enter(stage)
        engine.losses.train(not evaluate)
    (part,) = partition(engines)
    together = BatchStep(part, stage.iterations)
    values = torch.stack([torch.stack(together.step()) for _ in range(stage.iterations)])
    together.finish()
    return torch.stack([values[:, :, part.index(engine)] for engine in engines])


def parameters(engine):
    """Those of the transform: in a basis, Adam enlarges the rounding errors of very small gradients to whole steps."""
    return torch.cat([p.detach().flatten() for p in engine.transform_parameters()])


def variant(name):
    changes = {
        "alternating": {"stages": tuple(dataclasses.replace(s, directions="alternating") for s in (AFFINE, DENSE))},
        "polynomial": {"basis": "polynomial"},
        "rigid part fixed": {"affine": False},
        "no bending": {"bending_weight": 0.0},
    }
    if name in changes:
        return dataclasses.replace(CONFIG, **changes[name])
    return CONFIG if name == "locor" else CONFIG.with_similarity(name)


@pytest.mark.parametrize(
    "name",
    [
        "locor",
        "alternating",
        "mutual_information",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("polynomial", "rigid part fixed", "no bending", "local_ncc", "srwcr", "local_parzen_cr", "mind_ssc")
        ),
    ],
)
def test_steps_are_those_of_single_engines(pairs, name):
    alone, together = (engines_of(pairs, variant(name)) for _ in range(2))
    for stage in alone[0].config.stages:
        if stage.spacing is None and not alone[0].config.affine:
            continue
        expected, found = (f(e, stage, evaluate=True) for f, e in ((advance_alone, alone), (advance_together, together)))
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(parameters(other), parameters(one), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("stage", [AFFINE, DENSE], ids=["affine", "deformable"])
def test_gradients_are_those_of_single_engines(pairs, stage):
    alone, together = engines_of(pairs), engines_of(pairs)
    for engine in (*alone, *together):
        engine.enter(stage)
    batch_step = BatchStep(together, stage.iterations)
    batch_step.step()
    for engine, found in zip(alone, batch_step.optimizer.mean, strict=True):
        engine.step()
        sizes = engine.optimizer.group_sizes
        for a, b in zip(found.split(sizes), engine.optimizer.mean.split(sizes), strict=True):
            assert float((a - b).abs().max()) < 1e-3 * float(b.abs().max())


def test_random_windows_are_those_of_single_engines(pairs):
    alone, together = engines_of(pairs), engines_of(pairs)
    expected, found = advance_alone(alone, AFFINE), advance_together(together, AFFINE)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.losses, other.losses, strict=True):
            assert torch.equal(a.generator.get_state(), b.generator.get_state())


def test_the_order_of_the_pairs_does_not_matter(pairs):
    first, second = engines_of(pairs), engines_of(pairs[::-1])
    for engines in (first, second):
        advance_together(engines, DENSE)
    for one, other in zip(first, second[::-1], strict=True):
        torch.testing.assert_close(parameters(other), parameters(one), atol=TOLERANCE, rtol=0)


def test_a_gradient_that_is_not_finite_stops_its_own_pair_only(pairs):
    sound, faulty = engines_of(pairs), engines_of(pairs)
    expected = advance_together(sound, DENSE)
    faulty[1].enter(DENSE)
    start = parameters(faulty[1])
    for engine in faulty:
        engine.enter(DENSE)
    for level in faulty[1].levels.values():
        level.reference.fill_(torch.inf)
    steps = BatchStep(faulty, DENSE.iterations)
    steps.sides[0].reference[1].fill_(3e38)  # finite, but its products are not
    values = torch.stack([torch.stack(steps.step()) for _ in range(DENSE.iterations)])
    steps.finish()
    for k in (0, 2):
        torch.testing.assert_close(values[:, :, k], expected[k], atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(parameters(faulty[k]), parameters(sound[k]), atol=TOLERANCE, rtol=0)
    assert not values[:, 0, 1].isfinite().all()
    assert steps.failed_steps() == [0, DENSE.iterations, 0]
    assert torch.equal(parameters(faulty[1]), start)


def test_squarings_of_each_pair_are_kept(pairs):
    alone, together = engines_of(pairs), engines_of(pairs)
    for engines in (alone, together):
        for engine, squarings in zip(engines, (4, 2, 3), strict=True):
            engine.enter(DENSE)
            engine.velocity.coefficients.data += 0.05
            engine.velocity.exponential.squarings = squarings
    with torch.no_grad():
        fields = torch.stack([engine.velocity.reversed() for engine in alone], 1)
        (part,) = partition(together)
        found = BatchStep(part, 1).velocity((0, 1))
    assert [engine.velocity.exponential.squarings for engine in part] == [2, 3, 4]
    torch.testing.assert_close(found, fields[:, [1, 2, 0]])


class TestWhichPairs:
    def test_that_are_alike_share_steps(self, pairs):
        engines = engines_of(pairs)
        assert len({outline(engine, AFFINE) for engine in engines}) == 1

    def test_that_cannot_share_steps_run_alone(self, pairs):
        own = InitialLosses(similarity=make_similarity(CONFIG, 3))
        assert outline(engine_of(pairs[0], CONFIG.with_similarity("custom"), losses=own), DENSE) is None
        paper = dataclasses.replace(CONFIG, composition="stages")
        assert outline(engine_of(pairs[0], paper), DENSE) is None

    def test_of_other_shape_or_with_masks_are_apart(self, pairs):
        small = engine_of(pair(GRID, grid_of((14, 12, 12), (2.5,) * 3)), CONFIG)
        assert outline(small, AFFINE) != outline(engine_of(pairs[0], CONFIG), AFFINE)
        mask = torch.ones(1, *GRID.shape)
        engines = [*engines_of(pairs[:2]), engine_of(pairs[2], CONFIG, masks=(image(mask[0], GRID), None))]
        for engine in engines:
            engine.enter(AFFINE)
        assert [len(part) for part in partition(engines)] == [2, 1]


class TestRegisterBatch:
    def test_results_are_those_of_single_registrations(self, pairs, monkeypatch):
        monkeypatch.setitem(batch.MAX_SAMPLES_PER_STEP, "cpu", 2**20)
        sizes = []
        made = batch.BatchStep
        monkeypatch.setattr(batch, "BatchStep", lambda engines, steps: sizes.append(len(engines)) or made(engines, steps))
        other = pair(GRID, grid_of((14, 12, 12), (2.5,) * 3))[:2]
        every = [pairs[0], other, *pairs[1:]]
        found = register_batch(*zip(*every, strict=True), preset=CONFIG, device="cpu", progress=False)
        assert sizes == [3, 3]
        for images, result in zip(every, found, strict=True):
            single = run(*images, CONFIG)
            assert difference(result.forward_mm, single.forward_mm, single.fixed_grid) < 0.02
            assert [len(stage["loss"]) for stage in result.history] == [4, 4]
            assert result.warnings == single.warnings and result.verdict is not None and result.seconds > 0

    @pytest.mark.slow
    def test_equal_pairs_differ_as_by_a_change_of_the_last_bit(self):
        """Not by a schedule, windows or a normalization of the batch."""
        fixed = GaussianFilter(3, 1.0)(torch.rand(1, 1, 14, 14, 14))[0]
        moving, options = torch.cos(6 * fixed).roll(1, 1), {"preset": "fast", "device": "cpu", "progress": False}
        single = register(fixed, moving, **options).forward_mm

        def distance(found):
            return float((found.forward_mm - single).norm(dim=0).mean())

        found = [distance(result) for result in register_batch([fixed] * 2, [moving] * 2, **options)]
        changed = distance(register(torch.nextafter(fixed, fixed + 1), moving, **options))
        assert max(found) < 3 * changed and 0 < changed < 0.2

    def test_repeated_stages_are_caught_up(self, pairs, monkeypatch):
        """A pair with another start, and a restart of all pairs, join the others again."""
        monkeypatch.setitem(batch.MAX_SAMPLES_PER_STEP, "cpu", 2**20)

        class Scripted:
            """Requests stages and notes when they were run."""

            def __init__(self, images, repeats):
                self.engine, self.repeats, self.steps = engine_of(images, CONFIG), repeats, 8
                self.device = self.engine.device

            def work(self):
                yield self.engine, AFFINE
                if self.repeats:
                    self.engine = engine_of(self.engine.whole_images, CONFIG)
                    yield self.engine, AFFINE
                yield self.engine, DENSE

        sizes, made = [], batch.BatchStep
        monkeypatch.setattr(batch, "BatchStep", lambda engines, steps: sizes.append(len(engines)) or made(engines, steps))
        runs = [Scripted(images, repeats) for images, repeats in zip(pairs, (True, False, True), strict=True)]
        for scripted, images in zip(runs, pairs, strict=True):
            scripted.engine.whole_images = images
        batch.BatchRun(runs).complete()
        assert sizes == [3, 2, 3]

    def test_numbers_of_images_must_agree(self, pairs):
        with pytest.raises(InputError, match="moving has 1 items for 2 fixed images"):
            register_batch([pairs[0][0]] * 2, [pairs[0][1]])
