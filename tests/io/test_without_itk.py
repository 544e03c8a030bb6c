# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Without ITK, everything but its own formats works, and these say what is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from monai_locor.io import read_affine, read_transform, write_affine

# `None` in `sys.modules` makes an import of that name fail; the installed version must be hidden too
HIDE = """
import importlib.metadata, json, sys
hidden = ("h5py", "itk", "itk-core", "matplotlib", "nilearn", "pydicom", "SimpleITK", "tensorboard", "ignite")
hidden += ("safetensors", "pandas")
sys.modules.update(dict.fromkeys(hidden))
find = importlib.metadata.Distribution.from_name
def from_name(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.Distribution.from_name = from_name
import logging, pathlib, numpy as np, torch
logging.disable()
from monai_locor import register
from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import *
from monai_locor.io.transforms import write_transform
folder = pathlib.Path(sys.argv[1])
grid = Grid((16, 14, 12), np.diag([2.0, -1.5, 1.0, 1.0]))
"""

WORKS = """
x = torch.stack(torch.meshgrid(*[torch.arange(n) / n for n in grid.shape], indexing="ij"))
image = (6 * x).sin().prod(0)
for name, values in (("fixed", image), ("moving", 1 - image.roll(1, 0))):
    write_image(folder / f"{name}.nii.gz", values, grid)
preset = {"stages": [{"factor": 1, "iterations": 1}, {"factor": 1, "iterations": 1, "spacing": 8}]}
names = [folder / f"{name}.nii.gz" for name in ("fixed", "moving")]
result = register(*names, preset=preset, progress=False, device="cpu")
paths = result.save(folder / "out")
again = register(*names, preset=preset, initial=folder / "out" / "affine.tfm", progress=False, device="cpu")
from monai_locor.registration.manifest import RunManifest
repeated = register(**RunManifest.load(folder / "out").arguments(), progress=False)
field, on = read_displacement_field(folder / "out" / "forward_field.nii.gz")
write_affine(folder / "a.mat", result.affine)
print(json.dumps({
    "files": sorted(path.name for path in paths),
    "affine": np.abs(read_affine(folder / "out" / "affine.tfm") - result.affine).max(),
    "initial": np.abs(again.initial - result.affine).max(),
    "field": float((field - result.forward_mm).abs().max()),
    "repeated": bool((repeated.forward_mm == result.forward_mm).all()),
    "mat": float(np.abs(read_affine(folder / "a.mat") - result.affine).max()),
    "transform": list(read_transform(folder / "out" / "affine.tfm").matrix.shape),
    "versions": sorted(result.summary()["versions"]),
}))
"""

FAILS = """
for name in ("in.mha", "in.nrrd", "in.png", "in.h5"):
    (folder / name).write_bytes(b"\\x89HDF\\r\\n\\x1a\\n")
(folder / "in.mha").write_text("NDims = 3\\nDimSize = 2 2 2\\nElementType = MET_UCHAR\\nElementDataFile = LOCAL\\n")
(folder / "series").mkdir()
(folder / "series" / "1.dcm").write_bytes(bytes(128) + b"DICM")
field = SpatialTransform.of_field(torch.ones(3, *grid.shape), grid)
calls = {
    "read .mha": lambda: read_image(folder / "in.mha"),
    "read .nrrd": lambda: read_image(folder / "in.nrrd"),
    "read .png": lambda: read_mask(folder / "in.png"),
    "read DICOM": lambda: read_image(folder / "series"),
    "register .mha": lambda: register(folder / "in.mha", torch.rand(1, 8, 8, 8), progress=False),
    "write .mha": lambda: write_image(folder / "out.mha", torch.rand(grid.shape), grid),
    "write .nrrd": lambda: write_image(folder / "out.nrrd", torch.rand(grid.shape), grid),
    "read .h5": lambda: read_transform(folder / "in.h5"),
    "write .h5": lambda: write_transform(folder / "out.h5", field, fixed=grid, moving=grid),
    "read field .nrrd": lambda: read_transform(folder / "in.nrrd"),
    "write field .nrrd": lambda: write_transform(folder / "field.nrrd", field, fixed=grid, moving=grid),
}
said = {}
for name, call in calls.items():
    try:
        call()
        said[name] = "nothing"
    except Exception as error:
        said[name] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """What both scripts print, run where ITK and the other optional packages are not installed."""
    command = [sys.executable, "-c", HIDE + WORKS + FAILS, str(tmp_path_factory.mktemp("without_itk"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    works, fails = map(json.loads, done.stdout.splitlines())
    return works, fails


@pytest.mark.slow  # another interpreter imports MONAI
def test_a_registration_is_read_run_saved_and_repeated(found):
    works = found[0]
    fields = ["error.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz"]
    assert works["files"] == ["affine.tfm", *fields, "run.json", "warped.nii.gz"]
    assert works["affine"] < 1e-12 and works["mat"] < 1e-12 and works["initial"] < 1e-12 and works["field"] < 1e-5
    assert works["repeated"] and works["transform"] == [4, 4]
    assert "itk" not in works["versions"] and "torch" in works["versions"]


@pytest.mark.slow
def test_formats_of_itk_say_what_is_missing(found):
    assert len(found[1]) == 11
    for name, message in found[1].items():
        assert message.startswith("InputError: ") and "pip install itk" in message and "\n" not in message, (name, message)


@pytest.mark.slow  # ITK takes its time to load
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("centered", [False, True])
def test_the_text_of_an_affine_means_what_it_means_to_itk(tmp_path, dims, centered):
    itk = pytest.importorskip("itk")
    rng = np.random.default_rng(dims)
    matrix = np.eye(dims + 1)
    matrix[:-1] += rng.normal(size=(dims, dims + 1))
    path = tmp_path / "a.tfm"
    write_affine(path, matrix)
    if centered:
        text = path.read_text()
        path.write_text(
            text[: text.index("FixedParameters")] + "FixedParameters: " + " ".join(["7.5", "-3", "2"][:dims]) + "\n"
        )
    (theirs,) = itk.transformread(str(path))
    signs = np.array([-1, -1, 1])[:dims]
    for point in rng.normal(scale=50, size=(5, dims)):
        expected = signs * np.array(theirs.TransformPoint((signs * point).tolist()))
        for found in (read_affine(path), read_transform(path).matrix):
            np.testing.assert_allclose(found[:-1, :-1] @ point + found[:-1, -1], expected, rtol=1e-12, atol=1e-10)
