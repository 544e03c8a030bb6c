# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The 3D Slicer extension, with a stand-in of Slicer whose functions take the parameters of its public scripting API."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest

from monai_locor.cli import main
from monai_locor.io.grids import read_grid
from monai_locor.io.transforms import read_transform

from ..forked import run_forked

ROOT = Path(__file__).resolve().parents[2] / "integrations" / "slicer"
MODULE, CLI = ROOT / "MonaiLocor" / "MonaiLocor.py", ROOT / "MonaiLocorCLI" / "MonaiLocorCLI.py"
API = json.loads(Path(__file__).with_name("slicer_api.json").read_text(encoding="utf-8"))
SHIFT = np.array([4.0, -2.0, 0.0])  # of the moving blob, RAS mm


class Node:
    """A node of the scene: a file and a name."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.description = Path(path), name, ""

    def GetName(self):
        return self.name

    def SetName(self, name):
        self.name = name

    def SetDescription(self, text):
        self.description = text


class Slicer(types.ModuleType):
    """`slicer` with the functions that the module uses; each is checked against the API's parameters when it is called."""

    def __init__(self, folder: Path) -> None:
        super().__init__("slicer")
        self.folder, self.layers, self.errors, self.installed = folder, {}, [], []
        self.app = types.SimpleNamespace(processEvents=lambda: None)
        self.mrmlScene = object()
        self.util = types.SimpleNamespace(**{name: self._checked(name) for name in API["util"]})

    def _checked(self, name):
        def call(*args, **kwargs):
            parameters = [
                inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for n in API["util"][name]
            ]
            inspect.Signature(parameters).bind(*args, **kwargs)
            return getattr(self, f"_{name}")(*args, **kwargs)

        return call

    def _tempDirectory(self):
        return str(self.folder)

    def _exportNode(self, node, filename, properties, world):
        assert world is True  # with the transforms that a node is under
        Path(filename).write_bytes(node.path.read_bytes())
        return True

    def _launchConsoleProcess(self, args, useStartupEnvironment):
        assert useStartupEnvironment is False
        return subprocess.Popen([sys.executable, *args[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _loadTransform(self, filename):
        return Node(filename, "transform")

    def _loadVolume(self, filename, properties):
        return Node(filename, "volume")

    def _loadMarkups(self, filename):
        return Node(filename, "points")

    def _setSliceViewerLayers(self, **layers):
        self.layers = layers

    def _errorDisplay(self, text):
        self.errors.append(text)

    def _pip_install(self, requirements):
        self.installed.append(requirements)

    def _confirmOkCancelDisplay(self, text):
        return True

    def _WaitCursor(self):
        return contextlib.nullcontext()


@pytest.fixture
def slicer(tmp_path):
    folder = tmp_path / "slicer"
    folder.mkdir()
    return Slicer(folder)


@pytest.fixture
def module(slicer, monkeypatch):
    """The names of the scripted module; `qt`, `ctk` and `vtk` accept everything."""
    bases = types.ModuleType("slicer.ScriptedLoadableModule")
    for end in ("", "Logic", "Test", "Widget"):
        setattr(
            bases,
            f"ScriptedLoadableModule{end}",
            type(f"Base{end}", (), {"layout": mock.MagicMock(), "setup": lambda self: None}),
        )
    slicer.qMRMLNodeComboBox = mock.MagicMock
    fakes = {"slicer": slicer, bases.__name__: bases, "qt": mock.MagicMock(), "ctk": mock.MagicMock(), "vtk": mock.MagicMock()}
    name = "monai_locor_in_slicer"
    made = types.ModuleType(name)
    for each, fake in (*fakes.items(), (name, made)):  # dataclasses look their module up
        monkeypatch.setitem(sys.modules, each, fake)  # one by one: libraries that a test loads stay, ITK cannot load twice
    exec(compile(MODULE.read_text(encoding="utf-8"), MODULE, "exec"), made.__dict__)
    return made


@pytest.fixture
def pair(tmp_path):
    """Two volumes with a blob, that of the moving one shifted, and points on the moving one."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    axes = np.stack(np.meshgrid(*[2.0 * np.arange(24)] * 3, indexing="ij"), -1)
    paths = []
    for name, shift in (("fixed", 0 * SHIFT), ("moving", SHIFT)):
        away = (axes - np.array([22.0, 24.0, 20.0]) - shift) / [6, 8, 10]
        values = np.exp(-0.5 * (away**2).sum(-1)) + 0.3 * np.exp(-2 * ((away - [1, 0.5, 0.5]) ** 2).sum(-1))
        paths.append(tmp_path / f"{name}.nii")
        nib.save(nib.Nifti1Image((1000 * values).astype(np.float32), affine), paths[-1])
    return Node(paths[0], "CT"), Node(paths[1], "MR")


def markups(path: Path, *points: np.ndarray) -> Node:
    controls = [{"id": str(k), "label": f"F-{k}", "position": list(map(float, p))} for k, p in enumerate(points, 1)]
    content = {"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": controls}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return Node(path, "landmarks")


def test_only_the_listed_api_is_used():
    tree = ast.parse(MODULE.read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    util = {name.split(".")[2] for name in used if re.fullmatch(r"slicer\.util\.\w+", name)}
    direct = {name.split(".")[1] for name in used if re.fullmatch(r"slicer\.\w+", name)}
    assert util == set(API["util"]) and direct <= set(API["slicer"])


@pytest.mark.slow
def test_a_registration_adds_transform_volume_and_points(module, slicer, pair, tmp_path):
    fixed, moving = pair
    point = np.array([22.0, 24.0, 20.0]) + SHIFT
    wanted = module.Registration(
        fixed, moving, preset="draft", transform="rigid", moving_points=markups(tmp_path / "m.json", point)
    )
    said = []
    made = module.MonaiLocorLogic().register(wanted, said.append)
    assert made.verdict in ("PASS", "WARN") and made.verdict in made.transform.description
    assert (made.verdict == "PASS") == (made.reasons == [])
    assert made.transform.name == "MR to CT" and made.warped.name == f"MR on CT ({made.verdict})" and made.report.is_file()
    assert slicer.layers == {"background": fixed, "foreground": made.warped, "foregroundOpacity": 0.5} and said
    mapped = read_transform(made.transform.path).points((point - SHIFT)[None])[0]  # fixed to moving
    np.testing.assert_allclose(mapped, point, atol=0.5)
    _check_with_itk(made.transform.path, point - SHIFT, point)
    carried = json.loads(made.points.path.read_text(encoding="utf-8"))["markups"][0]["controlPoints"][0]["position"]
    np.testing.assert_allclose(np.abs(carried), np.abs(point - SHIFT), atol=0.5)  # RAS or LPS, which the file says
    assert nib.load(made.warped.path).shape == (24, 24, 24)


def _check_with_itk(path: Path, start: np.ndarray, end: np.ndarray) -> None:
    """Slicer reads the file with ITK, in LPS."""
    import itk

    signs = np.array([-1.0, -1, 1])
    transform = itk.transformread(str(path))[0]
    np.testing.assert_allclose(np.array(transform.TransformPoint((start * signs).tolist())) * signs, end, atol=0.5)


@pytest.fixture
def in_this_process(slicer, monkeypatch, capfd):
    """The command line is called instead of started, which takes seconds; the slow tests start it."""

    def launch(args, useStartupEnvironment):
        assert args[1:3] == ["-m", "monai_locor"] and useStartupEnvironment is False
        code, (out, err) = main(args[3:]), capfd.readouterr()
        return types.SimpleNamespace(stdout=io.StringIO(out + err), wait=lambda: code)

    monkeypatch.setattr(slicer, "_launchConsoleProcess", launch)


def test_errors_are_those_of_the_package(module, slicer, pair, in_this_process):
    fixed, moving = pair
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), moving.path)
    with pytest.raises(RuntimeError, match=r"^error: .*moving"):
        module.MonaiLocorLogic().register(module.Registration(fixed, moving), lambda line: None)
    with pytest.raises(ValueError, match="two different volumes"):
        module.MonaiLocorLogic().register(module.Registration(fixed, fixed))


def test_panel(module, slicer, pair):
    """The panel passes on what is chosen, and shows the verdict or the error."""
    panel = module.MonaiLocorWidget()
    panel.setup()
    chosen = {"fixed": pair[0], "moving": pair[1], "fixed_mask": None, "moving_mask": None, "points": None}
    for name, node in chosen.items():
        getattr(panel, name).currentNode = lambda node=node: node
    panel.preset, panel.transform, panel.device = (
        types.SimpleNamespace(currentText=text) for text in ("fast", "affine", "automatic")
    )
    seen = []
    outcome = module.Outcome("WARN", ["Folding."], report=Path("report.html"))
    panel.logic = types.SimpleNamespace(
        is_installed=lambda: False,
        install=lambda: module.MonaiLocorLogic().install(),
        register=lambda wanted, say: seen.append(wanted) or outcome,
    )
    panel.on_register()
    assert seen == [module.Registration(*pair, preset="fast", transform="affine")] and slicer.installed == [module.PACKAGE]
    assert "WARN" in panel.verdict.text and "Folding." in panel.verdict.text and panel.report.enabled

    def fails(wanted, say):
        raise RuntimeError("error: fixed image: is empty")

    panel.logic.register, panel.logic.is_installed = fails, lambda: True
    panel.on_register()
    assert slicer.errors == ["error: fixed image: is empty"] and panel.button.enabled


def test_settings_exist_in_the_package(module):
    from monai_locor.registration import PRESETS

    assert set(module.PRESETS) <= set(PRESETS)
    assert [PRESETS["fast"].with_transform(name).transform for name in module.TRANSFORMS] == list(module.TRANSFORMS)


def test_description_of_the_command_line_module(capsys):
    cli = runpy.run_path(str(CLI))
    assert cli["main"](["--xml"]) == 0
    described = ElementTree.fromstring(capsys.readouterr().out)
    flags = {flag.text for flag in described.iter("longflag")}
    places = [described.find(f".//*[index='{k}']/name").text for k in (0, 1)]
    actions = cli["parser"]()._actions
    options = {text[2:] for action in actions for text in action.option_strings if text.startswith("--")} - {"help"}
    assert flags == options and places == [a.dest for a in actions if not a.option_strings]
    defaults = {e.find("name").text: e.find("default").text for e in described.iter("string-enumeration")}
    assert all(action.default == defaults[action.dest] for action in actions if action.dest in defaults)


@pytest.mark.slow
def test_command_line_module(pair, tmp_path, monkeypatch):
    cli, plain_run = runpy.run_path(str(CLI)), subprocess.run

    def run(command: list[str], **options: object) -> object:
        if command[1:3] != ["-m", "monai_locor"]:  # of a library, or the check of HDF5 files
            return plain_run(command, **options)
        assert command[0] == sys.executable
        return run_forked("monai_locor", command[3:], tmp_path)

    monkeypatch.setattr(subprocess, "run", run)
    volume, transform = tmp_path / "out.nrrd", tmp_path / "out.h5"
    words = ["--preset", "draft", "--transform", "rigid", "--outputVolume", volume, "--outputTransform", transform]
    assert cli["main"]([str(word) for word in (*words, *(node.path for node in pair))]) == 0
    start = np.array([22.0, 24.0, 20.0])
    np.testing.assert_allclose(read_transform(transform).points(start[None])[0], start + SHIFT, atol=0.5)
    assert read_grid(volume).shape == (24, 24, 24)
    assert cli["main"]([str(tmp_path / "no.nii"), str(pair[1].path)]) == 2
