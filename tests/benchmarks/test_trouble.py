# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""`trouble.py`: the truth of changed pairs, what a run records, and the tables."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import map_coordinates

from monai_locor.geometry import Grid, apply_affine
from monai_locor.quality import Thresholds

from ..phantoms import grid_of
from ..report.results import aligned
from .cases import scripts

GRID = grid_of((30, 27, 26), (5.0, 5.0, 5.0))
KEEP = ("unchanged", "rotation", "half or quarter turn", "header scale", "bad start", "slab", "overlap", "itself")
NO_ANSWER = ("mirror left-right", "mirror other", "noise only", "wrong patient", "other body part")


@pytest.fixture
def script(monkeypatch):
    return scripts(monkeypatch, "trouble", "_trouble_pairs", "_trouble_tables", "_trouble_curves", "_capture_pairs")


@pytest.fixture(scope="module")
def phantom():
    """The voxels of an anatomy, ``(1, *spatial)``."""
    return aligned(GRID)[0].as_tensor()


@pytest.fixture
def data(script, phantom, monkeypatch, tmp_path):
    """A folder in which all images are the same one."""
    monkeypatch.setattr(
        script.trouble_pairs, "volume", lambda path: MetaTensor(phantom.clone(), affine=torch.from_numpy(GRID.affine.copy()))
    )
    return tmp_path


@pytest.mark.parametrize("kind", KEEP)
def test_fixed_voxels_look_like_their_true_positions(script, data, kind):
    pair = script.trouble_pairs.troubled(data, kind, np.random.default_rng(3))
    grid = Grid.of(pair.moving)
    index = apply_affine(np.linalg.inv(grid.affine), pair.truth)
    inside = ((index >= 0) & (index <= np.array(grid.shape) - 1)).all(-1) & pair.mask
    seen = map_coordinates(pair.moving[0].numpy(), np.moveaxis(index, -1, 0), order=1)
    assert inside.sum() > 200
    assert np.corrcoef(seen[inside], pair.fixed[0].numpy()[inside])[0, 1] > 0.95
    assert pair.error(pair.truth).max() == 0
    moved = pair.truth + np.array([3.0, 0, 4.0])
    np.testing.assert_allclose(pair.error(moved), 5)


@pytest.mark.parametrize("kind", NO_ANSWER)
def test_pairs_without_a_true_answer_are_wrong_however_they_end(script, data, kind):
    pair = script.trouble_pairs.troubled(data, kind, np.random.default_rng(4))
    assert pair.truth is None and np.isinf(pair.error(Grid.of(pair.fixed).points())).all()


@pytest.mark.parametrize("kind", ["noise", "bias", "inverted contrast", "metal", "tumor", "missing half"])
def test_changes_of_intensity_change_the_moving_image_and_no_position(script, data, kind):
    rng = np.random.default_rng(5), np.random.default_rng(5)
    plain, changed = (script.trouble_pairs.troubled(data, name, r) for name, r in zip(("unchanged", kind), rng, strict=True))
    np.testing.assert_array_equal(plain.truth, changed.truth)
    assert not np.array_equal(plain.moving.numpy(), changed.moving.numpy())


def test_wrong_maps_are_far_off_or_fold(script, data):
    rng = np.random.default_rng(6)
    pair = script.trouble_pairs.troubled(data, "unchanged", rng)
    other = script.trouble_pairs.wrong_map(pair, "transform of another pair", rng)
    assert pair.error(other).mean() > 4
    folded = script.trouble_pairs.wrong_map(pair, "folded field", rng)
    step = np.diff(folded[..., 0], axis=0) * np.sign(GRID.affine[0, 0])
    assert (step < 0).mean() > 0.01 and pair.error(folded).mean() > 3


def test_every_kind_that_can_be_wrong_has_a_cause(script):
    assert set(script.trouble_tables.CAUSES) < set(script.trouble_pairs.KINDS)
    assert set(script.trouble_pairs.KINDS) >= {*KEEP, *NO_ANSWER, "folded field"}


def line(run, transform, error, status, case="patient T1-T2", **checks):
    return {"run": run, "transform": transform, "case": case, "error_mm": error, "status": status, "checks": checks}


def test_tables_count_wrong_results_and_named_causes(script):
    tables = script.trouble_tables
    lines = [
        line(0, "unchanged", 1.0, "PASS"),
        line(1, "unchanged", 1.0, "FAIL", alignment="FAIL"),
        line(2, "folded field", 5.0, "FAIL", folding="FAIL"),
        line(3, "folded field", 5.0, "FAIL", alignment="FAIL"),
        line(4, "mirror other", np.inf, "PASS"),
        line(5, "unchanged", 5.0, "PASS", case="nuclear PET-T1"),
        line(6, "unchanged", 1.0, "FAIL", case="head CT-T1"),
    ]
    text = tables.confusion(lines)
    assert "| right | 2 | 1 | 0 | 1 |" in text and "| between | 2 | 1 | 0 | 1 |" in text and "| wrong | 3 | 1 | 0 | 2 |" in text
    assert "False PASS: 1 of 3 (33.3 %, at most 86.5 % with 95 % confidence)" in text
    kinds = tables.by_kind(lines)
    assert "| folded field | 2 | 5.0 | 0 / 0 / 2 |  | 1 of 2 |" in kinds and kinds.endswith(
        "1 of 2 FAILs of wrong results name the cause."
    )
    assert "0 of 0" in tables.confusion([])


def measured(values, error, status, **more):
    """Lines with one measure each."""
    return [{**line(n, "unchanged", error, status), "measures": {"far_contrast": v, **more}} for n, v in enumerate(values)]


def test_curves_tell_wrong_from_right(script):
    """The area is the probability that the wrong result of a pair of results has the worse value."""
    curves, refused = script.trouble_curves, line(9, "header scale", np.inf, "FAIL")
    lines = [*measured([1.3, 2.0, 2.5], 1.0, "PASS"), *measured([1.0, 1.1, 1.5, None], 9.0, "WARN"), refused]
    right, wrong = (curves.badness(part, "far_contrast") for part in curves.split(lines))
    assert len(right) == 3 and len(wrong) == 3
    x, y = curves.curve(right, wrong)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    area = ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum()
    assert area == pytest.approx(np.mean([w > r for w in wrong for r in right]))
    assert (
        curves.by_measure(lines, Thresholds()).splitlines()[-1]
        == "| far_contrast | 0.889 | 1.35: 33.3 / 66.7 | 1.2: 0.0 / 66.7 |"
    )


def test_measures_of_which_more_is_worse_have_the_same_area(script):
    lines = [*measured([2], 1.0, "PASS", stretch=1.1), *measured([1], 9.0, "WARN", stretch=1.5)]
    assert "| stretch | 1.000 | 1.35: 0.0 / 100.0 | 1.6: 0.0 / 0.0 |" in script.trouble_curves.by_measure(lines, Thresholds())


def test_curves_are_drawn(script, tmp_path):
    lines = [*measured([2, 3], 1.0, "PASS"), *measured([1, 2], 9.0, "WARN")]
    script.trouble_curves.plot({"a": lines, "b": lines}, Thresholds(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_lines_that_were_cut_off_are_left_out(script, tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(line(0, "unchanged", 1.0, "PASS")) + '\n{"run": 1, "tra')
    assert [found["run"] for found in script.trouble.read_lines(path)] == [0]
    packed = tmp_path / "lines.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert script.trouble.read_lines(packed) == script.trouble.read_lines(path)
    with pytest.raises(SystemExit):
        script.trouble.main([str(tmp_path), "--lines", str(packed)])
    assert "gunzip" in capsys.readouterr().err


def test_statuses_are_those_of_the_present_thresholds(script, tmp_path):
    """From the measures; checks that are not of measures stay."""
    path = tmp_path / "lines.jsonl"
    measures = {"mirror_lead": 5.0, "rival_lead": -8.0, "shear_degrees": 1.0, "stretch": 1.0, "affine_determinant": 1.0}
    counts = {"valid_voxels": 10**5, "support_blocks": 30, "overlap": 0.9, "folding_percent": 0.0, "skipped_steps": 0.0}
    record = {**line(0, "unchanged", 1.0, "PASS"), "measures": {**measures, **counts}, "checks": {"warning": "WARN"}}
    path.write_text(json.dumps(record))
    (found,) = script.trouble.read_lines(path)
    assert found["status"] == "FAIL"
    assert (found["checks"]["mirror image"], found["checks"]["warning"], found["checks"]["overlap"]) == ("FAIL", "WARN", "PASS")


def test_other_thresholds_give_other_statuses(script, tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    measures = {"mirror_lead": -2.0, "affine_determinant": 1.0, "valid_voxels": 10**5, "support_blocks": 30}
    record = {**line(0, "unchanged", 1.0, "PASS"), "measures": {**measures, "folding_percent": 0.0, "skipped_steps": 0.0}}
    path.write_text(json.dumps(record))
    statuses = []
    for limits in ("-1,4", "-3", "-9,-3"):
        script.trouble.main(["--lines", str(path), "--table", "--threshold", f"mirror_lead={limits}"])
        out = capsys.readouterr().out
        statuses.append(next(row for row in out.splitlines() if row.startswith("| right | 1")))
    assert statuses[1:] == ["| right | 1 | 0 | 1 | 0 |", "| right | 1 | 0 | 0 | 1 |"]


@pytest.mark.slow
def test_a_run_is_recorded_and_not_repeated(script, data, tmp_path, monkeypatch, capsys):
    kinds = ("itself", "folded field")
    monkeypatch.setattr(script.trouble, "KINDS", kinds)
    monkeypatch.setattr(script.trouble, "PRESET", "draft")
    path = tmp_path / "lines.jsonl"
    script.trouble.main([str(data), "--lines", str(path), "--runs", "2"])
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert [f["transform"] for f in found] == [*kinds] and found[0]["error_mm"] < 1 and found[1]["checks"]["folding"] == "FAIL"
    assert [f["status"] for f in script.trouble.read_lines(path)] == [f["status"] for f in found]  # computed anew
    before = path.read_bytes()
    script.trouble.main([str(data), "--lines", str(path), "--runs", "2"])
    assert path.read_bytes() == before and "folded field" in capsys.readouterr().out
