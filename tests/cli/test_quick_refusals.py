# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A typo is told at once: refusals that need neither torch nor MONAI nor ITK, which take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ..io.dicom_files import CORONAL, SAGITTAL, slice_of
from ..io.dicom_files import save as save_dicom
from .files import save

CHILD = """
import builtins, contextlib, io, json, sys
SLOW = {"torch", "monai", "itk", "SimpleITK", "matplotlib", "scipy", "optuna", "sklearn", "ignite"}
known = builtins.__import__
def guarded(name, *args, **options):
    if name.partition(".")[0] in SLOW:
        raise RuntimeError(f"{name} is slow")  # which a command shows as an internal error
    return known(name, *args, **options)
builtins.__import__ = guarded
from monai_locor.cli import main
answers = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    answers.append([code, out.getvalue(), err.getvalue()])
assert not SLOW & {*sys.modules}
print(json.dumps(answers))
"""
REFUSALS = {
    # images
    "register none.nii moving.nii -o out": "fixed image none.nii: no such file",
    "register fixed.nii none.nii -o out": "moving image none.nii: no such file",
    "register fixed.nii moving.nii -o out --fixed-mask none.nii": "fixed mask none.nii: no such file",
    "register fixed.nii moving.nii -o out --moving-mask none.nii": "moving mask none.nii: no such file",
    "register fixed.nii moving.nii -o out --initial none.tfm": "transform none.tfm: no such file",
    "register fixed.nii moving.nii -o out --initial-basis none": "basis none: no such file",
    "register fixed.nii moving.nii -o out --landmarks none.csv none.csv": "fixed landmarks none.csv: no such file",
    "register fixed.nii moving.nii -o out --landmark-weight 2": "--landmark-weight 2: there are no landmarks",
    "register fixed.nii moving.nii -o out --landmarks fixed.nii moving.nii --landmark-weight -1": "--landmark-weight -1: "
    "landmark_weight must be a finite number, 0 or more",
    "register fixed.nii moving.nii -o out --labels none.nii none.nii": "fixed labels none.nii: no such file",
    "register fixed.nii moving.nii -o out --label-weight 2": "--label-weight 2: there are no labels; name them with --labels",
    "register fixed.nii moving.nii -o out --labels fixed.nii moving.nii --label-weight -1": "--label-weight -1: label_",
    "register fixed.nii moving.nii -o out --surfaces none.vtk none.vtk": "fixed surfaces none.vtk: no such file",
    "register fixed.nii moving.nii -o out --surface-weight 2": "--surface-weight 2: there are no surfaces; name them with",
    "register fixed.nii moving.nii -o out --surface-space ras": "--surface-space ras: there are no surfaces; name them with",
    "register fixed.nii moving.nii -o out --moving-labels none.nii": "moving labels none.nii: no such file",
    "register fixed.nii moving.nii -o out --fixed-points none.csv": "fixed points none.csv: no such file",
    "register -o out": "give FIXED and MOVING",
    "register --from none.json -o out": "none.json: no such file",
    "register --from settings.json -o out": "settings.json: is not the run.json of a registration",
    "register bad.nii moving.nii -o out": "fixed image bad.nii: cannot be read",
    "register fixed.nii moving.nii -o out --fixed-mask bad.nii.gz": "fixed mask bad.nii.gz: cannot be read",
    "register fixed.nii singular.nii -o out": "moving image singular.nii: has no usable geometry",
    "apply moving.nii -t id.tfm -r bad.nii -o o.nii": "reference image bad.nii: cannot be read",
    "register scouts fixed.nii -o out": "fixed image scouts: its 2 slices are not parallel",
    "register fixed.nii scouts/0.dcm/1.2 -o out": "no such file",
    "apply scouts -t id.tfm -r fixed.nii -o o.nii": "moving image scouts: its 2 slices are not parallel",
    # settings
    "register fixed.nii moving.nii -o out --preset fats": "preset must be one of default, fast",
    "register fixed.nii moving.nii -o out --similarity ssd": "similarity must be one of locor",
    "register fixed.nii moving.nii -o out --restrict-deformation 1x1x0.5": "'1x1x0.5': give 1 for each axis",
    "register fixed.nii moving.nii -o out --restrict-deformation 0x0x0": "leaves no axis to deform along; use transform affine",
    "register fixed.nii moving.nii -o out --restrict-deformation 1x0x0 --transform rigid": "no deformation with",
    "register fixed.nii moving.nii -o out --set strid=2": "unknown settings: strid",
    "register fixed.nii moving.nii -o out --set stages.9.factor=2": "there is no '9' among 6",
    "register fixed.nii moving.nii -o out --set similarity_options.bins=2": "unknown similarity_options: bins",
    "register fixed.nii moving.nii -o out --set stride=-2": "stride must be a positive number",
    "register fixed.nii moving.nii -o out --config none.json": "--config none.json: no such file",
    "register fixed.nii moving.nii -o out --config settings.json": "--config settings.json: unknown settings: strid",
    "register fixed.nii moving.nii -o out --thresholds settings.json": "strid",
    "register fixed.nii moving.nii -o out --device gpu": "--device gpu: 'gpu' is not a device",
    "register fixed.nii moving.nii -o out --seed x --threads 2": "--seed: must be an integer",
    # outputs
    "register fixed.nii moving.nii -o fixed.nii": "output folder fixed.nii: is a file",
    "register fixed.nii moving.nii -o there --outputs warped": "warped.nii.gz: already exists",
    "register fixed.nii moving.nii -o out --outputs warpt": "unknown output warpt",
    "register fixed.nii moving.nii -o out --threads 2 --outputs warpt": "unknown output warpt",
    "apply none.nii -t id.tfm -r fixed.nii -o o.nii": "moving image none.nii: no such file",
    "apply moving.nii -t none.tfm -r fixed.nii -o o.nii": "transform none.tfm: no such file",
    "apply moving.nii -t [none.mat,1] -r fixed.nii -o o.nii": "transform none.mat: no such file",
    "apply moving.nii -t id.tfm -r none.nii -o o.nii": "reference image none.nii: no such file",
    "apply moving.nii -t id.tfm -r fixed.nii -o o.jpg": "output file o.jpg: its name must end in .nii",
    "apply moving.nii -t id.tfm -r fixed.nii -o fixed.nii": "output file fixed.nii: is also an input",
    "apply moving.nii -t id.tfm -r fixed.nii -o there/warped.nii.gz": "already exists",
    "apply moving.nii -t id.tfm -r fixed.nii -o o.nii --channel x": "--channel x: give a number from 0",
    "apply moving.nii -t id.tfm -r fixed.nii -o o.nii -n cubic": "invalid choice: 'cubic'",
    "apply none.csv -t id.tfm -o o.csv": "points none.csv: no such file",
    "info none.nii": "none.nii: no such file",
    "info fixed.nii -r none.nii": "reference image none.nii: no such file",
    "info out/none.tfm": "none.tfm: no such file",
    "check fixed.nii moving.nii": "the following arguments are required: TRANSFORM",
    "check fixed.nii none.nii id.tfm": "moving image none.nii: no such file",
    "check fixed.nii moving.nii none.tfm": "transform none.tfm: no such file",
    "check fixed.nii moving.nii id.tfm --inverse-transform none.tfm": "transform none.tfm: no such file",
    "check fixed.nii moving.nii id.tfm --fixed-mask none.nii": "fixed mask none.nii: no such file",
    "check fixed.nii moving.nii id.tfm --from itkk": "--from itkk: not a transform format",
    "check fixed.nii moving.nii id.tfm --thresholds settings.json": "unknown thresholds: strid",
    "check fixed.nii moving.nii id.tfm -o id.tfm": "output file id.tfm: is also an input",
    "check fixed.nii moving.nii id.tfm --report there/warped.nii.gz": "already exists",
    "evaluate": "nothing to evaluate",
    "evaluate -t none.h5": "transform none.h5: no such file",
    "evaluate --fixed-labels fixed.nii": "must be given together",
    "evaluate --fixed-labels none.nii --moving-labels moving.nii": "fixed labels none.nii: no such file",
    "evaluate --fixed-points none.csv --moving-points none.csv": "fixed points none.csv: no such file",
    "evaluate -t id.tfm --labels a,b": "--labels a,b: give integers",
    "evaluate -t id.tfm --mask none.nii": "mask none.nii: no such file",
    "report none": "none: no such folder",
    "report there": "run.json: no such file",
    "convert": "give INPUT and an output",
    "convert none.tfm -o o.h5": "transform none.tfm: no such file",
    "convert id.tfm -o o.xyz": "transform o.xyz: its name ends in none of",
    "convert id.tfm -o o.h5 --to itkk": "there is no transform format 'itkk'",
    "convert id.tfm -o o.h5 --from itkk": "--from itkk: not a transform format; choose one of itk, nifti",
    "compose id.tfm id.tfm -o o.h5 --from itk --from itk --from itk": "3 formats for 2 transforms",
    "apply moving.nii -t bare.nii -r fixed.nii -o o.nii": "bare.nii: holds displacements and does not say which",
    "jacobian bare.nii": "learn2reg (voxels), ras-displacement",
    "info bare.mat": "bare.mat: holds a matrix and does not say which",
    "register fixed.nii moving.nii -o out --initial id.tfm --initial-from itkk": "--initial-from itkk: not a transform format",
    "compose id.tfm -o id.tfm": "output file id.tfm: is also an input",
    "apply moving.nii -t id.tfm -r fixed.nii -o o.nii --from itkk": "itkk",
    "info fixed.nii --from itkk": "itkk",
    "register fixed.nii moving.nii -o there --outputs composite,warped": "already exists",
    "apply moving.nii -t id.tfm -r fixed.nii -o o.nii --labels -n bspline": "would interpolate between label values",
    "convert id.tfm -o o.h5 --fixed none.nii": "fixed image none.nii: no such file",
    "convert none.csv -o o.fcsv": "points none.csv: no such file",
    "compose id.tfm none.tfm -o o.tfm": "transform none.tfm: no such file",
    "invert none.tfm -o o.tfm": "transform none.tfm: no such file",
    "invert id.tfm -o o.tfm -r none.nii": "reference image none.nii: no such file",
    "jacobian none.tfm": "transform none.tfm: no such file",
    "jacobian id.tfm --log": "--log: applies to the output image",
    "jacobian id.tfm -r fixed.nii -o o.png": "output file o.png: its name must end in .nii",
    "tune none -o out": "none: contains no case",
    "tune cases -o out --score tree": "score 'tree' is unknown",
    "tune cases b -o out": "has no case b; its cases are a",
    "tune cases -o out --sampler tpee": "sampler 'tpee' is unknown",
    "tune cases -o out --parameters strid": "unknown parameters: strid",
    "tune cases -o out --range bending_weight=2": "--range bending_weight=2: give NAME=LOW:HIGH",
    "tune cases -o out --preset fats": "preset must be one of",
    "cohort none.csv -o out": "pairs none.csv: cannot be read",
    "cohort settings.json -o out": "has no list testing, inference",
    "cohort there -o out": "for BIDS, name the fixed and the moving image",
    "cohort none.csv -o out --preset fats": "preset must be one of",
    "cohort none.csv -o out --outputs warpt": "unknown output warpt",
    "cohort none.csv -o out --scheduler tcp://a:1 --workers 2": "--workers 2: the cluster at tcp://a:1 has its own",
    "cohort none.csv -o out --device cuda:0,cuda:1": "one device for all workers",
    "cohort none.csv -o out --timeout 0": "--timeout: must be a positive number, got '0'",
    "cohort none.csv -o out --slurm-script fixed.nii": "--slurm-script fixed.nii: already exists",
    "derivatives none -o out": "has no run.json and no pairs/*/run.json",
    "derivatives there -o out --xfm tfm": "invalid choice: 'tfm'",
    "template none.csv -o out": "list none.csv: cannot be read",
    "template settings.json -o out": "no list testing, inference or validation",
    "longitudinal fixed.nii -o out": "the set has 1 images; give at least 2",
    "longitudinal fixed.nii moving.nii -o out --reference T1": "reference T1: no image has this contrast",
    "longitudinal fixed.nii moving.nii -o out --rounds 0": "--rounds: must be an integer, 1 or more, got '0'",
    "longitudinal fixed.nii moving.nii -o out --scheduler tcp://a:1 --workers 2": "--workers 2: the cluster at tcp://a:1",
    "series none.nii -o out": "series none.nii: no such file",
    "series fixed.nii -o out --mask none.nii": "mask none.nii: no such file",
    "series fixed.nii -o out --transform rigit": "transform must be one of",
    "demo --fixed fixed.nii": "belong together",
    "demo --fixed none.nii --moving moving.nii": "fixed image none.nii: no such file",
    "demo --preset fats": "invalid choice: 'fats'",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, list]:
    """Each refusal by a process that cannot import what is slow."""
    folder: Path = tmp_path_factory.mktemp("typos")
    for name in ("fixed.nii", "moving.nii"):
        save(folder / name, np.zeros((4, 4, 4), np.float32))
    singular = nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), None)
    singular.header["sform_code"] = 1  # all of whose numbers are zero
    nib.save(singular, folder / "singular.nii")
    for name in ("bad.nii", "bad.nii.gz"):
        (folder / name).write_text("nothing")
    save(folder / "bare.nii", np.ones((4, 4, 4, 3), np.float32))
    np.savetxt(folder / "bare.mat", np.eye(4))
    (folder / "settings.json").write_text('{"strid": 2}')
    (folder / "id.tfm").write_text("#Insight Transform File V1.0\n")
    (folder / "there").mkdir()
    (folder / "there" / "warped.nii.gz").write_bytes(b"")
    case = folder / "cases" / "a"
    case.mkdir(parents=True)
    for name in ("fixed", "moving", "truth"):
        (case / f"{name}.nii.gz").write_bytes(b"")
    for n, orientation in enumerate((SAGITTAL, CORONAL)):
        (folder / "scouts").mkdir(exist_ok=True)
        save_dicom(folder / "scouts" / f"{n}.dcm", slice_of((0, 0, 0), orientation))
    command = [sys.executable, "-c", CHILD]
    lines = json.dumps([line.split() for line in REFUSALS])
    found = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, cwd=folder)
    return dict(zip(REFUSALS, json.loads(found.stdout), strict=True))


def test_a_typo_is_refused_without_what_is_slow(answers):
    wrong = {
        line: answer
        for line, answer in answers.items()
        if answer[:2] != [2, ""] or answer[2].count("\n") != 1 or not answer[2].startswith("error: ")
    }
    assert not wrong
    assert {line: answer[2] for line, answer in answers.items() if REFUSALS[line] not in answer[2]} == {}
