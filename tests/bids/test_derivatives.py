# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Derivative datasets: their files, sidecars and descriptions, and that nothing is overwritten."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
import pytest

from monai_locor import InputError, RegistrationConfig
from monai_locor.bids import files as files_module
from monai_locor.bids import write_derivatives
from monai_locor.bids.files import DerivedFile
from monai_locor.io import read_transform

from .small import GRID, SHIFT_MM, contents, points, write_dataset, write_result

T1, T2 = "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz"
XFM = "sub-01/anat/sub-01_from-T1w_to-T2w_mode-image_xfm"
BACK = "sub-01/anat/sub-01_from-T2w_to-T1w_mode-image_xfm"
WARPED = "sub-01/anat/sub-01_space-T2w_desc-registered_T1w"


@pytest.fixture
def raw(tmp_path):
    write_dataset(tmp_path / "raw", T1, T2, "sub-01/anat/sub-01_FLAIR.nii.gz")
    return tmp_path / "raw"


@pytest.fixture
def result(raw, tmp_path):
    write_result(tmp_path / "out", raw / T2, raw / T1)
    return tmp_path / "out"


def read(path: Path) -> dict:
    found: dict = json.loads(path.read_text())
    return found


def resolved(uri: str, dataset: Path) -> Path:
    """The file of a BIDS URI."""
    scheme, name, path = uri.split(":")
    assert scheme == "bids"
    root = dataset / read(dataset / "dataset_description.json")["DatasetLinks"][name] if name else dataset
    return root / path


@pytest.mark.parametrize("place", ["raw/derivatives/monai_locor", "elsewhere"])
@pytest.mark.parametrize("xfm", [".h5", ".x5", ".nii.gz"])
def test_files_and_sidecars(raw, result, tmp_path, place, xfm):
    dataset = tmp_path / place
    found = write_derivatives(result, dataset, xfm=xfm)
    assert found.folder == dataset and found.kept == 0
    names = {str(PurePosixPath(path.relative_to(dataset))) for path in found.written}
    assert names == {f"{XFM}{xfm}", f"{BACK}{xfm}", f"{WARPED}.nii.gz"}
    stored = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    about = {f"{name.removesuffix(xfm).removesuffix('.nii.gz')}.json" for name in names}
    assert stored == {*names, *about, "dataset_description.json", "README.md", ".bidsignore"}

    assert (dataset / f"{WARPED}.nii.gz").read_bytes() == (result / "warped.nii.gz").read_bytes()
    for name, sign in ((XFM, 1), (BACK, -1)):
        moved = read_transform(dataset / f"{name}{xfm}").points(points())
        np.testing.assert_allclose(moved, points() + sign * np.array(SHIFT_MM), atol=1e-4)

    sidecars = {name: read(dataset / name) for name in about}
    for sidecar in sidecars.values():
        assert all(resolved(uri, dataset).resolve().is_file() for uri in sidecar["Sources"])
        assert sidecar["Description"]
    warped = sidecars[f"{WARPED}.json"]
    assert [resolved(uri, dataset).resolve() for uri in warped["Sources"]] == [raw / T1, raw / T2, dataset / f"{XFM}{xfm}"]
    assert resolved(warped["SpatialReference"], dataset).resolve() == raw / T2 and warped["SkullStripped"] is False
    run, transform = read(result / "run.json"), sidecars[f"{XFM}.json"]
    assert transform["Settings"] == run["settings"] and transform["Seed"] == 3 and transform["Jacobian"] == run["jacobian"]
    assert resolved(transform["MovingImage"], dataset).resolve() == raw / T1


def test_description(raw, result, tmp_path):
    dataset = raw / "derivatives/monai_locor"
    write_derivatives(result, dataset)
    about = read(dataset / "dataset_description.json")
    version = read(result / "run.json")["versions"]["monai_locor"]
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"] == [{"Name": "monai_locor", "Version": version}]
    assert about["DatasetLinks"] == {"raw": "../.."} and about["SourceDatasets"] == [{"URL": raw.as_uri()}]
    assert (dataset / ".bidsignore").read_text() == "*_mode-image_*\n"


def test_several_source_datasets(raw, tmp_path):
    """A template and a published dataset have links of their own; what the user has added to the description stays."""
    template, other = tmp_path / "templates", tmp_path / "study 2"
    (fixed,) = write_dataset(template, "tpl-MNI152Lin/tpl-MNI152Lin_res-02_T1w.nii.gz")
    (moving,) = write_dataset(other, T1.replace("01", "7"), DatasetDOI="doi:10.1/x", DatasetType="derivative")
    dataset = tmp_path / "derivatives"
    write_result(tmp_path / "a", fixed, raw / T1)
    write_derivatives(tmp_path / "a", dataset)
    about = read(dataset / "dataset_description.json")
    (dataset / "dataset_description.json").write_text(json.dumps({**about, "License": "CC0"}))
    (dataset / ".bidsignore").write_text("mine\n*_mode-image_*\n")
    write_result(tmp_path / "b", fixed, moving)
    write_derivatives(tmp_path / "b", dataset)
    about = read(dataset / "dataset_description.json")
    assert about["License"] == "CC0" and len(about["GeneratedBy"]) == 1
    assert about["DatasetLinks"] == {"raw": "../raw", "template": "../templates", "study2": "../study%202"}
    assert about["SourceDatasets"][2] == {"DOI": "doi:10.1/x"}
    assert (dataset / ".bidsignore").read_text() == "mine\n*_mode-image_*\n"
    sidecar = read(dataset / "sub-7/anat/sub-7_space-MNI152Lin_res-02_desc-registered_T1w.json")
    assert sidecar["SpatialReference"] == "bids:template:tpl-MNI152Lin/tpl-MNI152Lin_res-02_T1w.nii.gz"
    assert sidecar["Resolution"] == "That of the fixed image"


def test_metadata_that_still_holds(raw, result, tmp_path):
    (raw / "T1w.json").write_text('{"EchoTime": 0.1, "Manufacturer": "A"}')
    (raw / "acq-b_T1w.json").write_text('{"Manufacturer": "B"}')  # of other images
    (raw / "sub-01/sub-01_T1w.json").write_text('{"EchoTime": 0.2}')
    (raw / T1.replace(".nii.gz", ".json")).write_text('{"SkullStripped": true, "SliceTiming": [0, 1]}')
    write_derivatives(result, tmp_path / "d")
    sidecar = read(tmp_path / f"d/{WARPED}.json")
    assert (sidecar["EchoTime"], sidecar["Manufacturer"], sidecar["SkullStripped"]) == (0.2, "A", True)
    assert "SliceTiming" not in sidecar


def test_other_outputs(raw, result, tmp_path):
    """Maps, the report, the other warped image and label maps, if they are there."""
    labels = write_dataset(tmp_path / "manual", "sub-01/anat/sub-01_desc-lesion_mask.nii.gz")[0]
    for name in ("jacobian", "error", "missing_moving", "warped_fixed", "labels_on_fixed"):
        (result / f"{name}.nii.gz").write_bytes(name.encode())
    (result / "report.html").write_text("<p>")
    carried = {"kind": "labels", "space": "moving", "input": str(labels), "sha256": "", "output": "/x/labels_on_fixed.nii.gz"}
    other = {**carried, "input": str(tmp_path / "unnamed.nii.gz")}
    (result / "run.json").write_text(json.dumps({**read(result / "run.json"), "carried": [carried, other]}))
    write_derivatives(result, tmp_path / "d")
    folder, stem = tmp_path / "d/sub-01/anat", "sub-01_from-T1w_to-T2w_mode-image"
    assert (folder / f"{stem}_jacobian.nii.gz").read_text() == "jacobian"
    assert (folder / f"{stem}_error.nii.gz").read_text() == "error" and read(folder / f"{stem}_error.json")["Units"] == "mm"
    assert (folder / f"{stem}_report.html").read_text() == "<p>"
    assert (folder / "sub-01_space-T1w_desc-registered_T2w.nii.gz").read_text() == "warped_fixed"
    assert read(folder / "sub-01_space-T1w_desc-registered_T2w.json")["Sources"][2] == f"bids::{BACK}.h5"
    assert (folder / "sub-01_from-T2w_to-T1w_mode-image_missing.nii.gz").read_text() == "missing_moving"
    assert (folder / "sub-01_space-T2w_desc-lesion_mask.nii.gz").read_text() == "labels_on_fixed"
    assert read(folder / "sub-01_space-T2w_desc-lesion_mask.json")["Sources"][0] == (
        "bids:raw2:sub-01/anat/sub-01_desc-lesion_mask.nii.gz"
    )


def test_several_images_of_a_side(raw, result, tmp_path):
    """The first one names the derivatives; all are sources of the transform."""
    run, flair = read(result / "run.json"), str(raw / "sub-01/anat/sub-01_FLAIR.nii.gz")
    run["arguments"]["moving"] = {"list": [run["arguments"]["moving"], {"path": flair}]}
    (result / "run.json").write_text(json.dumps(run))
    write_derivatives(result, tmp_path / "d")
    sources = read(tmp_path / f"d/{XFM}.json")["Sources"]
    assert [uri.rpartition("_")[2] for uri in sources] == ["T1w.nii.gz", "FLAIR.nii.gz", "T2w.nii.gz"]
    assert [uri.rpartition("_")[2] for uri in read(tmp_path / f"d/{WARPED}.json")["Sources"]] == [
        *("T1w.nii.gz", "T2w.nii.gz", "xfm.h5")
    ]


def test_an_affine_map_is_written_as_such(raw, tmp_path):
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT_MM
    write_result(tmp_path / "out", raw / T2, raw / T1, config=RegistrationConfig(transform="affine"), affine=matrix)
    write_derivatives(tmp_path / "out", tmp_path / "d")
    for name, sign in ((XFM, 1), (BACK, -1)):
        found = read_transform(tmp_path / f"d/{name}.h5")
        assert found.is_affine
        np.testing.assert_allclose(found.matrix[:3, 3], sign * np.array(SHIFT_MM), atol=1e-12)


def test_a_second_call_writes_nothing(raw, result, tmp_path):
    write_result(tmp_path / "flair", raw / "sub-01/anat/sub-01_FLAIR.nii.gz", raw / T1)
    first = write_derivatives([result, tmp_path / "flair"], tmp_path / "d")
    before = contents(tmp_path / "d")
    second = write_derivatives([tmp_path / "flair", result], tmp_path / "d")
    assert (len(first.written), first.kept, second.written, second.kept) == (6, 0, [], 6)
    assert contents(tmp_path / "d") == before
    (tmp_path / f"d/{XFM}.h5").unlink()
    assert [path.name for path in write_derivatives(result, tmp_path / "d").written] == [f"{Path(XFM).name}.h5"]


def test_other_registrations_are_not_overwritten(raw, result, tmp_path):
    (result / "jacobian.nii.gz").write_bytes(b"of the first")
    write_derivatives(result, tmp_path / "d")
    before = contents(tmp_path / "d")
    write_result(tmp_path / "again", raw / T2, raw / T1, seed=4)
    with pytest.raises(InputError, match=r"T1w_to-T2w_mode-image_\S+ is of another registration.*--force"):
        write_derivatives(tmp_path / "again", tmp_path / "d")
    assert contents(tmp_path / "d") == before
    write_derivatives(tmp_path / "again", tmp_path / "d", force=True)
    assert read(tmp_path / f"d/{XFM}.json")["Seed"] == 4
    assert not list((tmp_path / "d").rglob("*jacobian*"))  # which the second has not
    foreign = tmp_path / "d/sub-01/anat/sub-01_from-T1w_to-FLAIR_mode-image_xfm.h5"
    foreign.write_text("by hand")
    write_result(tmp_path / "flair", raw / "sub-01/anat/sub-01_FLAIR.nii.gz", raw / T1)
    with pytest.raises(InputError, match=r"to-FLAIR_mode-image_xfm.h5 is of another registration"):
        write_derivatives(tmp_path / "flair", tmp_path / "d")
    assert foreign.read_text() == "by hand"


def test_only_pairs_of_the_last_list_that_are_done(raw, tmp_path):
    """Others have results of an earlier run."""
    flair, out = raw / "sub-01/anat/sub-01_FLAIR.nii.gz", tmp_path / "out"
    for name, fixed in (("listed", raw / T2), ("removed", flair), ("failed", flair)):
        write_result(out / "pairs" / name, fixed, raw / T1)
    with pytest.raises(InputError, match=r"would both have sub-01/anat/"):  # no summary: all are used
        write_derivatives(out, tmp_path / "d")
    (out / "summary.csv").write_text("id,state,verdict,attempts\nlisted,done,PASS,1\nfailed,failed,,2\n")
    found = write_derivatives(out, tmp_path / "d")
    assert found.left_out == [out / "pairs/failed", out / "pairs/removed"]
    assert len(found.written) == 3 and not [path for path in found.written if "FLAIR" in path.name]
    (out / "summary.csv").write_text("id,state,verdict,attempts\nfailed,failed,,2\n")
    with pytest.raises(InputError, match="of pairs that are done; name an output folder"):
        write_derivatives(out, tmp_path / "d")


def test_other_folders_are_refused(raw, result, tmp_path):
    with pytest.raises(InputError, match=r"raw: holds another dataset \(Phantoms\)"):
        write_derivatives(result, raw)
    with pytest.raises(InputError, match=r"sub-01: is not empty and has no dataset_description.json"):
        write_derivatives(result, raw / "sub-01")
    with pytest.raises(InputError, match=r"raw/new: is among the images of the dataset .*use .*derivatives/monai_locor"):
        write_derivatives(result, raw / "new")
    assert not (raw / "new").exists()


def test_results_that_cannot_be_derivatives(raw, result, tmp_path):
    with pytest.raises(InputError, match=r"results .*empty: has no run.json"):
        write_derivatives(tmp_path / "empty", tmp_path / "d")
    with pytest.raises(InputError, match=r"xfm '.mat': transforms cannot be written with this ending"):
        write_derivatives(result, tmp_path / "d", xfm=".mat")
    run = read(result / "run.json")
    for change, message in (
        ({"interrupted": True}, "the registration was interrupted"),
        ({"arguments": {**run["arguments"], "fixed": {"name": "array"}}}, "fixed image was in memory"),
        (
            {"arguments": {**run["arguments"], "moving": {"path": "/x/t1.nii.gz"}}},
            "/x/t1.nii.gz: has no name of BIDS",
        ),
    ):
        (result / "run.json").write_text(json.dumps({**run, **change}))
        with pytest.raises(InputError, match=message):
            write_derivatives(result, tmp_path / "d")
    (result / "run.json").write_text(json.dumps(run))
    for name in ("warped", "forward_field", "inverse_field"):
        (result / f"{name}.nii.gz").unlink()
    with pytest.raises(InputError, match="has no output that is a derivative"):
        write_derivatives(result, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_an_error_leaves_no_part_of_a_file(raw, result, tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(files_module.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        write_derivatives(result, tmp_path / "d")
    left = {path.name for path in (tmp_path / "d").rglob("*") if path.is_file()} - {".bidsignore"}
    assert f"{Path(XFM).name}.h5" in left
    assert not any("desc-registered" in name or name.startswith(".") for name in left)
    monkeypatch.undo()
    assert len(write_derivatives(result, tmp_path / "d").written) == 1  # goes on where it stopped


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked there")
def test_two_processes_do_not_write_at_the_same_time(result, tmp_path):
    from monai_locor.io.paths import locked_folder

    with locked_folder(tmp_path / "d"), pytest.raises(InputError, match="another run is working in it"):
        write_derivatives(result, tmp_path / "d")


def test_the_images_lie_on_the_grid_of_their_reference(raw, result, tmp_path):
    write_derivatives(result, tmp_path / "d")
    found = nib.load(tmp_path / f"d/{WARPED}.nii.gz")
    assert found.shape == GRID.shape
    np.testing.assert_allclose(found.affine, GRID.affine, atol=1e-5)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 0.1, None, 3, "text", [1, math.nan], (1, 2), {"b": 1, "a": math.nan}], ids=str
)
def test_a_file_with_the_same_sidecar_is_written(tmp_path, value):
    def file(measure: object) -> DerivedFile:
        return DerivedFile(PurePosixPath("a.nii"), lambda path: path.write_text("x"), {"Measures": {"m": measure}, "Other": 1})

    assert not file(value).is_written(tmp_path)
    file(value).write(tmp_path)
    assert file(value).is_written(tmp_path) and not file("another").is_written(tmp_path)
    content = read(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert file(value).is_written(tmp_path)  # in any order
    (tmp_path / "a.nii").unlink()
    assert not file(value).is_written(tmp_path)
