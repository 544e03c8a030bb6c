# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What a file is, in words and as JSON."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import write_transform
from monai_locor.io.fields import write_affine
from monai_locor.io.grids import read_grid
from monai_locor.io.images import write_image
from monai_locor.quality import Verdict

from ..io.dicom_files import AXIAL, places, write_series
from .files import AFFINE, SHAPE, load, save


def test_an_image(run, folder):
    answer = run("info", folder / "moving.nii.gz")
    assert answer.code == 0
    assert "3-D image, 14x12x10 voxels of 2x2x3 mm, field of view 28x24x30 mm" in answer.out
    assert "orientation RAS (axes run to the right, anterior, superior); center at (13.0, 11.0, 13.5) mm RAS" in answer.out
    assert "voxels of type float32; values 1.017 to 2 (1 % below 1.18" in answer.out and "all finite" in answer.out


def test_numbers_for_machines(run, folder):
    data = load(folder / "moving.nii.gz").copy()
    data[0, 0, 0] = np.nan
    turned = np.array([[0, 0, -3.0, 5], [2, 0, 0, 6], [0, -2, 0, 7], [0, 0, 0, 1]])
    save(folder / "a.nii.gz", data, turned)
    found = run("info", folder / "a.nii.gz", "--json").json["files"][0]
    assert found["what"] == "image" and found["orientation"] == "AIL" and found["oblique_degrees"] == 0
    assert found["shape"] == list(SHAPE) and found["spacing_mm"] == [2, 2, 3] and found["not_finite"] == 1
    assert found["intensity"]["max"] == pytest.approx(np.nanmax(data)) and "labels" not in found


def test_oblique_and_sheared(run, tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0.2, 1, 0], [0, 0, 0, 1]])
    save(tmp_path / "a.nii", np.random.default_rng(0).random((4, 5, 6)).astype(np.float32), affine)
    out = run("info", tmp_path / "a.nii").out
    assert "oblique by" in out and "not at right angles" in out
    affine[2, 1] = 0
    save(tmp_path / "b.nii", np.ones((4, 5, 6), np.uint8), affine)
    assert "oblique by 17.2 degrees; " in run("info", tmp_path / "b.nii").out  # 0.3 rad


def test_label_maps_and_masks(run, folder):
    out = run("info", folder / "moving_labels.nii.gz").out
    assert "3-D label map" in out and "2 labels: -2, 300" in out
    save(folder / "mask.nii.gz", (load(folder / "moving_labels.nii.gz") > 0).astype(np.uint8))
    assert "3-D mask" in run("info", folder / "mask.nii.gz").out
    noise = np.random.default_rng(0).integers(0, 200, (9, 8, 7)).astype(np.int16)  # few values, but no patches
    save(folder / "noise.nii.gz", noise)
    assert "3-D image" in run("info", folder / "noise.nii.gz").out


def test_channels(run, folder):
    write_image(folder / "four.nii.gz", np_image(3), Grid((4, 5, 6), np.eye(4)))
    assert "3 channels or frames" in run("info", folder / "four.nii.gz").out
    assert "channels or" not in run("info", folder / "four.nii.gz", "--channel", "1").out


def np_image(channels):
    import torch

    return torch.rand(channels, 4, 5, 6)


def test_a_field(run, folder):
    out = run("info", folder / "field.nii.gz").out
    assert "3-D transform from fixed to moving points: displacement field\n" in out
    assert "displacement: mean 4 mm, 95 % below 4 mm, maximum 4 mm" in out and "folding 0 %" in out


def test_an_affine(run, folder):
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    matrix = np.array([[c, -s, 0, 1], [s, c, 0, 2], [0, 0, 1.1, 3], [0, 0, 0, 1]])
    write_affine(folder / "a.tfm", matrix)
    found = run("info", folder / "a.tfm", "--json").json["files"][0]
    assert found["affine"]["rotation_degrees"] == pytest.approx(30)
    assert found["affine"]["stretches"] == pytest.approx([1.1, 1, 1])
    assert found["affine"]["translation_mm"] == pytest.approx([1, 2, 3]) and "displacement_mm" not in found
    out = run("info", folder / "a.tfm", "-r", folder / "fixed.nii.gz").out
    assert "rotation 30.00 degrees, scaling 1.1 x 1 x 1, volume change 1.1" in out and "displacement" in out
    matrix[:, 0] *= -1
    write_affine(folder / "m.tfm", matrix)
    assert "reflection" in run("info", folder / "m.tfm").out


def test_points(run, folder):
    assert "2 points in 3-D, from (8.0 x 10.0 x 12.0) to (10.0 x 12.0 x 15.0) mm RAS" in run("info", folder / "fixed.csv").out


@pytest.mark.usefixtures("no_rivals")
def test_a_table_of_runs(run, refused, folder, monkeypatch):
    monkeypatch.chdir(folder)
    run("check", "fixed.nii.gz", "moving.nii.gz", "field.nii.gz", "-o", "one.json")
    (folder / "two").mkdir()
    shutil.copy("one.json", "two/run.json")
    answer = run("info", "one.json", "two", "--csv", "table.csv")
    assert answer.code == 0 and "2 registrations: " in answer.out and "table: table.csv" in answer.out
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["one", "two"] and rows[0] | {"pair": "two"} == rows[1]
    written = json.loads((folder / "one.json").read_text())
    assert float(rows[0]["jacobian.p50"]) == written["jacobian"]["p50"] and rows[0]["verdict"] == written["verdict"]["status"]
    assert run("info", "one.json").out.startswith("one.json: a check of a transform between fixed fixed.nii.gz, moving")
    assert "table.csv: already exists" in refused("info", "two", "--csv", "table.csv")
    assert "fixed.csv: cannot be read as JSON" in refused("info", "fixed.csv", "--csv", "table.csv", "--force")


def test_a_folder_of_register(run, folder):
    (folder / "field.nii.gz").rename(folder / "forward_field.nii.gz")
    (folder / "back.nii.gz").rename(folder / "inverse_field.nii.gz")
    verdict = Verdict("PASS", ()).to_dict()
    content = {"inputs": {"fixed": "a.nii", "moving": "b.nii"}, "seconds": 3, "verdict": verdict, "warnings": ["of the header"]}
    (folder / "run.json").write_text(json.dumps(content))
    out = run("info", folder).out
    assert "a registration of fixed a.nii, moving b.nii, 3 s" in out and "verdict: PASS, no problems found" in out
    assert "  warned: of the header" in out
    assert "displacement field, with its inverse" in out
    (folder / "run.json").write_text("broken")
    assert run("info", folder).code == 0


def test_what_ants_has_written_with_a_prefix(run, folder):
    (folder / "field.nii.gz").rename(folder / "s1_1Warp.nii.gz")
    assert "transform from fixed to" in run("info", folder / "s1_").out


def test_several_files(run, folder):
    found = run("info", folder / "fixed.nii.gz", folder / "fixed.csv", "--json").json["files"]
    assert [f["what"] for f in found] == ["image", "points"]


@pytest.mark.parametrize("name", ["none.nii.gz", "none.tfm", "none.csv", "none"])
def test_missing_files(refused, tmp_path, name):
    assert f"{tmp_path / name}: no such file" in refused("info", tmp_path / name)


@pytest.mark.parametrize("name", ["bad.nii.gz", "bad.tfm", "bad.csv", "bad.png", "bad"])
def test_files_that_are_nothing(refused, tmp_path, name):
    (tmp_path / name).write_text("nothing")
    assert str(tmp_path / name) in refused("info", tmp_path / name)


@pytest.mark.parametrize("name", ["a.itk", "xfm"])
def test_a_transform_of_any_name(run, folder, name):
    write_affine(folder / "a.tfm", np.eye(4))
    (folder / "a.tfm").rename(folder / name)
    assert run("info", folder / name, "--json").json["files"][0]["kind"] == "affine"


def test_an_x5_file(run, folder):
    pytest.importorskip("h5py")
    write_transform(folder / "a.x5", SpatialTransform.of_affine(np.diag([1.1, 1, 1, 1])))
    assert run("info", folder / "a.x5", "--json").json["files"][0]["kind"] == "affine"


@pytest.mark.parametrize("name", ["a.dcm", "a"])
@pytest.mark.parametrize("deformable", [False, True])
def test_a_registration_object_of_dicom(run, tmp_path, name, deformable):
    pytest.importorskip("pydicom")
    space = {"PatientID": "P1", "StudyInstanceUID": "1.2.8", "Modality": "MR"}
    spaces = {role: ({**space, "FrameOfReferenceUID": uid},) for role, uid in (("fixed", "1.2.7"), ("moving", "1.2.9"))}
    folders = [write_series(tmp_path / role, places(AXIAL, 4), AXIAL, volumes=each) for role, each in spaces.items()]
    transform = SpatialTransform.of_affine(np.array([[1.0, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    if deformable:
        grid = read_grid(folders[0])
        transform = SpatialTransform.of_field(np.ones((3, *grid.shape), np.float32), grid)
    write_transform(tmp_path / "a.dcm", transform, fixed=folders[0], moving=folders[1])
    (tmp_path / "a.dcm").rename(tmp_path / name)
    found = run("info", tmp_path / name, "--json").json["files"][0]
    assert found["what"] == "transform" and ("displacement" in found["kind"]) == deformable
    assert run("info", folders[0], "--json").json["files"][0]["what"] == "image"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_field_of_itk_is_hinted_at(run, tmp_path, suffix):
    grid, path, image = Grid(SHAPE, AFFINE), tmp_path / f"field{suffix}", tmp_path / f"image{suffix}"
    write_transform(path, SpatialTransform.of_field(np.ones((3, *SHAPE), np.float32), grid))
    answer = run("info", path)
    assert answer.code == 0 and "if this is a transform: it has 3 components per voxel; for a displacement field" in answer.out
    assert "transform from fixed to moving points" in run("info", path, "--from", "vector").out
    assert "if this" not in run("info", path, "--channel", "0").out
    write_image(image, np_image(1), Grid((4, 5, 6), np.eye(4)))
    assert "if this" not in run("info", image).out


CHILD = """
import sys
from monai_locor.cli import main
assert main(["info", *sys.argv[1:], "-q"]) == 0
print(*sorted({"torch", "monai", "itk", "SimpleITK"} & {*sys.modules}))
"""


def test_transforms_are_described_without_what_is_slow(folder):
    pytest.importorskip("h5py")
    grid = Grid(SHAPE, AFFINE)
    field = SpatialTransform.of_field(np.ones((3, *SHAPE), np.float32), grid)
    affine = SpatialTransform.of_affine(np.diag([1.1, 1, 1, 1]))
    for name in ("a.tfm", "a.mat", "a.lta", "a.xfm", "a.h5"):
        write_transform(folder / name, affine, fixed=grid, moving=grid)
    for name, kind in (("f.h5", None), ("f.nii.gz", None), ("l.nii.gz", "learn2reg"), ("n.nii.gz", "niftyreg-disp")):
        write_transform(folder / name, field.then(affine), format=kind, fixed=grid)
    names = [name for name in folder.iterdir() if name.name[:2] in ("a.", "f.", "l.", "n.")]
    command = [sys.executable, "-c", CHILD, "-r", folder / "fixed.nii.gz", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len(names) == 9 and done.returncode == 0 and done.stdout.split() == [], done


def test_what_the_header_says(run, tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4], image.header["toffset"] = 2500, 100
    image.header.set_intent("estimate", name="beta")
    nib.save(image, tmp_path / "a.nii")
    answer = run("info", tmp_path / "a.nii")
    assert "3 channels or frames; values" in answer.out
    assert "2500 msec between frames, the first at 100 msec; intent estimate, name 'beta'; all finite" in answer.out
    found = run("info", tmp_path / "a.nii", "--json").json["files"][0]
    assert found["time"] == {"step": 2500, "unit": "msec", "offset": 100} and found["intent"] == "estimate"


def test_a_slice_out_of_the_plane(run, tmp_path):
    save(
        tmp_path / "a.nii", np.random.default_rng(0).random((4, 5, 1)).astype(np.float32), np.diag([2, 3, 4, 1.0])[[2, 0, 1, 3]]
    )
    out = run("info", tmp_path / "a.nii").out
    assert "2-D image, 4x5 voxels of 2x3 mm" in out
    assert "orientation AS (axes run to the anterior, superior); center at (0.0, 3.0, 6.0) mm RAS" in out


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_without_torch(folder, tmp_path, suffix):
    pytest.importorskip("SimpleITK")  # ITK's own package may bring what it likes
    path = tmp_path / f"a{suffix}"
    write_image(path, np_image(1), Grid((4, 5, 6), np.eye(4)))
    code = f"import sys; from monai_locor.cli.main import main; code = main(['info', {str(path)!r}]); "
    code += "print(code, sorted({'torch', 'monai', 'itk'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("verdict", [{"reasons": [{"name": "x"}]}, {"reasons": 3}])
def test_a_damaged_record_is_named(refused, tmp_path, verdict):
    path = tmp_path / "run.json"
    affine = np.eye(4).tolist()
    values = {"format": "monai_locor run 1", "arguments": {}, "settings": {"transform": "affine"}, "affine": affine}
    path.write_text(json.dumps({**values, "verdict": verdict}))
    assert "run.json: is damaged" in refused("info", path)
    assert "run.json: is damaged" in refused("info", path, "--csv", tmp_path / "runs.csv")
