# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cohorts on a Dask cluster in this process, with a stand-in for the process that registers."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from monai_locor import InputError, RegistrationConfig
from monai_locor.child_process import ChildProcess
from monai_locor.cohort import CohortPair, run_cohort
from monai_locor.cohort import api as api_module
from monai_locor.cohort import work as work_module
from monai_locor.cohort.folder import CohortFolder
from monai_locor.cohort.summary import COLUMNS

from .small import STAND_IN, asked, failure, pairs_of, save_image

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


@pytest.fixture
def run(client, tmp_path, monkeypatch):
    """Run a cohort with the stand-in; its questions are in ``tmp_path/asked.txt``."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children: list[ChildProcess] = []

    def child(owner: str) -> ChildProcess:
        children.append(ChildProcess("stand_in"))
        return children[-1]

    @contextmanager
    def connected(scheduler, workers):
        yield client

    monkeypatch.setattr(work_module, "_child", child)
    monkeypatch.setattr(api_module, "connected", connected)

    def call(pairs, **options):
        return run_cohort(pairs, tmp_path / "out", progress=False, **{"outputs": ["affine"], "threads": 1, **options})

    yield call
    for each in children:
        each.close()


@pytest.mark.slow
def test_good_and_bad_pairs(run, tmp_path):
    names = ["good1", "good2", "bad3", "crash4", "hang5", "good6"]
    pairs, out = pairs_of(tmp_path, names), tmp_path / "out"
    found = run(pairs, timeout=1.5, device="cpu")
    assert [row["state"] for row in found.rows] == ["done", "done", "failed", "failed", "failed", "done"]
    assert found.counts == {"PASS": 3, "failed": 3} and found.skipped == 0 and found.folder == out
    assert Counter(words[0] for words in asked(tmp_path)) == {name: 1 if "good" in name else 2 for name in names}
    assert failure(out, "bad3")["error"] == "fixed image: is constant" and failure(out, "bad3")["log"] == "warning: odd"
    assert "exit code 1: out of luck" in failure(out, "crash4")["error"]
    assert "took more than 1.5 s" in failure(out, "hang5")["error"]
    assert failure(out, "bad3")["command"][:3] == ["register", pairs[2].fixed, pairs[2].moving]
    assert sorted(path.name for path in out.iterdir()) == [
        *(".lock", "failed", "pairs", "settings.json", "summary.csv", "summary.html")
    ]
    assert sorted(path.name for path in (out / "pairs").iterdir()) == ["good1", "good2", "good6"]
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == names and list(rows[0]) == list(COLUMNS)
    assert rows[0]["max_displacement_mm"] == "4.123" and rows[0]["verdict"] == "PASS" and rows[2]["verdict"] == ""

    again = run(pairs[:4], device="cpu")  # finished ones are skipped, failed ones tried again
    assert again.skipped == 2 and [row["verdict"] for row in again.rows] == ["PASS", "PASS", "", ""]
    assert Counter(words[0] for words in asked(tmp_path))["good1"] == 1
    assert Counter(words[0] for words in asked(tmp_path))["crash4"] == 4


def test_options_reach_the_command(run, tmp_path):
    (pair,) = pairs_of(tmp_path, ["good"])
    mask = str(save_image(tmp_path / "mask.nii"))
    pair = CohortPair(pair.id, pair.fixed, pair.moving, moving_mask=mask, fixed_labels=mask)
    points = str(tmp_path / "points.csv")
    (tmp_path / "points.csv").write_text("x,y,z\n1,1,1\n")
    pair = dataclasses.replace(pair, fixed_landmarks=points, moving_landmarks=points)
    pair = dataclasses.replace(pair, fixed_driving_labels=mask, moving_driving_labels=mask)
    run([pair], seed=7, threads=3, device="cuda:1", thresholds={"overlap": [0.4, 0.1]}, preset="fast")
    ((_, *words),) = asked(tmp_path)
    out = tmp_path / "out"
    assert words == [
        *("--config", f"{out}/settings.json", "--moving-mask", mask, "--fixed-labels", mask),
        *("--landmarks", points, points, "--labels", mask, mask, "--seed", "7"),
        *("--outputs", "affine,thumbnail", "--thresholds", f"{out}/thresholds.json", "--threads", "3", "--device", "cuda:1"),
    ]
    assert json.loads((out / "thresholds.json").read_text())["overlap"] == [0.4, 0.1]
    assert RegistrationConfig.of(out / "settings.json") == RegistrationConfig.of("fast")


def test_changed_settings_and_inputs_are_refused_or_run_again(run, tmp_path):
    pairs = pairs_of(tmp_path, ["good1", "good2", "good3"])
    run(pairs[:2])
    with pytest.raises(InputError, match=r"pair good1 is finished with other .*\(bending_weight .* then, 31 now\).*--force"):
        run(pairs, preset={"bending_weight": 31})
    with pytest.raises(InputError, match="seed 0 then, 1 now"):
        run(pairs, seed=1)
    with pytest.raises(InputError, match="other inputs"):
        run([CohortPair("good1", pairs[0].fixed, pairs[0].moving, fixed_mask=pairs[0].fixed)])
    assert len(asked(tmp_path)) == 2
    save_image(tmp_path / "good2.nii", np.ones((5, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"pair good2 .*good2.nii has changed"):
        run(pairs)
    assert run(pairs, force=True).skipped == 1  # good1; good2 has changed, good3 is new
    assert [words[0] for words in asked(tmp_path)][2:] in (["good2", "good3"], ["good3", "good2"])
    assert run(pairs).skipped == 3


def test_a_pair_is_finished_only_if_it_is_complete(run, tmp_path):
    pairs, folder = pairs_of(tmp_path, ["good1", "good2"]), CohortFolder(tmp_path / "out")
    run(pairs)
    (folder.pair("good1") / "run.json").unlink()
    (folder.pair("good2") / "pair.json").write_text("{")
    assert run(pairs).skipped == 0 and run(pairs).skipped == 2


def test_a_finished_pair_is_not_registered_again_by_another_worker(run, tmp_path):
    (pair,) = pairs_of(tmp_path, ["good"])
    run([pair])
    root = str(tmp_path / "out")
    request = CohortFolder(tmp_path / "out").record("good")["request"]
    outcome = work_module.register_pair(work_module.Job(pair, root, request))
    assert outcome.record["id"] == "good" and len(asked(tmp_path)) == 1


def test_two_runs_do_not_share_a_folder(run, tmp_path):
    folder = CohortFolder(tmp_path / "out")
    with folder.locked(), pytest.raises(InputError, match="another run is working in it"):
        run(pairs_of(tmp_path, ["good"]))


def test_only_the_work_of_killed_runs_is_deleted(run, tmp_path):
    folder, own = CohortFolder(tmp_path / "out"), ("work/notes.txt", "tmp/notes.txt", "scratch", ".lock")
    for name in own:
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).write_text("of the user")
    folder.scratch("good").mkdir(parents=True)
    (folder.scratch("good").parent / "rest").write_text("of a killed run")
    assert run(pairs_of(tmp_path, ["good"])).counts == {"PASS": 1}
    assert not folder.work.exists()
    assert {name: (folder.root / name).read_text() for name in own} == dict.fromkeys(own, "of the user")


@pytest.mark.parametrize(
    "files",
    [
        {"good2/fixed.nii": "an image"},
        {"good2/pair.json": "{}"},
        {"good2/pair.json": '{"format": "monai_locor run 1"}', "good2/run.json": "{}"},
        {"good2/run.json": "{}"},
        {"good2/pair.json": ""},
        {"good2/series/1.dcm": "an image"},
        {"good2": "a file"},
    ],
    ids=" ".join,
)
def test_a_folder_that_no_cohort_wrote_is_not_replaced(run, tmp_path, files):
    for name, text in files.items():
        (tmp_path / "out" / "pairs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "pairs" / name).write_text(text)
    for force in (False, True):
        with pytest.raises(
            InputError, match=r"pairs.good2 is not that of a pair \(no pair.json of a cohort\); name another output folder"
        ):
            run(pairs_of(tmp_path, ["good1", "good2"]), force=force)
    assert asked(tmp_path) == []
    assert {name: (tmp_path / "out" / "pairs" / name).read_text() for name in files} == files


@pytest.mark.parametrize("name", ["settings.json", "summary.csv", "summary.html", "failed/good.json"])
def test_a_file_of_the_user_is_refused_each_time(run, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("of the user")
    for force in (False, True, True):
        with pytest.raises(InputError, match=r"is not that of a cohort; name another output folder"):
            run(pairs_of(tmp_path, ["good"]), force=force)
    assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == [path] and path.read_text() == "of the user"
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"pair.json": '{"format": "monai_locor cohort pair 0"}', "warped.nii.gz": ""},
        {"pair.json": "", "run.json": "", "warped.nii.gz": ""},
    ],
    ids=["empty", "of another version", "cut off by a power failure"],
)
def test_what_an_earlier_run_left_is_replaced(run, tmp_path, files):
    place = CohortFolder(tmp_path / "out").pair("good")
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    assert run(pairs_of(tmp_path, ["good"])).counts == {"PASS": 1} and not (place / "warped.nii.gz").exists()


def test_an_interrupt_leaves_a_consistent_folder(run, tmp_path, monkeypatch):
    pairs, ended = pairs_of(tmp_path, ["good1", "good2", "good3"]), []

    def note(self, job, outcome):
        if ended:
            raise KeyboardInterrupt
        ended.append(job.pair.id)
        noted(self, job, outcome)

    noted = api_module._Run.note
    monkeypatch.setattr(api_module._Run, "note", note)
    with pytest.raises(KeyboardInterrupt):
        run(pairs)
    monkeypatch.undo()
    with (tmp_path / "out/summary.csv").open(newline="") as file:
        states = {row["id"]: row["state"] for row in csv.DictReader(file)}
    reported = {name for name, state in states.items() if state == "done"}
    done = {path.name for path in (tmp_path / "out/pairs").iterdir()}  # also pairs that ended after the summary was written
    assert ended[0] in reported <= done and set(states.values()) <= {"done", "waiting"}
    assert not CohortFolder(tmp_path / "out").work.exists()


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_numbers_of_workers_that_cannot_be(run, tmp_path, workers):
    with pytest.raises(InputError, match=f"workers must be a whole number, 1 or more, got {workers!r}"):
        run(pairs_of(tmp_path, ["good"]), workers=workers)
    assert not (tmp_path / "out").exists() and asked(tmp_path) == []


def test_nothing_runs_if_a_file_is_missing(run, tmp_path):
    pairs = [*pairs_of(tmp_path, ["good1"]), CohortPair("x", "none.nii", "none.nii")]
    with pytest.raises(InputError, match=r"pair x: fixed image none\.nii: no such file"):
        run(pairs)
    with pytest.raises(InputError, match="workers 2: the cluster at tcp://x has its own"):
        run(pairs[:1], scheduler="tcp://x", workers=2)
    assert not (tmp_path / "out").exists() and asked(tmp_path) == []
