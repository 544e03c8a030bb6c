# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A whole search of real registrations."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_locor import InputError, RegistrationConfig, register
from monai_locor.tuning import pool as pool_module
from monai_locor.tuning import search_space, tune
from monai_locor.tuning.pool import Pool
from monai_locor.tuning.runs import Job, execute
from monai_locor.tuning.samplers import make_sampler
from monai_locor.tuning.study import distributions

from ..test_child_process import ended
from .small import BASE, write_plane_case

pytest.importorskip("optuna")
pytest.importorskip("sklearn")


def job(case, **settings) -> Job:
    return Job(str(case), {**BASE, **settings}, 0)


def test_a_run_measures_or_names_the_problem(tmp_path):
    case = write_plane_case(tmp_path / "a", labels=True)
    run = execute(job(case))
    assert run.case == "a" and not run.problem and run.measures["tre"] < 5**0.5 and 0 < run.measures["dice"] <= 1
    assert run.seconds > 0 and run.folding_percent is not None
    assert execute(job(case)).measures == run.measures
    (case / "moving.nii.gz").write_bytes(b"")
    broken = execute(job(case))
    assert broken.problem.startswith("InputError: moving image") and not broken.measures


def test_masks_are_given_to_the_registration(tmp_path):
    case = write_plane_case(tmp_path / "a")
    (case / "fixed_mask.nii.gz").write_bytes(b"")
    assert execute(job(case)).problem.startswith("InputError: fixed mask")


#: runs a job that does not end
SEARCH = """
import json, sys
from monai_locor.tuning.pool import Pool
from monai_locor.tuning.runs import Job
pool = Pool(workers=1, threads=1, devices=["cpu"])
process = pool._workers[0].child._started()
print(process.pid, flush=True)
pool.submit(Job(**json.loads(sys.argv[1])))
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_worker_ends_with_a_search_that_is_killed(tmp_path):
    case, root = write_plane_case(tmp_path / "a"), Path(pool_module.__file__).parents[2]
    endless = json.dumps(dataclasses.asdict(job(case, stages=[{"factor": 1, "iterations": 10**9}])))
    search = subprocess.Popen(
        [sys.executable, "-c", SEARCH, endless],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert search.stdout is not None
    worker = int(search.stdout.readline())
    time.sleep(2)  # it registers
    search.kill()
    search.communicate()
    ended(worker)


@pytest.mark.slow
def test_processes_that_crash_or_take_too_long_do_not_end_the_search(tmp_path):
    case = write_plane_case(tmp_path / "a")
    endless = {"stages": [{"factor": 1, "iterations": 10**9}]}
    with Pool(workers=1, devices=["cpu"]) as pool:
        good = pool.submit(job(case)).result()
        pool._workers[0].limit = 2
        late = pool.submit(job(case, **endless)).result()
        pool._workers[0].limit = None  # a new process starts first, which takes its time
        again = pool.submit(job(case)).result()
        assert good.problem == "" and late.problem == "took more than 2 s"
        assert again.measures == good.measures == execute(job(case)).measures
        process = pool._workers[0].child.process
        process.kill()
        process.wait()
        assert pool.submit(job(case)).result().problem == ""  # another one takes its place
        running = pool.submit(job(case, **endless))
        before = pool._workers[0].child.process
        while not running.running():
            time.sleep(0.01)
        time.sleep(1)
        before.kill()
        assert "its process ended with exit code -9 (out of memory?)" in running.result().problem


@pytest.mark.slow
def test_a_search_of_three_trials_is_continued_and_its_preset_registers(tmp_path):
    pytest.importorskip("matplotlib")
    for name, shift in (("a", (2.0, -1.0)), ("b", (1.0, 2.0))):
        write_plane_case(tmp_path / "cases" / name, labels=True, shift=shift)
    options = {"base": BASE, "finalists": 2, "repeats": 2, "progress": False}
    first = tune(tmp_path / "cases", tmp_path / "out", trials=3, workers=1, **options)
    assert len(first.trials) == 3 and first.best.mean < first.objective.nothing
    found = tune(tmp_path / "cases", tmp_path / "out", trials=4, workers=0, **options)
    assert found.trials[:3] == first.trials and len(found.trials) == 4
    result = register(
        *(tmp_path / "cases" / "a" / f"{role}.nii.gz" for role in ("fixed", "moving")),
        preset=found.preset or found.config,
        progress=False,
    )
    assert result.config == found.config
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for picture in ("history", "slices", "finalists"):
        assert f"![{picture}]({picture}.png)" in report and (tmp_path / "out" / f"{picture}.png").stat().st_size > 5000
    for heading in ("Best parameters", "Finalists", "Results by case", "Search", "Reproducing this search"):
        assert f"## {heading}\n" in report
    for name, value in found.best.trial.values.items():
        assert f"**{found.space.parameters[name].rounded(value):g}**" in report
    told = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert told["found"]["trial"] == found.best.trial.number and told["versions"]["optuna"]
    with pytest.raises(InputError, match="another search space"):
        tune(tmp_path / "cases", tmp_path / "out", trials=4, ranges={"kernel_sigma": (1, 2)}, **options)


@pytest.mark.slow
def test_the_gaussian_process_finds_a_valley():
    """In three dimensions and 25 trials, ten of them random."""
    optuna = pytest.importorskip("optuna")
    space = search_space(RegistrationConfig(), parameters=["bending_weight", "kernel_sigma", "learning_rate_basis"])

    def best(name: str, seed: int) -> float:
        study = optuna.create_study(sampler=make_sampler(name, seed)[1])
        for _ in range(25):
            trial = study.ask(distributions(space))
            study.tell(trial, sum((x - 0.7) ** 2 for x in space.unit(trial.params)))
        return float(study.best_value)

    assert sum(best("gp", seed) for seed in range(2)) < 0.3 * sum(best("random", seed) for seed in range(2))
