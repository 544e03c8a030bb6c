# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The course of a search, with a pool that knows the answer."""

from __future__ import annotations

import dataclasses
import json
import re
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from monai_locor import InputError, RegistrationConfig
from monai_locor.tuning import api, search_space, tune
from monai_locor.tuning.report import write_report
from monai_locor.tuning.results import Finalist, Trial, Tuning
from monai_locor.tuning.runs import Job, Run
from monai_locor.tuning.samplers import make_sampler
from monai_locor.tuning.study import distributions

from .small import BASE, write_plane_case

optuna = pytest.importorskip("optuna")
pytest.importorskip("sklearn")


class Oracle:
    """A pool whose registrations are the better, the closer the window is to 2; the seed is noise."""

    log: list[Job] = []
    fails: set[int] = set()  # seeds
    stops_at: int | None = None

    def __init__(self, workers, *options) -> None:
        self.size = max(1, workers)

    def submit(self, job: Job) -> Future[Run]:
        if self.stops_at is not None and len(self.log) >= self.stops_at:
            raise KeyboardInterrupt
        self.log.append(job)
        future: Future[Run] = Future()
        error = 0.1 + abs(job.settings["kernel_sigma"] - 2) + 0.01 * (job.seed % 7)
        problem = "RuntimeError: no luck" if job.seed in self.fails else ""
        future.set_result(Run(job.name, job.seed, {} if problem else {"tre": error}, problem=problem))
        return future

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def oracle(monkeypatch) -> type[Oracle]:
    class Own(Oracle):
        log: list[Job] = []
        fails: set[int] = set()
        stops_at = None

    monkeypatch.setattr(api, "Pool", Own)
    monkeypatch.setattr(api, "write_report", lambda *_: None)
    monkeypatch.setattr("monai_locor.tuning.results.NUM_REFITS", 2)
    return Own


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for name in ("a", "b"):
        write_plane_case(folder / name)
    return folder


def go(cases: Path, output: Path, **options):
    options = {"base": BASE, "parameters": ["kernel_sigma", "num_basis"], "sampler": "random", "trials": 4, **options}
    return tune(cases, output, **{"finalists": 2, "repeats": 2, "progress": False, **options})


@pytest.mark.slow
def test_from_trials_to_a_preset(oracle, cases, tmp_path):
    found = go(cases, tmp_path, repeats=3)
    assert [t.number for t in found.trials] == list(range(4)) and [t.base for t in found.trials] == [True] + [False] * 3
    assert found.trials[0].values == found.space.of_base() == {"kernel_sigma": 0.8, "num_basis": 5}
    seeds = {(job.name, job.seed) for job in oracle.log}
    assert len(oracle.log) == len(seeds) + 2 * 3 == 4 * 2 + 2 * 2 * 3  # the finalists share the seeds of the repetitions
    assert {seed for _, seed in seeds} == {*range(4), *(10**6 + r for r in range(3))}
    nearest = min(found.trials, key=lambda t: abs(t.values["kernel_sigma"] - 2))
    assert found.best.trial == nearest and found.best.mean <= found.finalists[1].mean
    assert len(found.best.scores) == 3 and found.best.deviation > 0
    preset = json.loads(found.preset.read_text())
    assert preset["kernel_sigma"] == pytest.approx(nearest.values["kernel_sigma"], rel=1e-3)
    told = json.loads((tmp_path / "tuning.json").read_text())
    assert len(told["trials"]) == 4 and told["seed"] == 0 and len(told["set of cases"]["a"]) == 64


def test_the_report_agrees_with_the_result(oracle, cases, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(api, "write_report", write_report)
    found = go(cases, tmp_path, repeats=3)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Tuning of locor\n") and "4 trials, no run failed" in text
    for name in ("a", "b", "kernel_sigma", "num_basis"):
        assert f"| {name} |" in text, name
    rows = [line for line in text.splitlines() if line.startswith("| best (trial ")]
    assert len(rows) == 1 and rows[0].startswith(f"| best (trial {found.best.trial.number}, 3 repetitions) |")
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert {"history.png", "slices.png", "finalists.png"} <= pictures
    assert all(f"({name})" in text for name in pictures)  # each is shown
    assert [w for w in re.findall(r"\(([a-z]+\.png)\)", text) if w not in pictures] == []  # and none is missing


@pytest.mark.slow
def test_a_best_that_is_worse_than_the_start_is_reported_and_gives_no_preset(oracle, cases, tmp_path, caplog):
    go(cases, tmp_path, base={**BASE, "kernel_sigma": 1.0})
    assert (tmp_path / "preset.json").is_file()
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "preset.json").write_text("of an earlier call")
    found = go(cases, tmp_path / "worse", base={**BASE, "kernel_sigma": 2.0}, finalists=2)
    assert found.best.trial.base and found.start == found.best.mean and not found.improved and found.preset is None
    assert not (tmp_path / "worse" / "preset.json").exists() and "no preset is written" in caplog.text
    told = json.loads((tmp_path / "worse" / "tuning.json").read_text())
    assert told["to beat"] == found.start


@pytest.mark.parametrize(
    ("mean", "start", "nothing", "improved"), [(1, 2, 3, True), (2, 1, 3, False), (1, 1, 3, False), (2, 3, 1, False)]
)
def test_improvement(mean, start, nothing, improved):
    objective = SimpleNamespace(nothing=nothing)
    base, other = Trial(0, {}, start, (), base=True), Trial(1, {}, 0.5, ())
    finalists = (Finalist(other, 0.5, scores=(mean,)),)
    found = Tuning(Path("x"), None, objective, (base, other), 0, finalists, None)
    assert found.improved == improved and (found.preset == Path("x/preset.json")) == improved
    again = dataclasses.replace(found, finalists=(*finalists, Finalist(base, start, scores=(start + 2,))))
    assert again.start == min(start + 2, nothing)  # over its repetitions


@pytest.mark.slow
def test_a_search_continues(oracle, cases, tmp_path):
    first = go(cases, tmp_path, trials=3)
    done = len(oracle.log)
    second = go(cases, tmp_path, trials=5)
    assert second.trials[:3] == first.trials and len(second.trials) == 5
    assert len({t.values["kernel_sigma"] for t in second.trials}) == 5  # nothing is drawn twice
    repeated = len({f.trial.number for f in second.finalists} - {f.trial.number for f in first.finalists})
    assert len(oracle.log) - done == 2 * 2 + repeated * 2 * 2  # repetitions that are known are not made again
    done = len(oracle.log)
    assert go(cases, tmp_path, trials=5).best == second.best and len(oracle.log) == done


def test_an_interrupted_search_tries_the_same_after_continuing(oracle, cases, tmp_path):
    oracle.stops_at = 3  # in the second trial
    with pytest.raises(KeyboardInterrupt):
        go(cases, tmp_path, trials=2)
    lost = oracle.log[-1].settings
    oracle.stops_at = None
    found = go(cases, tmp_path, trials=2)
    assert len(found.trials) == 2 and oracle.log[3].settings == lost
    assert [t.number for t in found.trials] == [0, 2]


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter(oracle, cases, tmp_path):
    one, four = (go(cases, tmp_path / str(n), workers=n, trials=2, finalists=1, repeats=1) for n in (1, 4))
    assert one.trials == four.trials and one.best == four.best


@pytest.mark.parametrize("name", ["random", "gp", "tpe"])
def test_the_seed_decides(name):
    space = distributions(search_space(RegistrationConfig()))

    def first(seed: int, trials: int = 0) -> dict[str, float]:
        return optuna.create_study(sampler=make_sampler(name, seed, trials)[1]).ask(space).params

    assert first(3) == first(3) != first(4) and first(3) != first(3, trials=5)  # a continued search draws other numbers


def test_a_failed_run_counts_as_no_displacement(oracle, cases, tmp_path):
    oracle.fails = {1}
    found = go(cases, tmp_path, trials=2, finalists=1, repeats=1)
    assert [t.failed for t in found.trials] == [False, True]
    assert found.trials[1].value == found.objective.nothing == pytest.approx(5**0.5)


@pytest.mark.slow
def test_a_search_without_any_result_fails_at_once(oracle, cases, tmp_path):
    oracle.fails = set(range(100))
    with pytest.raises(InputError, match="all registrations of the first trial failed; first error: RuntimeError: no luck"):
        go(cases, tmp_path)
    assert len(oracle.log) == 2
    oracle.fails = set()
    assert go(cases, tmp_path).trials[0].base  # and the study is as good as new


@pytest.fixture(scope="module")
def study(cases, tmp_path_factory) -> Path:
    """A study of one trial, because more would take too long."""
    output = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "Pool", Oracle)
        patch.setattr(api, "write_report", lambda *_: None)
        assert len(go(cases, output, minutes=1e-9, finalists=1, repeats=1).trials) == 1
    return output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ["kernel_sigma"]}, r"another search space \(num_basis\)"),
        ({"base": {**BASE, "bending_weight": 2}}, r"another base settings \(bending_weight\)"),
        ({"seed": 1}, r"another seed \(0 instead of 1\)"),
        ({"trials": 0}, "trials must be a whole number, 1 or more, got 0"),
        ({"sampler": "gut feeling"}, "sampler 'gut feeling' is unknown; choose from auto, hebo, gp, tpe"),
        ({"base": {"similarity": "ssd"}}, "similarity must be one of locor, "),
        ({"parameters": ["sigma"]}, "unknown parameters: sigma; locor has"),
        ({"score": "dice"}, "not available for a, b"),
    ],
)
def test_invalid_arguments_are_refused(oracle, cases, study, options, message):
    before = (study / "study.db").read_bytes()
    with pytest.raises(InputError, match=message):
        go(cases, study, **options)
    assert (study / "study.db").read_bytes() == before and not oracle.log


def test_other_cases_are_refused(oracle, cases, study):
    with pytest.raises(InputError, match=r"another set of cases \(b\)"):
        go([cases / "a"], study)
    with pytest.raises(InputError, match="folders of different names"):
        go([cases / "a", cases / "a"], study)


def test_without_hebo(monkeypatch):
    from monai_locor.tuning import samplers

    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    assert [samplers.make_sampler(name, 0)[0] for name in ("auto", "gp", "tpe", "random")] == ["gp", "gp", "tpe", "random"]
    with pytest.raises(InputError, match=r"optunahub and hebo are not installed.*pip install optunahub hebo"):
        samplers.make_sampler("hebo", 0)


def test_without_optuna(monkeypatch, cases, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'monai-locor\[tune\]'"):
        go(cases, tmp_path)
