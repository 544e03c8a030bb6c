# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The benchmark of registrations: scores, failures, and printed tables."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .cases import FIXED, MOVING, SHAPE, SHIFT, TWO_ITERATIONS, measure_here, save, save_field, scripts, write_blob_case

pytest.importorskip("scipy")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return scripts(monkeypatch, "registration", "_score", "_tables", "_compare", "_runs", "_plot_groups", "_ours")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_blob_case(tmp_path / "cases" / "blobs", labels=True)


def test_the_truth_scores_without_error(modules, case, tmp_path):
    score = modules.score
    save_field(tmp_path / score.FORWARD, SHIFT, FIXED)
    save_field(tmp_path / score.INVERSE, -SHIFT, MOVING)
    found = score.score(case, tmp_path)
    assert found["tre_before_mm"] == pytest.approx(np.linalg.norm(SHIFT))
    assert found["tre_mm"] == found["tre_p95_mm"] == pytest.approx(0, abs=1e-5)
    assert found["inverse_p95_vox"] == pytest.approx(0, abs=1e-5) and found["inverse_voxels"] == found["voxels"]
    assert found["labels"] == 2 and found["dice_before"] < 0.8 and found["dice"] == 1
    assert found["folding_voxels"] == 0 and found["voxels"] == nib.load(case / "mask.nii.gz").get_fdata().sum()


def test_errors_are_measured(modules, case, tmp_path):
    score = modules.score
    save_field(tmp_path / score.FORWARD, SHIFT + [0, 2, 0], FIXED)  # one voxel off along the first axis
    save_field(tmp_path / score.INVERSE, -SHIFT - [0, 2, 6], MOVING)  # and back again, but two voxels off along the third
    found = score.score(case, tmp_path)
    assert found["tre_mm"] == found["tre_p95_mm"] == pytest.approx(2, abs=1e-5)
    assert found["inverse_p95_vox"] == pytest.approx(2, abs=1e-5)
    assert 0.5 < found["dice"] < 1


def test_errors_far_below_the_surface_are_measured_apart(modules, case, tmp_path):
    """A ball with a hole in voxels of 4 x 2 x 6 mm: what lies in the hole is not at a surface."""
    score, shape, affine = modules.score, (40, 60, 30), np.diag([4.0, 2.0, 6.0, 1.0])
    points = np.stack(np.indices(shape), -1) @ affine[:3, :3] - [80, 60, 90]
    radius = np.linalg.norm(points, axis=-1)
    deep, mask = radius < 35, (radius < 50) & (radius > 8)
    for role in ("fixed", "moving"):
        save(case / f"{role}.nii.gz", np.ones(shape), affine)
        (case / f"{role}_labels.nii.gz").unlink()
    save(case / "mask.nii.gz", mask.astype(np.uint8), affine)
    save_field(case / "truth.nii.gz", np.zeros(3), affine, shape)
    save_field(tmp_path / score.FORWARD, np.where(deep, 1.0, 5.0)[..., None] * [1, 0, 0], affine, shape)
    found = score.score(case, tmp_path)
    assert found["tre_inner_mm"] == pytest.approx(1, abs=0.3) and found["tre_mm"] > 2 and found["tre_p95_mm"] == 5
    depth = score.depth(mask, affine)
    assert np.abs(depth - (50 - radius))[mask].max() < 6.5 and not depth[radius > 50].any()
    smaller = (radius < 14).astype(np.uint8)
    save(case / "mask.nii.gz", smaller, affine)
    assert "tre_inner_mm" not in score.score(case, tmp_path)


def test_folds_are_counted_in_the_mask(modules, case, tmp_path):
    score = modules.score
    (case / "mask.nii.gz").unlink()
    index = np.indices(SHAPE)[2]
    folded = np.where((index >= 5) & (index < 9), -4.0 * index, 0.0)  # slope -4 * 3 mm / 3 mm inside; jumps at both ends
    save_field(tmp_path / score.FORWARD, np.stack([0 * folded, 0 * folded, 3 * folded], -1), FIXED)
    slopes = 1 + np.gradient(folded[0, 0])
    found = score.score(case, tmp_path)
    assert found["folding_voxels"] == (slopes <= 0).sum() * SHAPE[0] * SHAPE[1] > 0
    assert found["voxels"] == np.prod(SHAPE) and "inverse_p95_vox" not in found
    save(case / "mask.nii.gz", (index == 12).astype(np.uint8), FIXED)
    assert score.score(case, tmp_path)["folding_voxels"] == 0


@pytest.mark.parametrize(
    ("data", "affine", "intent", "message"),
    [
        (np.zeros((*SHAPE, 1, 3)), MOVING, "vector", "grid"),
        (np.zeros((*SHAPE, 1, 3)), FIXED, "none", "intent"),
        (np.zeros((*SHAPE, 3)), FIXED, "vector", "shape"),
        (np.full((*SHAPE, 1, 3), np.nan), FIXED, "vector", "NaN"),
    ],
)
def test_a_field_that_cannot_be_scored_is_refused(modules, case, tmp_path, data, affine, intent, message):
    score = modules.score
    save(tmp_path / score.FORWARD, data.astype(np.float32), affine, intent)
    with pytest.raises(ValueError, match=message):
        score.score(case, tmp_path)


def test_medians_and_failed_runs(modules):
    common: dict[str, Any] = {"case": "a", "tool": "monai_locor", "problem": ""}
    runs = [common | {"preset": "fast", "seed": n, "tre_mm": v, "folding_voxels": 0} for n, v in enumerate((3.0, 1.0, 1.5))]
    runs.append(common | {"preset": "fast", "seed": 3, "problem": "does not fit | in memory"})
    rows = modules.tables.medians(runs)
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [3]]
    assert rows[0]["tre_mm"] == 1.5 and "dice" not in rows[0]
    lines = modules.tables.table(rows).splitlines()
    assert all(line.replace("\\|", "").count("|") == 5 + len(modules.tables.COLUMNS) for line in lines)
    assert "| a | monai_locor | fast | 0 1 2 |  | 1.500 |" in lines[2]
    assert "| a | monai_locor | fast | 3 | failed: does not fit \\| in memory |" in lines[3]


def test_presets_alternate_and_failures_stay(modules, case, tmp_path, monkeypatch, capsys):
    script, score = modules.registration, modules.score
    seen = []

    def fails(spec):
        seen.append((spec.arguments["options"]["preset"], spec.arguments["options"]["seed"]))
        return script.Measured(problem="more than 1 s" if len(seen) % 2 else "")

    monkeypatch.setattr(script, "measure", fails)
    stale = tmp_path / "out" / "blobs" / "fast" / "0"
    save_field(stale / score.FORWARD, SHIFT, FIXED)
    script.main([str(case.parent), "--seeds", "0", "1", "--output", str(tmp_path / "out")])
    assert seen == [("default", 0), ("fast", 0), ("default", 1), ("fast", 1)]
    lines = capsys.readouterr().out.splitlines()
    assert sum("failed: more than 1 s" in line for line in lines) == 2
    assert sum("failed: not scored" in line for line in lines) == 2  # the field of an earlier run is not taken for this one's


@pytest.mark.parametrize("wrong", [["no-such-case"], ["--presets", "a.json", "b/a.json"], ["--seeds", "1", "1"]])
def test_a_wrong_command_line_is_refused(modules, case, wrong):
    with pytest.raises(SystemExit):
        modules.registration.parse([str(case.parent), *wrong])


@pytest.mark.slow  # in a fresh process
def test_the_script_on_a_tiny_case(modules, case, tmp_path, capsys):
    script = modules.registration
    preset, numbers, out = tmp_path / "two.json", tmp_path / "numbers.json", tmp_path / "out"
    preset.write_text(json.dumps(TWO_ITERATIONS), encoding="utf-8")
    options = ["--presets", str(preset), "--threads", "1", "--output", str(out), "--json", str(numbers)]
    script.main([str(case.parent), "blobs", *options])
    lines = capsys.readouterr().out.splitlines()
    assert all(name in lines[0] for name in ("date", "processor", "threads 1", "torch", "monai_locor"))
    assert lines[2].startswith("| case | tool | preset | seeds | TRE before, mm |") and len(lines) == 5
    cells = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert cells[:5] == ["blobs", "monai_locor", "two", "0", f"{np.linalg.norm(SHIFT):.2f}"] and all(cells)
    content = json.loads(numbers.read_text(encoding="utf-8"))
    (run,), (row,) = content["runs"], content["rows"]
    assert run["problem"] == "" and run["labels"] == 2 and run["seconds"] > 0 and run["processor_seconds"] > 0
    assert run["tre_mm"] == row["tre_mm"] and run["inverse_p95_vox"] < 0.5 and run["folding_voxels"] == 0
    assert json.loads(content["settings"]["preset two"]) == TWO_ITERATIONS
    assert {path.name for path in (out / "blobs" / "two" / "0").iterdir()} >= {"forward_field.nii.gz", "cost.json"}
    assert content["nothing"]["blobs"]["tre_mm"] == pytest.approx(np.linalg.norm(SHIFT))


# --- many cases, many methods

NOTHING = {case: {"tre_mm": 10.0, "dice": 0.1} for case in "abcdefgh"}
REFERENCE = ("monai_locor", "default")


def run_of(case: str, tool: str, tre_mm: float | None, seed: int = 0, problem: str = "") -> dict[str, Any]:
    preset = "" if tool in ("greedy", "elastix") else "default"
    numbers = {} if tre_mm is None else {"tre_mm": tre_mm}
    return {"case": case, "tool": tool, "preset": preset, "seed": seed, "problem": problem, **numbers}


def test_methods_are_compared_over_the_cases(modules):
    compare = modules.compare
    runs = [run_of(case, "monai_locor", 1 + n / 10, seed) for n, case in enumerate("abcdefgh") for seed in (0, 1, 2)]
    runs += [run_of(case, "ours:mind_ssc", 2 + n / 10, seed) for n, case in enumerate("abcdefgh") for seed in (0, 1, 2)]
    runs[-1]["tre_mm"] = 99.0  # one repeat: the median does not see it
    runs += [run_of(case, "greedy", 0.5) for case in "ab"] + [run_of("c", "greedy", None, problem="more than 1 s")]
    runs += [run_of(case, "elastix", None, problem="not run (No module named 'itk.elastix')") for case in "abc"]
    rows = compare.comparison(runs, NOTHING, compare.MEASURES[0], REFERENCE)
    assert [row["tool"] for row in rows] == [
        "monai_locor",
        "ours:mind_ssc",
        "greedy",
    ]  # tools that are not installed are left out
    ours, other, failing = rows
    assert ours["mean"] == pytest.approx(1.35) and ours["deviation"] == pytest.approx(np.std(np.arange(8) / 10, ddof=1))
    assert other["mean"] == pytest.approx(2.35) and (other["reference_better"], other["common"]) == (8, 8)
    assert other["p"] == pytest.approx(2 / 2**8)  # all of eight signs alike, on either side
    assert failing["mean"] == pytest.approx((0.5 + 0.5 + 10) / 3)
    assert failing["failures"] == 1 and failing["reference_better"] == 1
    assert compare.comparison(runs, NOTHING, compare.MEASURES[1], REFERENCE) == []
    lines = compare.table(rows, compare.MEASURES[0], REFERENCE).splitlines()
    assert "| monai_locor default | 8 | 1.350 ± 0.245 |  |  | 0/24 |" in lines
    assert "| ours:mind_ssc default | 8 | 2.350 ± 0.245 | 8/8 | 0.0078 | 0/24 |" in lines and "| 1/3 |" in lines[-1]


def test_overlap_is_better_when_it_is_larger(modules):
    compare, measure = modules.compare, modules.compare.MEASURES[1]
    dice = {"monai_locor": 0.8, "greedy": 0.6}
    runs = [run_of(case, tool, None) | {"dice": value} for case in "ab" for tool, value in dice.items()]
    rows = compare.comparison(runs, NOTHING, measure, REFERENCE)
    assert [row["tool"] for row in rows] == ["monai_locor", "greedy"] and rows[1]["reference_better"] == 2


def test_no_difference_is_chance(modules):
    assert modules.compare.chance([(1.0, 1.0), (2.0, 2.0)]) == 1 and modules.compare.chance([(1.0, 2.0)]) == 1


def test_every_measure_is_a_tool(modules, case):
    options = modules.registration.parse([str(case.parent), "--tools", "measures", "--presets", "fast"])
    assert options.tools[0] == "monai_locor" and "ours:mutual_information" in options.tools and len(options.tools) == 8
    job = modules.registration.Job(case, "fast", 3, "ours:srwcr")
    assert job.folder == "blobs/ours-srwcr-fast/3" and modules.registration.Job(case, "fast", 3).folder == "blobs/fast/3"


def test_runs_continue_from_a_file(modules, case, tmp_path, monkeypatch, capsys):
    script, seen, path = modules.registration, [], tmp_path / "runs.json"

    def attempt(job, out, options):
        seen.append((job.tool, job.seed))
        return run_of(job.case.name, job.tool, 1.0 + len(job.tool), job.seed) | {"preset": job.label, "seconds": 1.0}

    monkeypatch.setattr(script, "attempt", attempt)
    common = [str(case.parent), "--presets", "fast", "--json", str(path)]
    script.main([*common, "--seeds", "0"])
    script.main([*common, "--seeds", "0", "1", "--tools", "monai_locor", "ours:mind_ssc", "--resume"])
    assert seen == [("monai_locor", 0), ("ours:mind_ssc", 0), ("monai_locor", 1), ("ours:mind_ssc", 1)]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content["runs"]) == 4 and content["comparison"]["rows"]["tre_mm"][1]["reference_better"] == 1
    assert "cases where monai_locor fast is better" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other threads"):
        script.main([*common, "--threads", "1", "--resume"])
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(SystemExit, match="holds no runs"):
        script.main([*common, "--resume"])
    assert path.read_text(encoding="utf-8") == "[]"


def test_a_picture_over_all_cases(modules, tmp_path):
    pytest.importorskip("matplotlib")
    panels = {"TRE": {"ours": [1.0, 2.0, 3.0], "theirs": [2.0], "none": []}, "nothing": {"ours": []}}
    assert modules.plot_groups.groups(panels, tmp_path / "a.png") == ["TRE"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert modules.plot_groups.groups({}, tmp_path / "b.png") == [] and not (tmp_path / "b.png").exists()


@pytest.mark.slow
def test_another_measure(modules, case, tmp_path, monkeypatch):
    measure_here(monkeypatch, modules.registration)
    preset, numbers = tmp_path / "two.json", tmp_path / "numbers.json"
    preset.write_text(json.dumps(TWO_ITERATIONS), encoding="utf-8")
    told = ["--tools", "ours:srwcr", "--presets", str(preset), "--threads", "1", "--json", str(numbers)]
    modules.registration.main([str(case.parent), *told])
    (run,) = json.loads(numbers.read_text(encoding="utf-8"))["runs"]
    assert run["problem"] == "" and run["tool"] == "ours:srwcr" and run["tre_mm"] < 1.1 * run["tre_before_mm"]
