# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The command that registers many pairs."""

from __future__ import annotations

import json

import pytest

from monai_locor import RegistrationConfig
from monai_locor.cohort import Cohort

from ..bids.small import write_dataset, write_result

pytest.importorskip("distributed")

ROW = {"id": "a", "state": "done", "verdict": "PASS", "error": ""}


@pytest.fixture
def asked(monkeypatch):
    """The arguments of the cohort, instead of registrations, and its rows."""
    found: dict = {"rows": [ROW]}

    def run_cohort(pairs, output, **options):
        found.update(options, pairs=pairs, output=output)
        if not found["rows"]:
            raise KeyboardInterrupt
        return Cohort(output, found["rows"], 1)

    monkeypatch.setattr("monai_locor.cohort.run_cohort", run_cohort)
    return found


@pytest.fixture
def pairs(folder):
    path = folder / "pairs.csv"
    path.write_text("id,fixed,moving\na,fixed.nii.gz,moving.nii.gz\n")
    return path


def test_options_reach_the_cohort(run, asked, pairs, tmp_path):
    (tmp_path / "limits.json").write_text('{"overlap": [0.4, 0.1]}')
    words = ["--preset", "fast", "--set", "bending_weight=31", "--outputs", "affine, forward", "--device", "cpu", "--seed", 4]
    words += ["--workers", 3, "--timeout", 60, "--threads", 1, "--force", "--thresholds", tmp_path / "limits.json"]
    answer = run("cohort", pairs, "-o", tmp_path / "out", *words)
    assert answer.code == 0 and answer.out.startswith("1 pairs: 1 PASS; 1 were finished before\n")
    assert RegistrationConfig.of(asked.pop("preset")).bending_weight == 31
    assert [pair.id for pair in asked.pop("pairs")] == ["a"]
    assert asked == {
        "output": tmp_path / "out",
        "outputs": ["affine", "forward"],
        "device": "cpu",
        "seed": 4,
        "workers": 3,
        "timeout": 60.0,
        "threads": 1,
        "force": True,
        "thresholds": {"overlap": [0.4, 0.1]},
        "scheduler": None,
        "progress": False,
        "rows": [ROW],
    }


def test_exit_codes(run, asked, pairs, tmp_path):
    words = ("cohort", pairs, "-o", tmp_path / "out")
    for row, name in (
        ({**ROW, "verdict": "FAIL"}, "FAIL"),
        ({**ROW, "state": "failed", "verdict": "", "error": "no"}, "failed"),
    ):
        asked["rows"] = [ROW, row]
        assert run(*words).code == 1
        assert run(*words, "--json").json["counts"] == {"PASS": 1, name: 1}
    assert "  failed a: no\n" in run(*words).out
    asked["rows"] = []
    answer = run(*words)
    assert answer.code == 130 and "run the same command again to continue" in answer.out


def test_the_script_for_slurm(run, refused, pairs, tmp_path):
    script = tmp_path / "run cohort.py"
    words = ("cohort", pairs, "-o", tmp_path / "out", "--preset", "fast", "--workers", 64, "--timeout", 900, "--slurm-script")
    assert "edit the settings of the jobs" in run(*words, script).out
    assert not (tmp_path / "out").exists()
    text = script.read_text()
    compile(text, "script", "exec")
    assert "JOBS = 64 " in text and repr(str(pairs)) in text and "'timeout': 900.0" in text
    assert "already exists" in refused(*words, script)
    pairs.write_text("id,fixed,moving\na,fixed.nii.gz,none.nii.gz\n")
    assert "none.nii.gz: no such file" in refused(*words, tmp_path / "other.py")
    assert not (tmp_path / "other.py").exists()


@pytest.mark.slow
def test_the_script_asks_slurm_for_what_it_says(run, pairs, tmp_path):
    jobqueue = pytest.importorskip("dask_jobqueue")
    assert run("cohort", pairs, "-o", tmp_path / "out", "--slurm-script", tmp_path / "script.py").code == 0
    text = (tmp_path / "script.py").read_text().replace("PARTITION = None", 'PARTITION = "gpu"')
    names: dict = {"__name__": "script"}
    exec(compile(text, "script", "exec"), names)
    with names["slurm_cluster"](scheduler_options={"dashboard_address": None}) as cluster:
        assert isinstance(cluster, jobqueue.SLURMCluster)
        lines = cluster.job_script()
    for line in ("#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH --gres=gpu:1", "#SBATCH -t 08:00:00", "--nthreads 1"):
        assert line in lines
    json.dumps(names["OPTIONS"])  # plain values


@pytest.fixture
def dataset(tmp_path):
    """A BIDS dataset with one session that has both contrasts."""
    write_dataset(tmp_path / "raw", *(f"sub-01/anat/sub-01_{name}.nii.gz" for name in ("T1w", "T2w")))
    return tmp_path / "raw"


def test_derivatives(run, asked, dataset, tmp_path):
    """Those of the finished pairs are written."""
    asked["rows"] = [{**ROW, "id": "sub-01"}, {**ROW, "id": "sub-02", "state": "failed", "verdict": ""}]
    fixed, moving = (dataset / f"sub-01/anat/sub-01_{name}.nii.gz" for name in ("T2w", "T1w"))
    write_result(tmp_path / "out/pairs/sub-01", fixed, moving)
    place = dataset / "derivatives/x"
    words = ["cohort", dataset, "-o", tmp_path / "out", "--fixed", "T2w", "--moving", "T1w", "--derivatives", place]
    answer = run(*words, "--xfm", "nii.gz")
    assert answer.code == 1 and f"BIDS derivatives in {place}: 3 files written\n" in answer.out
    assert (place / "sub-01/anat/sub-01_from-T1w_to-T2w_mode-image_xfm.nii.gz").is_file()
    assert "0 files written; 3 were there before" in run(*words, "--xfm", "nii.gz").out


def test_derivatives_are_checked_before_the_registrations(refused, asked, pairs, dataset, tmp_path):
    words = ("cohort", pairs, "-o", tmp_path / "out", "--derivatives")
    assert "fixed.nii.gz: has no name of BIDS" in refused(*words, tmp_path / "d")
    lines = [f"{name},raw/sub-01/anat/sub-01_T2w.nii.gz,raw/sub-01/anat/sub-01_T1w.nii.gz" for name in "ab"]
    (tmp_path / "bids.csv").write_text("\n".join(["id,fixed,moving", *lines]))
    words = ("cohort", tmp_path / "bids.csv", "-o", tmp_path / "out", "--derivatives")
    assert "pair b and pair a would both have sub-01/anat/" in refused(*words, tmp_path / "d")
    assert "holds another dataset (Phantoms)" in refused(*words, dataset)
    assert "does not go into the script" in refused(*words, tmp_path / "d", "--slurm-script", tmp_path / "run.py")
    assert "pairs" not in asked and not (tmp_path / "d").exists()
