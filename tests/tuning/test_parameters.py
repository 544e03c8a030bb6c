# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parameters, objectives and candidates of a search: scales, bounds, failed runs and repetitions."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.registration import RegistrationConfig
from monai_locor.tuning import search_space
from monai_locor.tuning.parameters import MEASURES, Parameter, digits
from monai_locor.tuning.results import Finalist, Objective, Trial, candidates
from monai_locor.tuning.runs import Run
from monai_locor.tuning.samplers import SAMPLERS, check_sampler, make_sampler
from monai_locor.tuning.scores import SCORES

REAL, LOG, WHOLE = Parameter("a", 0.5, 4.0), Parameter("b", 1e-3, 1e-1, log=True), Parameter("c", 3, 15, step=2)


class TestParameter:
    @pytest.mark.parametrize("parameter", [REAL, LOG, WHOLE], ids=["real", "log", "whole"])
    def test_unit_coordinates_rise_from_zero_to_one(self, parameter):
        assert (parameter.unit(parameter.low), parameter.unit(parameter.high)) == pytest.approx((0, 1))
        found = [parameter.unit(v) for v in np.linspace(parameter.low, parameter.high, 9)]
        assert found == sorted(found)

    def test_the_middle_of_a_logarithmic_scale_is_the_geometric_mean(self):
        assert LOG.unit(1e-2) == pytest.approx(0.5) and REAL.unit(2.25) == pytest.approx(0.5)

    def test_bounds_belong_to_the_range(self):
        assert all(p.holds(p.low) and p.holds(p.high) for p in (REAL, LOG, WHOLE))
        assert not any(p.holds(v) for p in (REAL, LOG, WHOLE) for v in (p.low - 1e-9, p.high + 1e-9))

    def test_rounding_is_idempotent_and_keeps_the_type(self):
        for value in (math.pi, 1234567.0, 1.23456e-7, 0.0, -2.34567):
            assert digits(digits(value)) == digits(value) == pytest.approx(value, rel=1e-3)
        assert WHOLE.rounded(6.7) == 7 and isinstance(WHOLE.rounded(6.7), int)
        assert REAL.rounded(1.23456) == 1.235

    def test_other_bounds_keep_everything_else(self):
        found = LOG.within(0.01, 0.02)
        assert (found.low, found.high) == (0.01, 0.02) and (found.name, found.log, found.step) == ("b", True, 0)
        assert LOG.within(LOG.low, LOG.high) == LOG
        assert isinstance(WHOLE.within(5.0, 9.0).low, int)

    @pytest.mark.parametrize(
        ("parameter", "low", "high", "message"),
        [
            (REAL, 2, 1, "range of a: 2 to 1; give two finite numbers, the smaller one first"),
            (REAL, 1, 1, "give two finite numbers"),
            (REAL, 1, math.inf, "give two finite numbers"),
            (REAL, math.nan, 1, "give two finite numbers"),
            (REAL, -1, 1, "range of a: -1 to 1; a must be 0 or more"),
            (LOG, 0, 1, "range of b: 0 to 1; b must be positive"),
            (WHOLE, 3, 6, "range of c: 3 to 6; c is an integer with step 2"),
            (WHOLE, 3.5, 5.5, "c is an integer with step 2"),
        ],
    )
    def test_bounds_that_are_refused(self, parameter, low, high, message):
        with pytest.raises(InputError, match=re.escape(message)):
            parameter.within(low, high)

    def test_bounds_of_all_measures_are_valid_for_themselves(self):
        for parameter in {p for parameters in MEASURES.values() for p in parameters}:
            assert parameter.within(parameter.low, parameter.high).to_dict() == parameter.to_dict()


BEFORE = {"a": {"tre": 4.0, "dice": 0.5}, "b": {"tre": 8.0, "dice": 0.6}}


def run(case: str, tre: float | None) -> Run:
    return Run(case, 0, {} if tre is None else {"tre": tre, "dice": 0.9}, 1.0, problem="" if tre is not None else "it failed")


class TestObjective:
    OBJECTIVE = Objective(SCORES["tre"], BEFORE)

    def test_it_is_the_mean_over_cases_in_any_order(self):
        runs = [run("a", 1.0), run("b", 3.0)]
        assert self.OBJECTIVE(runs) == self.OBJECTIVE(runs[::-1]) == 2.0

    def test_a_failed_run_scores_as_no_registration(self):
        assert self.OBJECTIVE([run("a", None), run("b", None)]) == self.OBJECTIVE.nothing == 6.0
        assert self.OBJECTIVE([run("a", 1.0), run("b", None)]) == 4.5

    @pytest.mark.parametrize("name", ["tre", "dice", "relative"])
    def test_every_score_falls_as_the_result_gets_better(self, name):
        score = SCORES[name]
        found = [score.value({"tre": t, "dice": 1 - t / 10}, BEFORE["a"]) for t in (4.0, 2.0, 1.0, 0.0)]
        assert found == sorted(found, reverse=True) and found[-1] == pytest.approx(0)

    def test_the_relative_score_of_nothing_is_one_and_never_divides_by_zero(self):
        assert Objective(SCORES["relative"], BEFORE).nothing == 1
        assert math.isfinite(SCORES["relative"].value({"dice": 0.9}, {"dice": 1.0}))


class TestFinalists:
    SPACE = search_space(RegistrationConfig(), parameters=["kernel_sigma", "num_basis"])

    class Plain:
        """A surrogate that trusts the scores."""

        def __init__(self, values):
            self.values = np.array(values)

        def order(self, points):
            return np.argsort(self.values, kind="stable").tolist()

        def mean(self, points):
            return self.values

    def trials(self, *values: float) -> list[Trial]:
        return [Trial(n, {"kernel_sigma": 1.0 + n, "num_basis": 2}, v, ()) for n, v in enumerate(values)]

    def test_the_lowest_expected_scores_come_first(self):
        trials = self.trials(3.0, 1.0, 2.0)
        found = candidates(self.SPACE, trials, self.Plain([3.0, 1.0, 2.0]), 2)
        assert [f.trial.number for f in found] == [1, 2] and [f.expected for f in found] == [1.0, 2.0]

    def test_equal_parameters_are_repeated_once(self):
        one = self.trials(3.0, 1.0)
        same = [*one, Trial(7, one[1].values, 0.5, ())]
        found = candidates(self.SPACE, same, self.Plain([3.0, 1.0, 0.5]), 5)
        assert [f.trial.number for f in found] == [7, 0]

    def test_repetitions_replace_the_expected_score(self):
        trial = self.trials(1.0)[0]
        assert (Finalist(trial, 0.5).mean, Finalist(trial, 0.5).deviation) == (0.5, 0.0)
        found = Finalist(trial, 0.5, scores=(1.0, 3.0))
        assert found.mean == 2.0 and found.deviation == pytest.approx(math.sqrt(2))
        assert Finalist(trial, 0.5, scores=(1.0,)).deviation == 0.0

    def test_one_failed_run_marks_the_trial(self):
        assert not Trial(0, {}, 1.0, (run("a", 1.0), run("b", 2.0))).failed
        assert Trial(0, {}, 1.0, (run("a", 1.0), run("b", None))).failed


class TestSamplers:
    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(InputError, match=f"sampler 'cmaes' is unknown; choose from {', '.join(SAMPLERS)}"):
            check_sampler("cmaes")

    @pytest.mark.parametrize("name", ["tpe", "random"])
    def test_the_number_of_trials_changes_the_random_numbers_and_the_seed_decides(self, name):
        pytest.importorskip("optuna")
        pytest.importorskip("sklearn")

        def drawn(seed: int, trials: int) -> int:
            found, sampler = make_sampler(name, seed, trials)
            assert found == name
            return (
                int(sampler._rng.rng.integers(2**30))
                if hasattr(sampler._rng.rng, "integers")
                else sampler._rng.rng.randint(2**30)
            )

        assert drawn(1, 0) == drawn(1, 0)
        assert len({drawn(1, 0), drawn(1, 1), drawn(2, 0)}) == 3
