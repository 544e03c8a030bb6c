# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A cohort on worker processes that are killed at random."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from monai_locor import InputError, RegistrationConfig, register
from monai_locor.cohort import CohortPair, run_cohort
from monai_locor.cohort import api as api_module
from monai_locor.cohort.folder import CohortFolder
from monai_locor.registration import Stage

from .small import anatomy, save_image

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills processes by signals")]

NUMBER = 16
KILLS = 2  # each costs the start of a process that imports torch and MONAI
TINY = RegistrationConfig(stages=(Stage(2, 2), Stage(2, 2, spacing=8, learning_rate=0.16)), multistart="never")
OPTIONS = {"preset": TINY, "outputs": ["affine"], "device": "cpu", "workers": 2, "threads": 1, "progress": False}


def tiny_pairs(folder: Path, number: int) -> list[CohortPair]:
    """Pairs of 24^3 voxels."""
    pairs = []
    for n in range(number):
        files = [str(save_image(folder / f"{n}_{role}.nii", v)) for role, v in zip(("f", "m"), anatomy(n), strict=True)]
        pairs.append(CohortPair(f"p{n:02d}", *files))
    return pairs


def descendants(name: str) -> list:
    """Processes below this one whose command line contains a text."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it has ended
    return found


class Killer(threading.Thread):
    """Kills a process of a worker, or the worker itself, each time some more pairs are finished."""

    def __init__(self, done: Path) -> None:
        super().__init__(daemon=True)
        self.done, self.killed, self.end = done, [], threading.Event()
        self.random = random.Random(1)

    def run(self) -> None:
        due = [NUMBER * (k + 1) // (KILLS + 2) for k in range(KILLS)]
        while due and not self.end.wait(0.02):
            if self.done.exists() and len(os.listdir(self.done)) >= due[0]:
                kind = ("spawn_main", "monai_locor.cohort.child")[len(due) % 2]  # the Dask worker, the process that registers
                victims = descendants(kind)
                if victims:
                    time.sleep(self.random.uniform(0, 0.3))  # anywhere in a registration
                    self.random.choice(victims).send_signal(signal.SIGKILL)
                    self.killed.append(kind)
                    due.pop(0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A cohort of 16 pairs during which processes were killed: its pairs, its result, the outcomes, the kills."""
    folder = tmp_path_factory.mktemp("cohort")
    pairs, outcomes, killer = tiny_pairs(folder, NUMBER), [], Killer(folder / "out" / "pairs")
    noted = api_module._Run.note

    def note(self, job, outcome):
        outcomes.append((job.pair.id, outcome))
        noted(self, job, outcome)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_module._Run, "note", note)
        killer.start()
        found = run_cohort(pairs, folder / "out", **OPTIONS)
        killer.end.set()
        killer.join()
    return pairs, found, outcomes, killer.killed


def test_all_are_done_none_twice_none_lost(cohort):
    pairs, found, outcomes, killed = cohort
    names = [pair.id for pair in pairs]
    assert len(killed) == KILLS
    assert sorted(name for name, _ in outcomes) == names and not any(outcome.error for _, outcome in outcomes)
    assert sorted(os.listdir(found.folder / "pairs")) == names and not (found.folder / "failed").exists()
    assert not CohortFolder(found.folder).work.exists()
    with (found.folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == names and {row["state"] for row in rows} == {"done"}
    for name in names:
        assert (found.folder / "pairs" / name / "run.json").exists()


def test_results_are_those_of_register(cohort):
    pairs, found, *_ = cohort
    pair, folder = pairs[7], found.folder / "pairs" / "p07"
    alone = register(pair.fixed, pair.moving, preset=TINY, device="cpu", progress=False)
    written = json.loads((folder / "run.json").read_text())
    assert written["verdict"] == json.loads(json.dumps(alone.verdict.to_dict()))
    assert written["arguments"] == json.loads(json.dumps(alone.summary()["arguments"]))
    np.testing.assert_array_equal(written["affine"], alone.affine)


def test_finished_pairs_are_skipped(cohort):
    pairs, found, *_ = cohort
    before = {path: path.stat().st_mtime_ns for path in (found.folder / "pairs").rglob("*")}
    again = run_cohort(pairs, found.folder, **OPTIONS)
    assert again.skipped == NUMBER and again.rows == found.rows
    assert {path: path.stat().st_mtime_ns for path in (found.folder / "pairs").rglob("*")} == before


def test_landmarks_and_labels_drive_a_pair(tmp_path):
    (pair,), points = tiny_pairs(tmp_path, 1), tmp_path / "points.csv"
    points.write_text("x,y,z\n30,30,30\n36,39,30\n")
    maps = [np.zeros((24, 24, 24), np.int16) for _ in range(2)]
    maps[0][8:14, 8:14, 8:14], maps[1][9:15, 8:14, 8:14] = 3, 3
    labels = [str(save_image(tmp_path / f"{n}_labels.nii", each)) for n, each in enumerate(maps)]
    given = {"fixed_landmarks": points, "moving_landmarks": points}
    pair = CohortPair.of(
        {**pair.files, "id": "p", **given, "fixed_driving_labels": labels[0], "moving_driving_labels": labels[1]}
    )
    found = run_cohort([pair], tmp_path / "out", **OPTIONS)
    (row,), options = found.rows, {"preset": TINY, "device": "cpu", "progress": False}
    alone = register(pair.fixed, pair.moving, landmarks=(points, points), labels=labels, **options)
    for when in ("before", "after"):
        assert row[f"landmarks_{when}_mm"] == pytest.approx(alone.landmarks_mm[when]["mean"], rel=1e-3)
        assert row[f"driving_dice_{when}"] == pytest.approx(alone.label_dice[when]["mean"], rel=1e-3)
    assert row["driving_dice_after"] > 0.8 and row["dice_after"] == ""
    Path(labels[0]).touch()
    assert run_cohort([pair], tmp_path / "out", **OPTIONS).skipped == 1  # the content is the same
    save_image(Path(labels[0]), maps[1])
    with pytest.raises(InputError, match=r"pair p is finished with other inputs .*0_labels.nii has changed"):
        run_cohort([pair], tmp_path / "out", **OPTIONS)


def test_ctrl_c_ends_all_processes_and_the_same_command_continues(tmp_path):
    lines = [f"{pair.id},{pair.fixed},{pair.moving}" for pair in tiny_pairs(tmp_path, 12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["id,fixed,moving", *lines]))
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_dict()))
    words = [sys.executable, "-m", "monai_locor", "cohort", "pairs.csv", "-o", "out", "--config", "tiny.json"]
    words += ["--outputs", "affine", "--device", "cpu", "--threads", "1", "--workers", "1"]
    root = Path(api_module.__file__).parents[2]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("out/pairs/*")):
        assert process.poll() is None
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "run the same command again to continue in out" in out
    assert psutil.wait_procs(below, timeout=30)[1] == []
    done = sorted(path.name for path in tmp_path.glob("out/pairs/*"))
    assert 0 < len(done) < 12 and not CohortFolder(tmp_path / "out").work.exists() and not (tmp_path / "out/failed").exists()
    with (tmp_path / "out/summary.csv").open(newline="") as file:
        assert sorted(row["id"] for row in csv.DictReader(file) if row["state"] == "done") == done
