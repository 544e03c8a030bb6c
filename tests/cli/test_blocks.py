# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register --blocks``: what is refused before it starts, and a complete run on Dask."""

import json
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest

from monai_locor.cli import main
from monai_locor.geometry import Grid
from monai_locor.io.nifti import save_nifti
from tests.blockwise.small import SHORT, write_pair

has_zarr = pytest.mark.skipif(find_spec("zarr") is None, reason="needs zarr")


@pytest.fixture
def files(tmp_path):
    for name in ("f.nii", "m.nii", "m.nii.gz"):
        save_nifti(tmp_path / name, np.ones((4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    return tmp_path


@has_zarr
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blocks", "auto", "--outputs", "all"], "--outputs: is not possible with --blocks"),
        (["--blocks", "auto", "--moving-labels", "m.nii"], "--moving-labels: is not possible"),
        (["--blocks", "auto", "--landmarks", "none.csv", "m.nii"], "fixed landmarks none.csv: no such file"),
        (["--blocks", "auto", "--labels", "m.nii", "none.nii"], "none.nii: no such file"),
        (["--blocks", "auto", "--initial-basis", "none"], "none: no such file"),
        (["--blocks", "auto", "--thresholds", "none.json"], "--thresholds none.json: no such file"),
        (["--blocks", "auto", "--surfaces", "m.nii", "m.nii"], "--surfaces: is not possible"),
        (["--blocks", "auto", "--label-weight", "2"], "--label-weight 2: there are no labels; name them with --labels"),
        (["--blocks", "auto", "--transform", "rigid"], "transform 'rigid': in blocks only 'deformable'"),
        (["--blocks", "auto", "--missing", "map"], "missing 'map': in blocks only 'never'"),
        (["--blocks", "auto", "--device", "cuda:0,cuda:1"], "with --blocks, one device"),
        (["--blocks", "auto", "--scheduler", "tcp://a:1", "--workers", "2"], "--workers 2: the cluster at tcp://a:1"),
        (["--blocks", "8"], "must be an integer, 32 or more"),
        (["--workers", "2"], "--workers 2: is for registration in blocks; add --blocks"),
        (["--blocks", "auto", "--moving-channel", "1"], "has no channel 1"),
    ],
)
def test_what_blocks_do_not_allow_is_refused_at_once(files, words, message, capsys):
    words = [str(files / word) if word.endswith(".nii") else word for word in words]
    assert main(["register", str(files / "f.nii"), str(files / "m.nii"), "-o", str(files / "out"), *words]) == 2
    assert message in capsys.readouterr().err and not (files / "out").exists()


@has_zarr
def test_a_compressed_file_is_refused_with_the_remedy(files, capsys):
    assert main(["register", str(files / "f.nii"), str(files / "m.nii.gz"), "-o", str(files / "out"), "--blocks", "auto"]) == 2
    assert "give OME-Zarr or an uncompressed NIfTI file (.nii)" in capsys.readouterr().err


@has_zarr
@pytest.mark.slow
def test_a_pair_is_registered_on_dask(tmp_path, capsys):
    grid, _ = write_pair(tmp_path, (24, 16, 16), 4.0)
    (tmp_path / "settings.json").write_text(json.dumps(SHORT.to_dict()))
    words = ["register", str(tmp_path / "fixed.nii"), str(tmp_path / "moving.nii"), "-o", str(tmp_path / "out"), "--json"]
    words += ["--blocks", "48", "--config", str(tmp_path / "settings.json"), "--threads", "1"]
    (tmp_path / "limits.json").write_text('{"valid_voxels": [1e9, 1e8]}')
    words += ["--thresholds", str(tmp_path / "limits.json")]
    (tmp_path / "points.csv").write_text("x,y,z\n0,1,2\n-4,8,-6\n")
    labels = np.zeros((24, 16, 16), np.int16)
    labels[8:14, 6:11, 5:12] = 3
    save_nifti(tmp_path / "labels.nii.gz", labels, grid)
    for option, name in (("--landmarks", "points.csv"), ("--labels", "labels.nii.gz")):
        words += [option, *[str(tmp_path / name)] * 2]
    code = main(words)
    answer = json.loads(capsys.readouterr().out)
    assert (
        code == 1
        and answer["verdict"]["status"] == "FAIL"
        and answer["tiles"]["count"] == 2
        and answer["jacobian"]["folding_voxels"] == 0
    )
    assert answer["landmarks_mm"]["count"] == 2 and answer["label_dice"]["labels"] == [3]
    names = {"forward_field.ome.zarr", "inverse_field.ome.zarr", "warped.ome.zarr", "affine.tfm", "run.json", "report.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert main(words) == 2
    assert "already has" in capsys.readouterr().err


@has_zarr
def test_other_commands_read_ome_zarr(tmp_path, capsys):
    from monai_locor.io import write_affine
    from monai_locor.io.ome_zarr import write_ome_zarr

    grid = Grid((6, 5, 4), np.diag([-0.002, -0.002, 0.004, 1.0]))
    values = np.arange(120, dtype=np.uint16).reshape(1, 6, 5, 4)
    write_ome_zarr(tmp_path / "a.ome.zarr", values, grid)
    assert main(["info", str(tmp_path / "a.ome.zarr"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["shape"] == [6, 5, 4]
    write_affine(tmp_path / "one.tfm", np.eye(4))
    image, out = str(tmp_path / "a.ome.zarr"), str(tmp_path / "b.nii.gz")
    assert main(["apply", image, "-t", str(tmp_path / "one.tfm"), "-r", image, "-o", out]) == 0
    assert np.allclose(np.asarray(nib.load(out).dataobj), values[0], atol=1e-3)
