# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The script that draws the figure for cases of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from monai_locor.geometry import Grid
from monai_locor.io import write_image

from ..benchmarks.cases import scripts
from .fit_phantom import contrast, fit_grid, smooth

pytest.importorskip("matplotlib")
TINY = {"stages": [{"factor": 1, "iterations": 2}], "multistart": "never"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported as the interpreter does when it runs it."""
    pytest.importorskip("scipy")
    return scripts(monkeypatch, "explain").explain


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder, grid = tmp_path / "cases" / "a", fit_grid(3)
    folder.mkdir(parents=True)
    write_image(folder / "moving.nii.gz", smooth(grid), Grid(grid.shape, grid.affine))
    write_image(folder / "fixed.nii.gz", contrast(smooth(grid)), grid)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return tmp_path / "cases"


@pytest.mark.slow
def test_the_script_draws_and_prints(script, cases, tmp_path, capsys):
    point = "-10,12.5,45"
    out = tmp_path / "pictures"
    options = ["--preset", str(tmp_path / "tiny.json"), "--threads", "1", "--dpi", "40", "--output", str(out)]
    script.main([str(cases), "--point", "gain", f"--point={point}", *options])
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| a")]
    assert [row[2:4] for row in rows] == [["learned", "5"], ["polynomial", "10"]] * 2
    assert [row[1] for row in rows[2:]] == ["-10.0, 12.5, 45.0"] * 2
    assert {path.name for path in out.iterdir()} == {"a-gain.png", "a--10_12.5_45.png"}
    for row in rows:
        assert float(row[6]) == pytest.approx(float(row[4]) / float(row[5]), rel=0.1)


@pytest.mark.parametrize("wrong", [["--point", "middle"], ["--point", "1,2"], ["--preset", "nothing"], ["b"]])
def test_invalid_arguments_are_refused(script, cases, wrong, capsys):
    if wrong == ["--point", "1,2"]:
        assert script.coordinates("1,2") == [1, 2]  # an image may be 2-D
        wrong = ["--point", "1,2,3,4"]
    with pytest.raises(SystemExit):
        script.parse([str(cases), *wrong])
    assert wrong[-1] in capsys.readouterr().err
