# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The tutorials run, show what they say, and carry what they showed."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    """``tutorials/run.py``."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    spec = importlib.util.spec_from_file_location("tutorials_run", ROOT / "tutorials" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


def written(folder: Path, *sources: str) -> Path:
    cells = [{"cell_type": "code", "source": source.splitlines(True)} for source in sources]
    path = folder / "a.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["# no code"]}, *cells]}))
    return path


def test_the_six_tutorials_are_there():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


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
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorial_runs_and_its_pictures_show_something(runner, path):
    pytest.importorskip("nilearn")
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
