# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""The benchmark of registrations scores right, hides nothing and prints what it promises."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("scipy")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SHAPE = (16, 18, 14)
FIXED = np.array([[0.0, -2.0, 0.0, 20.0], [2.0, 0.0, 0.0, -10.0], [0.0, 0.0, 3.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
SHIFT = np.array([2.0, -4.0, 3.0])  # RAS mm; whole voxels: the moving image is the fixed one, on a grid that is shifted
MOVING = FIXED.copy()
MOVING[:3, 3] += SHIFT
TWO_ITERATIONS = {"stages": [{"factor": 1, "iterations": 1}, {"factor": 1, "iterations": 1, "spacing": 12}]}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The script `registration` and the helper `_score`, imported as the interpreter does when it runs the script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("registration", "_score", "_measure", "loss"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("registration"), importlib.import_module("_score")


def save(path: Path, data: np.ndarray, affine: np.ndarray, intent: str = "none") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_intent(intent)
    nib.save(image, path)


def save_field(path: Path, field: np.ndarray, affine: np.ndarray) -> None:
    """A field ``(X, Y, Z, 3)``, RAS mm, or one vector for all voxels."""
    lps = np.broadcast_to(field, (*SHAPE, 3)) * np.array([-1, -1, 1])
    save(path, lps[..., None, :].astype(np.float32), affine, "vector")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """Two blobs with a truth, a mask and labels."""
    folder = tmp_path / "cases" / "blobs"
    x, y, z = np.indices(SHAPE)
    inside = ((x - 7) / 5) ** 2 + ((y - 9) / 6) ** 2 + ((z - 6) / 4) ** 2 < 1
    image = np.where(inside, 100 + 10 * np.sin(x) + 20 * (y > 9), 5).astype(np.float32)
    labels = (inside * np.where(y > 9, 7, 3)).astype(np.int16)
    labels[0, 0, 0] = 9  # too small to count
    for role, affine in (("fixed", FIXED), ("moving", MOVING)):
        save(folder / f"{role}.nii.gz", image if role == "fixed" else 200 - image, affine)
        save(folder / f"{role}_labels.nii.gz", labels, affine)
    save(folder / "mask.nii.gz", inside.astype(np.uint8), FIXED)
    save_field(folder / "truth.nii.gz", SHIFT, FIXED)
    return folder


def test_the_truth_scores_without_error(modules, case, tmp_path):
    _, score = modules
    save_field(tmp_path / score.FORWARD, SHIFT, FIXED)
    save_field(tmp_path / score.INVERSE, -SHIFT, MOVING)
    found = score.score(case, tmp_path)
    assert found["tre_before_mm"] == pytest.approx(np.linalg.norm(SHIFT))
    assert found["tre_mm"] == found["tre_p95_mm"] == pytest.approx(0, abs=1e-5)
    assert found["inverse_p95_vox"] == pytest.approx(0, abs=1e-5) and found["inverse_voxels"] == found["voxels"]
    assert found["labels"] == 2 and found["dice_before"] < 0.8 and found["dice"] == 1
    assert found["folding_voxels"] == 0 and found["voxels"] == nib.load(case / "mask.nii.gz").get_fdata().sum()


def test_errors_are_measured(modules, case, tmp_path):
    _, score = modules
    save_field(tmp_path / score.FORWARD, SHIFT + [0, 2, 0], FIXED)  # one voxel off along the first axis
    save_field(tmp_path / score.INVERSE, -SHIFT - [0, 2, 6], MOVING)  # and back again, but two voxels off along the third
    found = score.score(case, tmp_path)
    assert found["tre_mm"] == found["tre_p95_mm"] == pytest.approx(2, abs=1e-5)
    assert found["inverse_p95_vox"] == pytest.approx(2, abs=1e-5)
    assert 0.5 < found["dice"] < 1


def test_folds_are_counted_in_the_mask(modules, case, tmp_path):
    _, score = modules
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
    _, score = modules
    save(tmp_path / score.FORWARD, data.astype(np.float32), affine, intent)
    with pytest.raises(ValueError, match=message):
        score.score(case, tmp_path)


def test_medians_and_failed_runs(modules):
    script, _ = modules
    common: dict[str, Any] = {"case": "a", "tool": "monai_locor", "problem": ""}
    runs = [common | {"preset": "fast", "seed": n, "tre_mm": v, "folding_voxels": 0} for n, v in enumerate((3.0, 1.0, 1.5))]
    runs.append(common | {"preset": "fast", "seed": 3, "problem": "does not fit | in memory"})
    rows = script.medians(runs)
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [3]]
    assert rows[0]["tre_mm"] == 1.5 and "dice" not in rows[0]
    lines = script.table(rows).splitlines()
    assert all(line.replace("\\|", "").count("|") == 5 + len(script.COLUMNS) for line in lines)
    assert "| a | monai_locor | fast | 0 1 2 |  | 1.500 |" in lines[2]
    assert "| a | monai_locor | fast | 3 | failed: does not fit \\| in memory |" in lines[3]


def test_presets_alternate_and_failures_stay(modules, case, tmp_path, monkeypatch, capsys):
    script, score = modules
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
        modules[0].parse([str(case.parent), *wrong])


def test_the_script_on_a_tiny_case(modules, case, tmp_path, capsys):
    script, _ = modules
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
    assert json.loads(content["presets"][str(preset)]) == TWO_ITERATIONS
    assert {path.name for path in (out / "blobs" / "two" / "0").iterdir()} >= {"forward_field.nii.gz", "cost.json"}
