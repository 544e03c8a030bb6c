# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Cohorts on an existing Dask cluster, whose workers go on when a run has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_locor.child_process import ChildError
from monai_locor.cohort import api as api_module
from monai_locor.cohort import run_cohort
from monai_locor.cohort.children import Children

from .small import STAND_IN, asked, pairs_of

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

SLOW_SECONDS = 2
#: a cluster with one worker, whose children are stand-ins
CLUSTER = """
import sys
from distributed import LocalCluster
from monai_locor.child_process import ChildProcess
from monai_locor.cohort import children
children.ChildProcess = lambda module: ChildProcess("stand_in")
options = {"processes": False, "protocol": "tcp", "dashboard_address": None}
with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cluster(tmp_path):
    """The process of a cluster and its address."""
    root = str(Path(api_module.__file__).parents[2])
    (tmp_path / "stand_in.py").write_text(STAND_IN.replace("time.sleep(60)", f"time.sleep({SLOW_SECONDS})"))
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield psutil.Process(process.pid), process.stdout.readline().strip()
    process.communicate(timeout=60)


def run(folder, pairs, address):
    return run_cohort(pairs, folder / "out", outputs=["affine"], scheduler=address, progress=False)


@pytest.mark.slow
def test_no_child_outlives_a_run(cluster, tmp_path):
    process, address = cluster
    pairs = pairs_of(tmp_path, ["good1", "good2", "good3"])
    for number in (2, 3):  # the workers serve several runs
        assert run(tmp_path, pairs[:number], address).counts == {"PASS": number}
        assert process.children() == []
    assert len(asked(tmp_path)) == 3


@pytest.mark.slow
def test_nothing_is_placed_after_an_interrupt(cluster, tmp_path, monkeypatch):
    process, address = cluster
    pairs = pairs_of(tmp_path, ["good1", "hang2", "hang3"])

    def note(self, job, outcome):
        while len(asked(tmp_path)) < 2:  # until the next pair runs
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(api_module._Run, "note", note)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, pairs, address)
    assert process.children() == []
    time.sleep(SLOW_SECONDS + 1)
    assert [path.name for path in (tmp_path / "out/pairs").iterdir()] == ["good1"] and len(asked(tmp_path)) == 2
    monkeypatch.undo()
    assert run(tmp_path, pairs[:2], address).skipped == 1


def test_a_run_that_has_ended_gets_no_child():
    children = Children()
    first = children.of("a")
    assert children.of("b") is first  # a thread has one
    children.end("a")
    assert not first.closed
    children.end("b")
    assert first.closed and children.of("c") is not first
    for use in (children.of, lambda owner: children.running(owner).__enter__()):
        with pytest.raises(ChildError, match="its run has ended"):
            use("a")
