# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The BIDS validator finds no error in derivative datasets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_locor.bids import write_derivatives

from .small import write_dataset, write_result

PROGRAM = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
TOLERATED = {"TOO_FEW_AUTHORS"}  # who they are is not known here
PET = {  # what BIDS requires of a PET image
    **dict.fromkeys(("Manufacturer", "ManufacturersModelName", "TracerName", "TracerRadionuclide", "ReconMethodName"), "A"),
    **{
        "Units": "Bq/mL",
        "InjectedRadioactivityUnits": "MBq",
        "InjectedMassUnits": "ug",
        "SpecificRadioactivityUnits": "MBq/ug",
    },
    **{"InjectedRadioactivity": 400, "InjectedMass": 5, "SpecificRadioactivity": 80, "ModeOfAdministration": "bolus"},
    **{"TimeZero": "10:00:00", "ScanStart": 0, "InjectionStart": 0, "FrameTimesStart": [0], "FrameDuration": [300]},
    **{"AcquisitionMode": "list mode", "ImageDecayCorrected": True, "ImageDecayCorrectionTime": 0},
    **{"ReconMethodParameterLabels": ["none"], "ReconFilterType": "none", "AttenuationCorrection": "CT"},
}

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs bids-validator-deno")


def issues(dataset: Path) -> set[tuple[str, str]]:
    """Severity and code of what the validator finds."""
    assert PROGRAM is not None
    text = subprocess.run([PROGRAM, str(dataset), "--format", "json"], capture_output=True, text=True, check=False).stdout
    return {(issue["severity"], issue["code"]) for issue in json.loads(text)["issues"]["issues"]}


@pytest.fixture
def dataset(tmp_path):
    """Derivatives of several datatypes and sessions, with all kinds of files."""
    t1, t2, late, pet = write_dataset(
        tmp_path / "raw",
        "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_acq-hi_T2w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-01/ses-1/pet/sub-01_ses-1_trc-FDG_pet.nii.gz",
    )
    pet.with_name("sub-01_ses-1_trc-FDG_pet.json").write_text(json.dumps(PET))
    (template,) = write_dataset(tmp_path / "templates", "tpl-MNI152NLin6Asym_res-02_T1w.nii.gz")
    for name, fixed, moving in (("a", t2, t1), ("b", t1, late), ("c", t1, pet), ("d", template, t1)):
        write_result(tmp_path / "out" / name, fixed, moving)
        shutil.copy(tmp_path / "out" / name / "warped.nii.gz", tmp_path / "out" / name / "warped_fixed.nii.gz")
        shutil.copy(tmp_path / "out" / name / "warped.nii.gz", tmp_path / "out" / name / "jacobian.nii.gz")
        (tmp_path / "out" / name / "report.html").write_text("<p>")
    place = tmp_path / "raw/derivatives/monai_locor"
    write_derivatives([tmp_path / "out" / name for name in "abcd"], place)
    return place


def test_no_errors(dataset):
    assert {code for _, code in issues(dataset)} <= TOLERATED


def test_the_validator_would_find_errors(dataset):
    """Names that it does not know, and what sidecars must have."""
    (dataset / ".bidsignore").write_text("")
    assert ("error", "NOT_INCLUDED") in issues(dataset)
    (sidecar,) = dataset.rglob("*space-acqhiT2w_desc-registered_T1w.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "SpatialReference": 3}))
    assert ("error", "JSON_SCHEMA_VALIDATION_ERROR") in issues(dataset)
