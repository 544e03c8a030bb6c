# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The predicted memory of a registration, and what is done where it is not enough."""

from __future__ import annotations

import dataclasses
import itertools
import logging

import numpy as np
import pytest
import torch

from monai_locor import RegistrationConfig
from monai_locor.errors import InputError
from monai_locor.free_memory import gibibytes
from monai_locor.registration import PRESETS, RegistrationEngine, Stage, api
from monai_locor.registration.memory import RunShape, held_floats, predicted_memory
from monai_locor.registration.memory_plan import MemoryPlan, is_out_of_memory, memory_plans, plans_within, with_retries

from ..held import Held
from ..phantoms import PLANE, grid_of, image, pair
from .short_runs import run

FAST = PRESETS["fast"]


CASES = {
    "fast": {},
    "masked": {"shape": (56, 64, 48), "masked": True},
    "two images": {"count": 2, "shape": (48, 48, 48)},
    "thick": {"shape": (80, 80, 28), "spacing": (1.0, 1.0, 3.0)},
}


def of(shape, spacing=(1.0, 1.0, 1.0), **options) -> RunShape:
    grid = grid_of(shape, spacing)
    return RunShape(grid, grid, (grid, grid), **options)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_what_a_registration_holds(monkeypatch, case):
    """One step of every stage: the number of steps has no influence."""
    case = {"preset": "fast", "shape": (64, 64, 64), "spacing": (1.0, 1.0, 1.0), "count": 1, "masked": False, **case}
    stages = tuple(dataclasses.replace(stage, iterations=1) for stage in PRESETS[case["preset"]].stages)
    preset = {"stages": stages, "multistart": "never", "intersubject": "never", "squarings": 2}
    preset["similarity_options"] = {"memory_budget_mb": 4.0} if case.get("similarity") in (None, "local_ncc") else {}
    config = dataclasses.replace(PRESETS[case["preset"]], **{**preset, "similarity_options": {}})
    if "similarity" in case:
        config = config.with_similarity(case["similarity"])
    config = dataclasses.replace(config, similarity_options=preset["similarity_options"]).with_transform(case.get("transform"))
    predicted, plans = {}, api.plans_within
    monkeypatch.setattr(api, "plans_within", lambda s, c, a: predicted.update(held_floats(s, c)) or plans(s, c, None))
    grid = grid_of(case["shape"], case["spacing"])
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, *(n // 8 for n in grid.shape), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, grid.shape, mode="trilinear")[0]
    images = [image(smooth, grid), image((smooth - 0.4).square(), grid)]
    masks = {f"{role}_mask": torch.ones(1, *grid.shape) for role in ("fixed", "moving")} if case["masked"] else {}
    given = [x if case["count"] == 1 else [x] * case["count"] for x in images]
    own = sum(x.numel() for x in images) * case["count"]  # in memory before
    with Held() as held:
        run(*given, config, **masks)
    assert max(predicted.values()) == pytest.approx(held.peak / 4 + own, rel=0.2)


class TestPrediction:
    def test_it_grows_with_the_voxels(self):
        """From 256^3 on, slabs and constants hardly count."""
        small, large = (predicted_memory(of((n, n, n)), FAST).peak for n in (256, 512))
        assert 7 < large / small < 8.2

    def test_every_part_is_counted(self):
        plain = predicted_memory(of((128, 128, 128)), FAST)
        assert predicted_memory(of((128, 128, 128), masked=(True, True)), FAST).levels > plain.levels
        assert predicted_memory(of((128, 128, 128), channels=2), FAST).result > plain.result
        assert predicted_memory(of((128, 128, 128), threads=2), FAST).steps > plain.steps
        assert predicted_memory(of((128, 128, 128), device="cuda"), FAST).steps > plain.steps  # larger slabs
        coarse = dataclasses.replace(FAST, stages=FAST.stages[:-1])
        assert predicted_memory(of((128, 128, 128)), coarse).steps < plain.steps

    def test_a_cropped_image_takes_less(self):
        whole = grid_of((64, 64, 400))
        slab = grid_of((64, 64, 20))
        cropped = whole.cropped((slice(0, 64), slice(0, 64), slice(150, 250)))
        parts = [(slab, whole), (slab, cropped)]
        needs = [predicted_memory(RunShape(slab, whole, part), FAST).steps for part in parts]
        assert needs[1] < 0.8 * needs[0]


class TestPlans:
    SHAPE = of((200, 200, 200), threads=2)

    def needs(self) -> list[int]:
        return [plan.need.peak for plan in memory_plans(self.SHAPE, FAST)]

    def test_each_plan_needs_less(self):
        needs = self.needs()
        assert len(needs) == 5 and all(b <= a for a, b in itertools.pairwise(needs)) and needs[1] < needs[0]

    def test_as_set(self, caplog):
        plans = plans_within(self.SHAPE, FAST, 2**40)
        assert plans[0].config is FAST and not plans[0].thrifty and len(plans) == 5 and plans[0].budget == 2**40
        assert plans_within(self.SHAPE, FAST, None)[0].budget is None and not caplog.text

    def test_smaller_slabs_first(self, caplog):
        with caplog.at_level(logging.INFO):
            plan, *_ = plans_within(self.SHAPE, FAST, self.needs()[1])
        assert plan.thrifty and plan.config is FAST and "smaller slabs" in caplog.text

    def test_then_a_coarser_level(self, caplog):
        """The setting counts, not the free memory."""
        needs = self.needs()
        plan, *_ = plans_within(self.SHAPE, dataclasses.replace(FAST, memory=needs[1] - 1), 2**40)
        assert plan.thrifty and plan.finest == 2 and [s.factor for s in plan.config.stages] == [8, 4, 4, 4, 2]
        assert f"needs {gibibytes(needs[1])}" in caplog.text and "2 instead of 1 voxels apart" in caplog.text

    def test_then_an_error(self):
        with pytest.raises(InputError, match=r"not enough memory: .* GiB even at its coarsest level; 0.00098 GiB are allowed"):
            plans_within(self.SHAPE, dataclasses.replace(FAST, memory="1MiB"), None)


class TestRetries:
    PLANS = memory_plans(of((32, 32, 32)), FAST)

    def test_two_more_attempts(self, caplog):
        tried: list[MemoryPlan] = []

        def attempt(plan):
            tried.append(plan)
            raise MemoryError("first")

        with pytest.raises(MemoryError):
            with_retries(self.PLANS, attempt)
        assert tried == self.PLANS[:3] and caplog.text.count("out of memory (first): repeating the registration with") == 2

    def test_other_errors_are_raised(self):
        with pytest.raises(ValueError, match="else"):
            with_retries(self.PLANS, lambda plan: (_ for _ in ()).throw(ValueError("else")))

    @pytest.mark.parametrize(
        ("error", "is_one"),
        [
            (MemoryError(), True),
            (torch.OutOfMemoryError("CUDA out of memory"), True),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), True),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
            (KeyboardInterrupt(), False),
        ],
        ids=str,
    )
    def test_the_errors(self, error, is_one):
        assert is_out_of_memory(error) is is_one

    def test_a_registration_without_enough_memory(self, monkeypatch):
        """Its finest stage never fits."""
        entered, enter = [], RegistrationEngine.enter

        def limited(self, stage):
            entered.append((stage.factor, self.start.thrifty))
            if stage.factor == 1:
                raise RuntimeError("DefaultCPUAllocator: not enough memory")
            enter(self, stage)

        monkeypatch.setattr(RegistrationEngine, "enter", limited)
        config = RegistrationConfig(stages=(Stage(2, 1, spacing=8), Stage(1, 1, spacing=8)), multistart="never")
        result = run(*pair(PLANE, PLANE)[:2], config)
        assert entered == [(2, False), (1, False), (2, True), (1, True), (2, True)]
        assert [stage.factor for stage in result.config.stages] == [2] and len(result.history) == 1
        assert sum("out of memory" in line for line in result.warnings) == 2

    def test_a_limit_from_the_start(self):
        """The warning is part of the result, and so are the numbers."""
        config = RegistrationConfig(stages=(Stage(2, 1, spacing=8), Stage(1, 1, spacing=8)), multistart="never")
        fixed, moving = pair(PLANE, PLANE)[:2]
        needs = [plan.need.peak for plan in memory_plans(RunShape(PLANE, PLANE, (PLANE, PLANE)), config)]
        assert needs[2] < needs[1]
        result = run(fixed, moving, dataclasses.replace(config, memory=needs[2]))
        assert any("GiB" in line for line in result.warnings) and [s.factor for s in result.config.stages] == [2]
        assert result.memory["predicted"] == result.memory["available"] == needs[2]
        with pytest.raises(InputError, match="not enough memory"):
            run(fixed, moving, dataclasses.replace(config, memory=1000))


def test_smaller_slabs_change_the_result_by_rounding_only(monkeypatch):
    config = RegistrationConfig(stages=(Stage(2, 2, spacing=8),), multistart="never")
    fixed, moving = pair(PLANE, PLANE)[:2]
    usual = run(fixed, moving, config)
    monkeypatch.setattr(api, "plans_within", lambda *given: memory_plans(*given[:2])[1:])
    thrifty = run(fixed, moving, config)
    np.testing.assert_allclose(usual.forward_mm, thrifty.forward_mm, atol=1e-3)
