# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The arena at work: what it runs, stores and draws, interruptions, and stained sections as 2-D cases."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .cases import FIXED, SHIFT, save_field, scripts, write_blob_case
from .test_arena import settings_of

pytest.importorskip("scipy")
pytest.importorskip("PIL")
METHODS = [("monai_locor", "default"), ("greedy", ""), ("elastix", "")]


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield scripts(monkeypatch, "arena", "registration", "_arena_records", "_histology", "_score", "_peer")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    for name in "ab":
        write_blob_case(tmp_path / "cases" / name)
    return tmp_path / "cases"


def settings() -> dict[str, Any]:
    methods = [{"tool": tool, "preset": preset, "seeds": [0], "arguments": {}} for tool, preset in METHODS]
    return settings_of(methods=methods, kinds={"heads": {"measure": "tre_mm", "about": "", "cases": ["a", "b"]}})


def arena_of(
    modules: SimpleNamespace, path: Path, monkeypatch: pytest.MonkeyPatch, source: str = "s1", retry: bool = False
) -> Any:
    """The arena with a machine that needs no version of anything."""
    machine = {"date": "2030-01-02", "processor": "Some CPU", "source": source, "commit": "abc1234"}
    monkeypatch.setattr(modules.arena, "about", lambda options: machine)
    runs = modules.arena_records.Runs(path, "h1")
    return modules.arena.Arena(settings(), runs, argparse.Namespace(retry=retry))


def imitate(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, **shares: float | str) -> list[tuple[str, str]]:
    """Replace the registrations: a tool finds a share of the truth, or has a problem; return the log of the runs."""
    log: list[tuple[str, str]] = []

    def attempt(job: Any, out: Path, options: argparse.Namespace) -> dict[str, Any]:
        log.append((job.case.name, job.tool))
        share = shares[job.tool]
        run = {"case": job.case.name, "tool": job.tool, "preset": job.preset, "seed": job.seed, "problem": ""}
        if isinstance(share, str):
            return run | {"problem": share}
        save_field(out / modules.score.FORWARD, share * SHIFT, FIXED)
        return run | modules.score.score(job.case, out)

    monkeypatch.setattr(modules.arena, "attempt", attempt)
    return log


def test_runs_failures_and_tools_that_are_not_installed(modules, cases, tmp_path, monkeypatch, capsys):
    log = imitate(modules, monkeypatch, monai_locor=0.75, greedy="more than 1 s", elastix="not run (No module)")
    arena = arena_of(modules, tmp_path / "runs.jsonl", monkeypatch)
    jobs = modules.arena.jobs(settings(), cases, quick=False)
    arena.run(jobs, 600)
    stored = {(run["case"], run["tool"]): run for run in modules.arena_records.Runs(arena.runs.path, "h1")}
    assert {tool for _, tool in stored} == {"(nothing)", "monai_locor", "greedy"}
    assert stored["a", "monai_locor"]["left"] == pytest.approx(0.25, abs=1e-4)
    assert stored["b", "greedy"]["problem"] == "more than 1 s" and "left" not in stored["b", "greedy"]
    assert log.count(("b", "elastix")) <= 1 and "elastix: not run (No module)" in capsys.readouterr().err
    assert (tmp_path / "runs-monai_locor-default.png").read_bytes().startswith(b"\x89PNG")
    # what is there is not run again, but for our own runs of other code
    again = arena_of(modules, arena.runs.path, monkeypatch)
    assert [job.tool for job in jobs if not again.is_done(job)] == ["elastix", "elastix"]
    changed = arena_of(modules, arena.runs.path, monkeypatch, source="s2")
    assert [job.tool for job in jobs if not changed.is_done(job)] == ["monai_locor", "elastix"] * 2
    retry = arena_of(modules, arena.runs.path, monkeypatch, retry=True)
    assert [job.tool for job in jobs if not retry.is_done(job)] == ["greedy", "elastix"] * 2


def test_no_run_starts_after_the_given_time(modules, cases, tmp_path, monkeypatch):
    log = imitate(modules, monkeypatch, monai_locor=1.0, greedy=1.0, elastix=1.0)
    arena_of(modules, tmp_path / "runs.jsonl", monkeypatch).run(modules.arena.jobs(settings(), cases, quick=False), 0)
    assert not log and not (tmp_path / "runs.jsonl").exists()


def test_a_run_that_was_ended_is_not_a_failure(modules, cases, tmp_path, monkeypatch):
    arena, begun = arena_of(modules, tmp_path / "runs.jsonl", monkeypatch), threading.Event()

    def attempt(job: Any, out: Path, options: argparse.Namespace) -> dict[str, Any]:
        begun.set()
        arena.stopped.wait(10)
        return {"case": job.case.name, "tool": job.tool, "preset": job.preset, "seed": 0, "problem": "exit status -9"}

    def interrupted(seconds: float) -> None:
        assert begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(modules.arena, "attempt", attempt)
    monkeypatch.setattr(modules.arena, "_children", lambda: [])
    monkeypatch.setattr(modules.arena.time, "sleep", interrupted)
    jobs = [job for job in modules.arena.jobs(settings(), cases, quick=False) if job.tool == "monai_locor"]
    with pytest.raises(KeyboardInterrupt):
        arena.run(jobs, 600)
    assert not arena.runs.of("monai_locor")


def test_a_scorer_that_stops_is_a_failed_run(modules, cases, tmp_path, monkeypatch):
    def attempt(*_: Any) -> None:
        raise IndexError("of an\narray")

    monkeypatch.setattr(modules.arena, "attempt", attempt)
    arena = arena_of(modules, tmp_path / "runs.jsonl", monkeypatch)
    arena.run([modules.arena.Job(cases / "a", "", 0, "greedy")], 600)
    assert [run["problem"] for run in arena.runs.of("greedy")] == ["not scored: of an array"]


def test_the_command_writes_a_page_after_an_interruption(modules, cases, tmp_path, monkeypatch):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings() | {"methods": settings()["methods"][:1]}), encoding="utf-8")

    def run(arena: Any, jobs: Any, seconds: float) -> None:
        assert seconds == 10 and [job.tool for job in jobs] == ["monai_locor"]  # --quick: one case
        raise KeyboardInterrupt

    monkeypatch.setattr(modules.arena.Arena, "run", run)
    monkeypatch.setattr(modules.arena, "about", lambda options: {"source": ""})
    monkeypatch.setattr(modules.arena.signal, "signal", lambda *_: None)
    words = ["--records", str(tmp_path / "r.jsonl"), "--settings", str(file), "--quick"]
    modules.arena.main([str(cases), *words])
    assert (tmp_path / "r.md").read_text(encoding="utf-8").startswith("# Arena")
    with pytest.raises(SystemExit):
        modules.arena.parse([str(cases / "none")])


# --- stained sections


def stains(folder: Path) -> Path:
    """Two pictures of 30 x 20 pixels; the second lies 3 pixels further to the right."""
    from PIL import Image

    folder.mkdir()
    for name, shift in (("One", 0), ("Two", 3)):
        data = np.full((20, 30, 3), 255, np.uint8)
        data[5:12, 6 + shift : 16 + shift] = [120, 40, 90]
        Image.fromarray(data).save(folder / f"{name}.jpg", quality=95)
        points = [f"{n},{10 * (x + shift)},{10 * y}" for n, (x, y) in enumerate([(6, 5), (15, 5), (6, 11), (15, 11)])]
        (folder / f"{name}_landmarks.csv").write_text("\n".join([" ,X,Y", *points]), encoding="utf-8")
    (folder / "One_landmarks_second_reader.csv").write_text(" ,X,Y\n0,60,70\n1,150,50\n2,60,110", encoding="utf-8")
    return folder


def test_stained_sections_are_scored_at_their_landmarks(modules, tmp_path):
    histology, score = modules.histology, modules.score
    data = stains(tmp_path / "data")
    case = histology.write_pair(data, "One", "Two", tmp_path / "case")
    image = nib.load(case / "fixed.nii.gz")
    inside, outside = (float(image.dataobj[place]) for place in ((10, 8), (2, 2)))
    assert image.shape == (30, 20) and inside > 150 and outside < 20  # the background is dark
    assert modules.registration.dims_of(case) == 2
    before = modules.registration.nothing(case)
    assert before["landmark_mm"] == before["landmark_before_mm"] == 3 and before["landmarks"] == 4
    shift = np.zeros((30, 20, 2))
    shift[..., 0] = -2.5  # LPS: 2.5 pixels to the right
    modules.peer.write_field(tmp_path / score.FORWARD, shift, case / "fixed.nii.gz")
    moved = score.score(case, tmp_path)
    assert moved["landmark_mm"] == moved["landmark_p95_mm"] == pytest.approx(0.5) and moved["folding_voxels"] == 0
    shift[14:, :, 0] += 3  # folds: the field falls by three pixels between two columns
    modules.peer.write_field(tmp_path / score.FORWARD, shift, case / "fixed.nii.gz")
    assert score.score(case, tmp_path)["folding_voxels"] == 2 * 20
    assert histology.readers_distance(data, "One") == 0  # median of 2, 0 and 0 pixels
    modules.peer.write_field(tmp_path / score.FORWARD, shift[:-1], case / "fixed.nii.gz")
    with pytest.raises(ValueError, match="grid"):
        score.score(case, tmp_path)


def test_a_picture_shows_the_error(modules, tmp_path):
    from PIL import Image

    case = write_blob_case(tmp_path / "case")
    brightness = []
    for name, share in (("right", 1.0), ("wrong", 0.0)):
        (tmp_path / name).mkdir()
        save_field(tmp_path / name / modules.score.FORWARD, share * SHIFT, FIXED)
        modules.arena.draw(case, tmp_path / name, tmp_path / f"{name}.png")
        picture = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert picture.ndim == 2 and min(picture.shape) > 200
        brightness.append(picture[: picture.shape[0] // 4, -picture.shape[1] // 8 :].mean())
    assert brightness[0] == 0 and brightness[1] > 50
