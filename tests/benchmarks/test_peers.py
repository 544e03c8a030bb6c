# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Adapters to other tools: conversions, measured cost, and agreement of the picture with the table.

The fast tests need no tool: they use imitations of the programs and of a package. The slow test runs installed tools.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .cases import FIXED, SHAPE, SHIFT, save, scripts, write_blob_case

pytest.importorskip("scipy")
NAMES = ("registration", "_score", "_measure", "_peer", "_peers", "_peers_python", "_peers_programs", "_plot", "loss")

# Stands in for NiftyReg's programs: the transform is the known shift, as NiftyReg writes one (RAS mm).
FAKE_NIFTYREG = """#!{python}
import os, sys, time
from pathlib import Path
name, words = Path(sys.argv[0]).name, sys.argv[1:]
options = dict(zip(words, words[1:]))
if "--version" in words:
    print("2.fake")
elif name == "reg_transform":
    import nibabel as nib, numpy as np
    like = nib.load(options["-ref"])
    target = words[words.index("-disp") + 2]
    nib.save(nib.Nifti1Image(np.broadcast_to(np.array({shift}), (*like.shape, 1, 3)).astype("f4"), like.affine), target)
else:
    with open({log!r}, "a") as log:
        print(name, os.getpid(), os.environ["OMP_NUM_THREADS"], *words, file=log)
    if name == "reg_f3d":
        assert Path(options["-aff"]).exists()
        ballast = b"x" * {ballast}
        time.sleep({seconds})
        sys.exit({status!r})
    Path(options["-aff"]).write_text("affine")
"""

# Stands in for the original tool: displacements in voxels of the grid that they lie on.
FAKE_LOCOR = """
import argparse
import nibabel as nib, numpy as np

def _main():
    parser = argparse.ArgumentParser()
    for name in ("reference", "moving", "-d", "--displacement-field-moving", "--device"):
        parser.add_argument(name)
    options = parser.parse_args()
    for image, path, sign in ((options.reference, options.d, 1), (options.moving, options.displacement_field_moving, -1)):
        like = nib.load(image)
        voxels = np.linalg.solve(like.affine[:3, :3], sign * np.array({shift}))
        nib.save(nib.Nifti1Image(np.broadcast_to(voxels, (*like.shape, 3)).astype("f4"), like.affine), path)

_main()  # also on import, like the real one
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return scripts(monkeypatch, *NAMES)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_blob_case(tmp_path / "cases" / "blob")


def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **told: Any) -> Path:
    """Put programs that imitate NiftyReg on the PATH; return the log of their calls."""
    log, folder = tmp_path / "log.txt", tmp_path / "bin"
    folder.mkdir()
    settings = {"ballast": 0, "seconds": 0, "status": 0, **told}
    text = FAKE_NIFTYREG.format(python=sys.executable, shift=SHIFT.tolist(), log=str(log), **settings)
    for name in ("reg_aladin", "reg_f3d", "reg_transform"):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return log


def run(modules: SimpleNamespace, case: Path, *options: str) -> dict[str, Any]:
    """Numbers of the only run."""
    numbers = case.parents[1] / "numbers.json"
    modules.registration.main([str(case.parent), "--threads", "3", "--json", str(numbers), *options])
    (found,) = json.loads(numbers.read_text(encoding="utf-8"))["runs"]
    return found


@pytest.mark.slow
def test_a_program_is_run_measured_and_scored(modules, case, tmp_path, monkeypatch, capsys):
    log = programs(tmp_path, monkeypatch, ballast=200 * 2**20, seconds=0.5)
    found = run(modules, case, "--tools", "niftyreg-mind")
    assert found["problem"] == "" and found["tool"] == "niftyreg-mind" and found["version"] == "NiftyReg 2.fake"
    assert found["tre_before_mm"] == pytest.approx(np.linalg.norm(SHIFT)) and found["tre_mm"] < 1e-5
    assert "inverse_p95_vox" not in found
    assert 200 < found["memory_mib"] < 300 and found["seconds"] > 0.5
    assert 0 < found["processor_seconds"] < found["seconds"] + 1
    aladin, f3d = (line.split() for line in log.read_text(encoding="utf-8").splitlines())
    assert aladin[0] == "reg_aladin" and f3d[0] == "reg_f3d" and f3d[-2:] == ["--mind", "1"]
    assert all(line[2] == "3" and line[line.index("-omp") + 1] == "3" for line in (aladin, f3d))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("NiftyReg 2.fake") and lines[2].startswith("| case | tool | preset | seeds |")
    assert lines[4].startswith("| blob | niftyreg-mind |  | 0 | 5.39 | 0.000 |")


def test_a_failed_program_has_a_row_with_its_error(modules, case, tmp_path, monkeypatch, capsys):
    programs(tmp_path, monkeypatch, status="cannot | read")
    assert run(modules, case, "--tools", "niftyreg-nmi")["problem"].endswith("reg_f3d: exit status 1: cannot | read")
    assert "failed: RuntimeError: reg_f3d: exit status 1: cannot \\| read |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_time_limit_also_ends_child_programs(modules, case, tmp_path, monkeypatch):
    log = programs(tmp_path, monkeypatch, seconds=600)
    assert run(modules, case, "--tools", "niftyreg-nmi", "--limit", "6")["problem"] == "more than 6 s"
    status = Path("/proc") / log.read_text(encoding="utf-8").splitlines()[1].split()[1] / "stat"
    assert not status.exists() or status.read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.slow
def test_the_original_tool_with_its_own_units(modules, case, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "locor"
    package.mkdir(parents=True)
    for name in ("__init__", "registration"):
        (package / f"{name}.py").touch()
    (package / "__main__.py").write_text(FAKE_LOCOR.format(shift=SHIFT.tolist()), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    found = run(modules, case, "--tools", "locor", "--python", f"locor={sys.executable}")
    assert found["problem"] == "" and found["tre_mm"] < 1e-5 and found["inverse_p95_vox"] < 1e-5
    assert 0 <= found["memory_mib"] < 100  # above the interpreter with torch, which alone takes more


def test_tools_that_are_not_installed_are_not_run(modules, case, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ["--tools", "niftyreg-nmi", "elastix", "--python", "elastix=/no/such/python", "--plot", str(tmp_path / "p.png")]
    modules.registration.main([str(case.parent), *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].startswith("| blob | niftyreg-nmi |  | 0 | not run (no program reg_aladin on the PATH) |")
    assert lines[5].startswith("| blob | elastix |  | 0 | not run (No such file or directory: /no/such/python) |")
    assert not (tmp_path / "p.png").exists()


def test_every_tool_can_be_chosen_and_tools_alternate(modules, case):
    options = modules.registration.parse([str(case.parent), "--tools", "all", "--seeds", "0", "1", "--presets", "fast"])
    ours = len(options.tools) - len(modules.peers.PEERS)
    assert options.tools[0] == "monai_locor" and options.tools[ours:] == list(modules.peers.PEERS)
    assert ours > 1 and all(tool.startswith("ours:") for tool in options.tools[1:ours])
    found = [(job.tool, job.preset, job.seed) for job in modules.registration.jobs(options)]
    presets = ["fast"] * ours + [""] * len(modules.peers.PEERS)
    assert found == [(tool, preset, seed) for seed in (0, 1) for tool, preset in zip(options.tools, presets, strict=True)]
    assert modules.registration.parse([str(case.parent)]).tools == ["monai_locor"]


def test_the_interpreter_of_a_tool(modules, case):
    words = ["--python", "/a", "--python", "niftyreg=/b", "--python", "ants-quick=/c"]
    pythons = modules.registration.parse([str(case.parent), *words]).pythons
    assert set(pythons) == set(modules.peers.PEERS)
    assert pythons["niftyreg-nmi"] == pythons["niftyreg-mind"] == "/b" and pythons["ants-quick"] == "/c"
    assert pythons["ants-syn"] == pythons["locor"] == "/a"


@pytest.mark.parametrize("wrong", [["--tools", "elastiks"], ["--python", "elastiks=/a"], ["--presets", "x/greedy.json"]])
def test_a_wrong_command_line_is_refused(modules, case, wrong):
    with pytest.raises(SystemExit):
        modules.registration.parse([str(case.parent), *wrong])


@pytest.mark.parametrize(
    ("status", "errors", "message"),
    [
        (0, "a warning", ""),
        (1, "Traceback\nValueError: no\n", "ValueError: no"),
        (1, "not run (No module named 'ants')\nlate words of a library", "not run (No module named 'ants')"),
        (1, "std::bad_alloc", "does not fit in memory"),
        (-9, "", "does not fit in memory"),
        (-11, "", "exit status -11"),
    ],
)
def test_problems_are_named(modules, status, errors, message):
    assert modules.peers.problem(status, errors) == message


def test_voxel_displacements_go_through_the_affine(modules, case, tmp_path):
    """ConvexAdam's adapter against the composition written down for one voxel at a time."""
    rng = np.random.default_rng(0)
    matrix, center, shift = np.eye(3) + 0.1 * rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)
    adapter = modules.peers_python
    peer = adapter.ConvexAdam.__new__(adapter.ConvexAdam)
    out = tmp_path / "field.nii.gz"
    peer.task = modules.peer.Task(case / "fixed.nii.gz", case / "moving.nii.gz", out, out, tmp_path, 0, 1)
    told = {"GetMatrix": matrix.ravel(), "GetCenter": center, "GetTranslation": shift}
    peer.affine = SimpleNamespace(**{name: lambda value=value: tuple(value) for name, value in told.items()})
    peer.found = rng.normal(size=(*SHAPE, 3))
    peer.convert()
    field = nib.load(out)
    assert field.header["intent_code"] == 1007 and np.array_equal(field.affine, FIXED)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ FIXED
    for voxel in ((0, 0, 0), (3, 7, 11)):
        point = (lps @ [*voxel, 1])[:3]
        moved = (lps @ [*(voxel + peer.found[voxel]), 1])[:3]
        expected = matrix @ (moved - center) + center + shift - point
        assert np.asarray(field.dataobj)[voxel][0] == pytest.approx(expected, abs=1e-4)


def rows() -> list[dict[str, Any]]:
    """Two cases that can be plotted, one that cannot, and a failed run."""
    fast = {"tool": "monai_locor", "preset": "fast", "problem": "", "seconds": 20.0}
    slow = {"tool": "locor", "preset": "", "problem": "", "seconds": 2000.0}
    return [
        *({"case": "a", "tre_mm": 0.5, **row} for row in (slow, fast)),
        {"case": "a", "tool": "greedy", "preset": "", "problem": "more than 1 s"},
        *({"case": "b", "dice": 0.7, **row} for row in (fast, slow)),
        {"case": "c", **fast},
    ]


def test_panels_compare_the_same_measure(modules):
    found = modules.plot.panels(rows())
    assert {case: key for case, (key, _, _) in found.items()} == {"a": "tre_mm", "b": "dice"}
    assert [modules.plot.name_of(row) for row in found["a"][2]] == ["monai_locor fast", "locor"]


def test_points_lie_at_their_values_and_have_names(modules):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    ax = figure.subplots()
    members = modules.plot.panels(rows())["a"][2]
    modules.plot.panel(ax, members, "tre_mm")
    modules.plot.write_names(ax, members, "tre_mm")
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0
    assert [tuple(c.get_offsets()[0]) for c in ax.collections] == [(20.0, 0.5), (2000.0, 0.5)]
    assert [text.get_text() for text in ax.texts] == ["monai_locor fast", "locor"]


def test_names_of_neighbors_do_not_overlap(modules):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    ax = figure.subplots()
    members = [{"tool": "tool", "preset": "", "seconds": 20.0 + i, "tre_mm": 1.0} for i in range(4)]
    modules.plot.panel(ax, members, "tre_mm")
    modules.plot.write_names(ax, members, "tre_mm")
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 4 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.slow
def test_the_picture_is_written(modules, tmp_path):
    pytest.importorskip("matplotlib")
    numbers = [tmp_path / f"{case}.json" for case in "abc"]
    for path in numbers:
        path.write_text(json.dumps({"rows": [row for row in rows() if row["case"] == path.stem]}), encoding="utf-8")
    modules.plot.main([str(tmp_path / "all.png"), *map(str, numbers)])
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert modules.plot.scatter(rows()[-1:], tmp_path / "none.png") == [] and not (tmp_path / "none.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["ants-quick", "ants-syn", "convexadam", "elastix", "greedy", "niftyreg-nmi", "simpleitk"])
def test_an_installed_tool_finds_the_truth(modules, tool, tmp_path):
    """PEERS_PYTHON is an interpreter that has the tools, PATH has their programs."""
    python = os.environ.get("PEERS_PYTHON", "")
    if not python:
        pytest.skip("PEERS_PYTHON is not set; a tool takes minutes")
    case = larger_case(tmp_path)
    found = run(modules, case, "--tools", tool, "--python", python)
    if found["problem"].startswith(modules.peers.MISSING):
        pytest.skip(found["problem"])
    if found["problem"].startswith("exit status -"):
        pytest.skip(f"the tool crashed: {found['problem']}")
    assert found["problem"] == "" and found["tre_mm"] < 0.4 * found["tre_before_mm"]
    assert found.get("inverse_p95_vox", 0) < 0.5


def larger_case(tmp_path: Path) -> Path:
    """Smooth random structure in an ellipsoid, in two contrasts, on oblique grids that are rotated and shifted."""
    from scipy.ndimage import gaussian_filter

    folder, shape = tmp_path / "cases" / "brain", (56, 60, 52)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=shape), 3)
    place = (np.moveaxis(np.indices(shape), 0, -1) - [28, 30, 26]) / [20, 23, 18]
    inside = (place**2).sum(-1) < 1
    image = np.where(inside, 2 + noise / noise.std(), -3).astype(np.float32)
    cos, sin = np.cos(0.3), np.sin(0.3)
    fixed = np.array([[2 * cos, -2 * sin, 0, -40], [2 * sin, 2 * cos, 0, 10], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]]
    turn[:3, 3] = 4, -5, 3
    save(folder / "fixed.nii.gz", image + 3, fixed)
    save(folder / "moving.nii.gz", np.where(inside, 8 - image, 0).astype(np.float32), turn @ fixed)
    save(folder / "mask.nii.gz", inside.astype(np.uint8), fixed)
    world = np.moveaxis(np.indices(shape), 0, -1) @ fixed[:3, :3].T + fixed[:3, 3]
    moved = world @ turn[:3, :3].T + turn[:3, 3]
    save(folder / "truth.nii.gz", ((moved - world) * [-1, -1, 1])[..., None, :].astype(np.float32), fixed, "vector")
    return folder
