# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the application does with two DICOM series, without the App SDK: check, register, judge, write."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_locor import InputError, RegistrationResult, __version__, register
from monai_locor.io.dicom.trees import files_by_series, series_source
from monai_locor.io.paths import write_json
from monai_locor.quality import Verdict
from monai_locor.registration.dicom_files import check_dicom_folder, write_dicom
from monai_locor.report import write_report

__all__ = ["ImageSeries", "Outcome", "Settings", "chosen_pair", "register_series"]

RELEASED = ("PASS", "WARN")
REPORT, MANIFEST = "report.html", "run.json"


@dataclass(frozen=True)
class Settings:
    """How to register, and with which verdicts the images and the transform are written.

    Raises:
        InputError: if FAIL or an unknown verdict is to be released.
    """

    preset: str = "default"
    transform: str = "deformable"
    release: Sequence[str] = RELEASED

    def __post_init__(self) -> None:
        wrong = [status for status in self.release if status not in RELEASED]
        if wrong:
            raise InputError(f"release {', '.join(wrong)}: images are released with {' or '.join(RELEASED)} only")


@dataclass(frozen=True)
class ImageSeries:
    """A series of the input: its UID and what a person knows it by."""

    uid: str
    modality: str = ""
    description: str = ""
    patient: str = ""

    def __str__(self) -> str:
        return f"{self.description or '(no description)'} ({self.modality}, {self.uid})"


@dataclass(frozen=True)
class Outcome:
    """The verdict, the text for the archive, and the DICOM files written, none if the images are withheld."""

    verdict: Verdict
    text: str
    files: Sequence[Path] = ()


def chosen_pair(selected: Mapping[str, Sequence[ImageSeries]]) -> tuple[ImageSeries, ImageSeries]:
    """The fixed and the moving series of those that fit the rules.

    Args:
        selected: series that fit the rule of ``"fixed"`` and of ``"moving"``; the fixed one is no candidate for the moving one.

    Raises:
        InputError: if a rule does not fit exactly one series, or the series belong to different patients.
    """
    fixed = _only(selected.get("fixed", ()), "fixed")
    moving = _only([series for series in selected.get("moving", ()) if series.uid != fixed.uid], "moving")
    if fixed.patient != moving.patient:
        raise InputError(
            f"the series belong to the patients {fixed.patient!r} and {moving.patient!r}; give those of one patient"
        )
    return fixed, moving


def _only(found: Sequence[ImageSeries], role: str) -> ImageSeries:
    each = {series.uid: series for series in found}
    if len(each) != 1:
        listed = ": " + ", ".join(map(str, each.values())) if each else ""
        raise InputError(
            f"the rule of the {role} series fits {len(each)} series{listed}; change selection/{role} in app.yaml so that it "
            "fits one, for instance with SeriesDescription"
        )
    return next(iter(each.values()))


def register_series(folder: Path, out: Path, pair: tuple[ImageSeries, ImageSeries], settings: Settings) -> Outcome:
    """Register two series, and write the outputs that the verdict allows.

    ``report.html`` and ``run.json`` are always written; ``registration.dcm`` and ``warped/`` only with a verdict to release.

    Args:
        folder: folder of the input; the series may lie anywhere below it.
        out: output folder, without outputs of an earlier run.
        pair: the fixed and the moving series.

    Raises:
        InputError: if an image cannot be read or registered, or the output folder cannot be used; before the registration.
    """
    _check(out)
    found = files_by_series(folder)
    with tempfile.TemporaryDirectory() as scratch:
        fixed, moving = (series_source(series.uid, found[series.uid], Path(scratch)) for series in pair)
        result = register(fixed, moving, preset=settings.preset, transform=settings.transform, progress=False)
        assert result.verdict is not None
        write_json(out / MANIFEST, result.summary())
        write_report(out / REPORT, result, title=f"{pair[1].description} to {pair[0].description}")
        files = write_dicom(result, out, fixed, moving) if result.verdict.status in settings.release else []
    return Outcome(result.verdict, _text(result, pair, bool(files)), files)


def _check(out: Path) -> None:
    """Refuse a folder with outputs of an earlier run, which could be taken for those of this one."""
    check_dicom_folder(out)
    there = [name for name in (REPORT, MANIFEST) if (out / name).exists()]
    if there:
        raise InputError(f"output folder {out}: holds {' and '.join(there)} of an earlier run; name an empty folder")


def _text(result: RegistrationResult, pair: tuple[ImageSeries, ImageSeries], released: bool) -> str:
    """What the archive gets to know about the registration."""
    verdict = result.verdict
    assert verdict is not None
    reasons = [f"- {reason.status}: {reason.text}" for reason in verdict.reasons if reason.status != "PASS"]
    return "\n".join(
        [
            f"Image registration: {verdict.status}",
            f"Fixed series: {pair[0]}",
            f"Moving series: {pair[1]}",
            *(reasons or ["No problems found."]),
            "The registered series and the transform were stored."
            if released
            else "The registered series and the transform were withheld.",
            f"monai-locor {__version__}. Computed, not reviewed by a person.",
        ]
    )
