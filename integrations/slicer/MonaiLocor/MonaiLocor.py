# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""3D Slicer module: deformable registration of two volumes with monai-locor, which it installs into Slicer's Python.

The registration runs as a process of its own (``python -m monai_locor``), so that Slicer stays usable, and a crash or a lack of
memory does not end Slicer.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

PACKAGE = "monai-locor[plot]"
PRESETS = ("default", "fast", "draft")
TRANSFORMS = ("deformable", "affine", "similarity", "rigid")
OUTPUTS = "warped,composite,report"
VERDICT_COLORS = {"PASS": "#1b7837", "WARN": "#8a5a00", "FAIL": "#b2182b"}


class MonaiLocor(ScriptedLoadableModule):
    """Description of the module for Slicer's module list."""

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        parent.title = "MONAI Locor Registration"
        parent.categories = ["Registration"]
        parent.dependencies = []
        parent.contributors = ["The monai_locor developers"]
        parent.helpText = (
            "Deformable registration of two volumes of different modality (MR and CT, T1 and T2, PET and MR). The transform "
            "and the registered volume are added to the scene, with a verdict (PASS, WARN, FAIL) and its reasons."
        )
        parent.acknowledgementText = (
            "The measure is that of Honkamaa and Marttinen, arXiv:2503.05335. Please cite it when you use this module."
        )


@dataclass
class Registration:
    """What to register.

    Attributes:
        fixed, moving: volume nodes.
        preset: schedule, one of ``PRESETS``.
        transform: kind of transform, one of ``TRANSFORMS``.
        fixed_mask, moving_mask: label map nodes, or None.
        moving_points: point list node in the space of the moving volume that is carried to the fixed one, or None.
        device: ``cpu``, ``cuda`` ...; empty for the choice of the package.
    """

    fixed: Any
    moving: Any
    preset: str = "default"
    transform: str = "deformable"
    fixed_mask: Any = None
    moving_mask: Any = None
    moving_points: Any = None
    device: str = ""


@dataclass
class Outcome:
    """What a registration adds to the scene.

    Attributes:
        verdict: PASS, WARN or FAIL.
        reasons: findings of the checks that do not pass.
        transform, warped, points: nodes; points are None unless there were any to carry.
        report: HTML file.
    """

    verdict: str
    reasons: list[str] = field(default_factory=list)
    transform: Any = None
    warped: Any = None
    points: Any = None
    report: Path | None = None


class MonaiLocorLogic(ScriptedLoadableModuleLogic):
    """Runs the registration; independent of the widget, for scripts."""

    def is_installed(self) -> bool:
        """Return whether the package is installed in Slicer's Python."""
        return importlib.util.find_spec("monai_locor") is not None

    def install(self) -> None:
        """Install the package with pip (about 2 GB with PyTorch)."""
        slicer.util.pip_install(PACKAGE)

    def register(self, wanted: Registration, say: Callable[[str], None] = print) -> Outcome:
        """Register two volumes and add the results to the scene.

        Args:
            wanted: volumes and settings.
            say: receives the lines that the process prints.

        Raises:
            ValueError: if volumes are missing.
            RuntimeError: if the registration fails; the message is that of the package.
        """
        if wanted.fixed is None or wanted.moving is None or wanted.fixed is wanted.moving:
            raise ValueError("Choose two different volumes, a fixed and a moving one.")
        folder = Path(slicer.util.tempDirectory())
        lines: list[str] = []

        def heard(line: str) -> None:
            lines.append(line)
            say(line)

        code = self._run(self.arguments(wanted, folder), heard)
        record = folder / "out" / "run.json"
        if code not in (0, 1) or not record.is_file():  # 1: the verdict is FAIL
            errors = [line for line in lines if line.startswith("error:")]
            raise RuntimeError(errors[-1] if errors else f"The registration ended with code {code}; see the log.")
        return self._load(wanted, folder, json.loads(record.read_text(encoding="utf-8")))

    def arguments(self, wanted: Registration, folder: Path) -> list[str]:
        """Write the inputs into a folder; return the command line, without the interpreter."""
        inputs = {"fixed": wanted.fixed, "moving": wanted.moving}
        words = [
            "-m",
            "monai_locor",
            "register",
            *(self._export(node, folder / f"{name}.nii") for name, node in inputs.items()),
        ]
        words += ["-o", str(folder / "out"), "--preset", wanted.preset, "--transform", wanted.transform, "--outputs", OUTPUTS]
        for option, node in (("--fixed-mask", wanted.fixed_mask), ("--moving-mask", wanted.moving_mask)):
            if node is not None:
                words += [option, self._export(node, folder / f"{option[2:]}.nii")]
        if wanted.moving_points is not None:
            words += ["--moving-points", self._export(wanted.moving_points, folder / "points.mrk.json")]
        return words + (["--device", wanted.device] if wanted.device else [])

    def _export(self, node: Any, path: Path) -> str:
        """Write a node in world coordinates, transforms that it is under included."""
        if not slicer.util.exportNode(node, str(path), {}, True):
            raise RuntimeError(f"{node.GetName()} could not be written to {path}.")
        return str(path)

    def _run(self, words: list[str], heard: Callable[[str], None]) -> int:
        python = shutil.which("PythonSlicer") or sys.executable
        process = slicer.util.launchConsoleProcess([python, *words], useStartupEnvironment=False)
        for line in iter(process.stdout.readline, ""):
            for part in line.rstrip().split("\r"):  # progress bars return to the start of their line
                if part:
                    heard(part)
            slicer.app.processEvents()
        return process.wait()

    def _load(self, wanted: Registration, folder: Path, record: dict[str, Any]) -> Outcome:
        verdict, out = record["verdict"], folder / "out"
        reasons = [f"{each['check']}: {each['text']}." for each in verdict["reasons"] if each["status"] in ("WARN", "FAIL")]
        made = Outcome(verdict["status"], reasons, report=out / "report.html")
        made.transform = slicer.util.loadTransform(str(self._transform_file(out)))
        made.transform.SetName(f"{wanted.moving.GetName()} to {wanted.fixed.GetName()}")
        made.transform.SetDescription(f"monai-locor: {made.verdict}. {' '.join(made.reasons)}")
        made.warped = slicer.util.loadVolume(str(out / "warped.nii.gz"), {"show": False})
        made.warped.SetName(f"{wanted.moving.GetName()} on {wanted.fixed.GetName()} ({made.verdict})")
        if wanted.moving_points is not None:
            made.points = slicer.util.loadMarkups(str(out / "points_on_fixed.mrk.json"))
            made.points.SetName(f"{wanted.moving_points.GetName()} on {wanted.fixed.GetName()}")
        slicer.util.setSliceViewerLayers(background=wanted.fixed, foreground=made.warped, foregroundOpacity=0.5)
        return made

    @staticmethod
    def _transform_file(out: Path) -> Path:
        """The composite transform from fixed to moving points, with which Slicer resamples the moving volume."""
        return out / "transform.h5"


class MonaiLocorWidget(ScriptedLoadableModuleWidget):
    """The panel of the module."""

    def setup(self) -> None:
        """Build the panel."""
        super().setup()
        self.logic = MonaiLocorLogic()
        inputs, settings = self._box("Volumes"), self._box("Settings")
        volumes, labels, points = ["vtkMRMLScalarVolumeNode"], ["vtkMRMLLabelMapVolumeNode"], ["vtkMRMLMarkupsFiducialNode"]
        self.fixed = self._selector(inputs, "Fixed volume:", volumes, "stays as it is")
        self.moving = self._selector(inputs, "Moving volume:", volumes, "is brought onto the fixed one; any modality")
        self.fixed_mask = self._selector(inputs, "Fixed mask:", labels, "part of the fixed volume that counts", optional=True)
        self.moving_mask = self._selector(
            inputs, "Moving mask:", labels, "part of the moving volume that counts", optional=True
        )
        self.points = self._selector(inputs, "Points on moving:", points, "are carried to the fixed volume", optional=True)
        self.preset = self._choices(settings, "Preset:", PRESETS, "default is the most accurate, draft the fastest")
        self.transform = self._choices(settings, "Transform:", TRANSFORMS, "degrees of freedom")
        self.device = self._choices(settings, "Device:", ("automatic", "cpu", "cuda"), "automatic takes a GPU if there is one")
        self.button = qt.QPushButton("Register")
        self.button.toolTip = "Runs in the background; the result is added to the scene"
        self.button.connect("clicked(bool)", self.on_register)
        self.verdict = qt.QLabel()
        self.verdict.wordWrap = True
        self.report = qt.QPushButton("Open the report")
        self.report.enabled = False
        self.report.connect("clicked(bool)", self.on_report)
        self.log = qt.QPlainTextEdit()
        self.log.readOnly = True
        for widget in (self.button, self.verdict, self.report, self.log):
            self.layout.addWidget(widget)
        self.layout.addStretch(1)

    def _box(self, title: str) -> Any:
        box = ctk.ctkCollapsibleButton()
        box.text = title
        self.layout.addWidget(box)
        return qt.QFormLayout(box)

    def _selector(self, form: Any, label: str, types: list[str], tip: str, optional: bool = False) -> Any:
        chosen = slicer.qMRMLNodeComboBox()
        chosen.nodeTypes = types
        chosen.addEnabled = chosen.removeEnabled = False
        chosen.noneEnabled = optional
        chosen.setMRMLScene(slicer.mrmlScene)
        chosen.setToolTip(tip)
        form.addRow(label, chosen)
        return chosen

    def _choices(self, form: Any, label: str, names: tuple[str, ...], tip: str) -> Any:
        chosen = qt.QComboBox()
        chosen.addItems(list(names))
        chosen.setToolTip(tip)
        form.addRow(label, chosen)
        return chosen

    def on_register(self) -> None:
        """Install the package if it is missing, register, and show the verdict."""
        if not self.logic.is_installed():
            if not slicer.util.confirmOkCancelDisplay(f"The Python package {PACKAGE} is installed first (about 2 GB)."):
                return
            with slicer.util.WaitCursor():
                self.logic.install()
        self.log.clear()
        self.button.enabled = False
        try:
            self._show(self.logic.register(self._wanted(), self.log.appendPlainText))
        except (RuntimeError, ValueError) as error:
            self.verdict.text = str(error)
            slicer.util.errorDisplay(str(error))
        finally:
            self.button.enabled = True

    def _wanted(self) -> Registration:
        device = self.device.currentText
        return Registration(
            fixed=self.fixed.currentNode(),
            moving=self.moving.currentNode(),
            preset=self.preset.currentText,
            transform=self.transform.currentText,
            fixed_mask=self.fixed_mask.currentNode(),
            moving_mask=self.moving_mask.currentNode(),
            moving_points=self.points.currentNode(),
            device="" if device == "automatic" else device,
        )

    def _show(self, made: Outcome) -> None:
        self.outcome = made
        color = VERDICT_COLORS.get(made.verdict, "black")
        self.verdict.text = f"<b style='color:{color}'>{made.verdict}</b> {' '.join(made.reasons)}"
        self.report.enabled = made.report is not None

    def on_report(self) -> None:
        """Open the report in the browser."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.outcome.report)))


class MonaiLocorTest(ScriptedLoadableModuleTest):
    """Registers a small made volume with a shifted copy of itself, in Slicer."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:  # noqa: N802 -- Slicer's name
        """Run all tests."""
        self.setUp()
        self.test_shift()

    def test_shift(self) -> None:
        """The point at the center of a blob is mapped to the center of the shifted blob, within a millimeter."""
        fixed, moving = self._blob("fixed", (32, 32, 32)), self._blob("moving", (35, 32, 32))
        made = MonaiLocorLogic().register(Registration(fixed, moving, preset="draft", transform="rigid"))
        start, end = [32.0, 32.0, 32.0], [0.0, 0.0, 0.0]
        made.transform.GetTransformFromParent().TransformPoint(start, end)  # from fixed to moving points
        assert max(abs(end[0] - 35), abs(end[1] - 32), abs(end[2] - 32)) < 1.0

    @staticmethod
    def _blob(name: str, center: tuple[int, int, int]) -> Any:
        source = vtk.vtkImageGaussianSource()
        source.SetWholeExtent(0, 63, 0, 63, 0, 63)
        source.SetCenter(*center)
        source.SetStandardDeviation(8)
        source.SetMaximum(1000)
        source.Update()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        node.SetAndObserveImageData(source.GetOutput())
        return node
