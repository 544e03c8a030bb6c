# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The tutorials run, and their outputs are current."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from .scripts import module_of

ROOT = Path(__file__).parents[1]
REPEATED = ("01",)  # tutorials that the slow tests run even if their outputs are up to date
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    """``tutorials/run.py``."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    sys.path.insert(0, str(ROOT / "tutorials"))
    module = module_of("tutorials/run.py")
    sys.path.remove(str(ROOT / "tutorials"))
    return module


def written(folder: Path, *sources: str) -> Path:
    cells = [{"cell_type": "code", "source": source.splitlines(True)} for source in sources]
    path = folder / "a.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["# no code"]}, *cells]}))
    return path


def test_the_tutorials_are_there_and_listed():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(10)]
    index, navigation, readme = (ROOT / name for name in ("docs/tutorials/index.md", "mkdocs.yml", "README.md"))
    assert all(f"](../../tutorials/{path.name})" in index.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert all(f": tutorials/{path.stem}.md\n" in navigation.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert all(f"](tutorials/{path.name})" in readme.read_text(encoding="utf-8") for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_carries_the_outputs_that_the_pages_show(path, runner, tmp_path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)] and any(cell["outputs"] for cell in code)
    copy = tmp_path / path.name
    bare = [{**cell, "outputs": []} if cell["cell_type"] == "code" else cell for cell in notebook["cells"]]
    copy.write_text(json.dumps({**notebook, "cells": bare}))
    runner.embed(copy, ROOT / "docs" / "tutorials" / path.stem)
    assert copy.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), "python tutorials/run.py --keep docs/tutorials"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert notebook["cells"][0]["source"][0].startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_the_code_cells(path, runner):
    stamp = runner.stamp.read(ROOT / "docs" / "tutorials" / path.stem)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", stamp["date"]) and re.fullmatch(r"[0-9a-f]{7,}", stamp["commit"])
    assert stamp["code"] == runner.stamp.code_hash(path), "run make docs and commit the outputs"


def test_stale_are_outputs_of_other_code(runner, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    module = package / "a.py"
    module.write_text('"""Text."""\nx = 1\n')
    notebook, folder = written(tmp_path, "x = 2"), tmp_path / "shown"
    folder.mkdir()
    source_hash = runner.stamp.source_hash
    monkeypatch.setattr(runner.stamp, "source_hash", lambda: source_hash(package))
    assert runner.stamp.is_stale(notebook, folder)
    runner.stamp.write(notebook, folder)
    module.write_text('"""Other text."""\n\nx = 1  # comment\n')
    assert not runner.stamp.is_stale(notebook, folder)
    module.write_text("x = 3\n")
    assert runner.stamp.is_stale(notebook, folder)
    runner.stamp.write(notebook, folder)
    written(tmp_path, "x = 3")
    assert runner.stamp.is_stale(notebook, folder)


def test_package_has_the_parts_that_a_stamp_leaves_out(runner):
    assert all((ROOT / "monai_locor" / name).is_dir() for name in runner.stamp.UNUSED)


def test_runner_shows_what_jupyter_would(runner, tmp_path):
    draw = "import matplotlib.pyplot as plt\nplt.plot([0, 1]);"
    path = written(tmp_path, "x = 2\nprint('printed')\nx + 1", draw, "plt.figure()", "'quiet';", "None")
    shown = list(runner.run(path))
    assert [s.text for s in shown] == ["printed\n3\n", "", "", "", ""]
    assert [len(s.pictures) for s in shown] == [0, 1, 1, 0, 0]


def test_runner_works_in_an_empty_folder_and_names_the_cell_that_fails(runner, tmp_path):
    before = Path.cwd()
    path = written(tmp_path, "from pathlib import Path\nprint(list(Path().iterdir()))", "1 / 0")
    cells = runner.run(path)
    assert next(cells).text == "[]\n"
    with pytest.raises(ZeroDivisionError) as caught:
        next(cells)
    assert any("a.ipynb, code cell 2" in str(entry.path) for entry in caught.traceback)
    assert Path.cwd() == before


@pytest.mark.slow
def test_several_notebooks_run_at_the_same_time_and_the_first_fault_ends_it(tmp_path):
    (tmp_path / "other").mkdir()
    paths = [written(tmp_path, "print(1)"), written(tmp_path / "other", "print(2)").rename(tmp_path / "b.ipynb")]
    command = [sys.executable, ROOT / "tutorials" / "run.py", *paths, "--jobs", "2", "--keep", tmp_path / "kept"]
    subprocess.run(command, check=True, capture_output=True)
    assert [(tmp_path / "kept" / name / "01.txt").read_text() for name in "ab"] == ["1\n", "2\n"]
    again = subprocess.run([*command, "--stale"], check=True, capture_output=True, text=True)
    assert again.stdout.count("up to date") == 2
    written(tmp_path, "1 / 0")
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode != 0 and "a.ipynb, code cell 1" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorial_runs_and_its_outputs_are_current(runner, path):
    pytest.importorskip("nilearn")
    if path.name[:2] not in REPEATED and not runner.stamp.is_stale(path, ROOT / "docs" / "tutorials" / path.stem):
        pytest.skip("has run with this code; to run it again: python tutorials/run.py")
    from matplotlib.image import imread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = list(runner.run(path))
    pictures = [picture for cell in shown for picture in cell.pictures]
    assert pictures
    for picture in pictures:
        pixels = imread(io.BytesIO(picture))[..., :3]
        assert pixels.shape[0] > 100 and pixels.shape[1] > 100
        assert np.std(pixels) > 0.05
    folder = ROOT / "docs" / "tutorials" / path.stem
    for number, cell in enumerate(shown, start=1):
        kept = folder / f"{number:02}.txt"
        assert_close_texts(cell.text, kept.read_text(encoding="utf-8") if kept.is_file() else "")
        assert len(cell.pictures) == len([*folder.glob(f"{number:02}-*.png")])


def assert_close_texts(text, kept):
    """Same words; numbers agree as well as those of two machines do. Of a verdict's checks, status and name are compared."""
    stale, number = "run make docs and commit the outputs", re.compile(r"\d+(?:\.\d*)?")
    lines, old_lines = text.splitlines(), kept.splitlines()
    assert len(lines) == len(old_lines), stale
    for line, old_line in zip(lines, old_lines, strict=True):
        if re.match(r" *(PASS|WARN|FAIL) ", line):
            assert line.split(":")[0] == old_line.split(":")[0], stale
            continue
        assert re.findall(r"[A-Za-z]+", line) == re.findall(r"[A-Za-z]+", old_line), stale
        new, old = (np.array(number.findall(side), dtype=float) for side in (line, old_line))
        assert len(new) == len(old), stale
        np.testing.assert_allclose(new, old, rtol=0.3, atol=0.05, err_msg=stale)


def test_outputs_that_differ_are_noticed():
    assert_close_texts("after: 0.51 mm\nPASS loss: rose 5 %\n", "after: 0.53 mm\nPASS loss: fell 9 %\n")
    for text in ("after: 0.51 voxels\nPASS\n", "after: 0.91 mm\nPASS\n", "after: 0.51 mm\nWARN\n"):
        with pytest.raises(AssertionError):
            assert_close_texts(text, "after: 0.51 mm\nPASS\n")
