# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files that cannot be read: one line that tells damage, a foreign format and a failure of the reader apart."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_locor.errors import InputError
from monai_locor.io import image_files, read_image
from monai_locor.io.grids import read_grid

VOXELS = np.random.default_rng(0).random((12, 11, 10)).astype(np.float32)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"fixed image {path}: ") and "\n" not in message and ";" in message
    return message


def whole(path: Path) -> bytes:
    if path.suffix in (".nrrd", ".mha", ".png"):
        image = VOXELS if path.suffix != ".png" else (VOXELS[0] * 255).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(path))
    else:
        nib.save((nib.MGHImage if ".mg" in path.name else nib.Nifti1Image)(VOXELS, np.eye(4)), path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgh", ".mgz", ".nrrd", ".mha"])
def test_damage(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(whole(path)[:-800])
    assert "cannot be read (" in refusal(path) and "it is incomplete or damaged" in refusal(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mnc", ".nrrd", ".mha", ".png", ".tif", ".img", ".xyz", ""])
@pytest.mark.parametrize("content", [b"", b"no image at all, but text of some length. " * 40], ids=["empty", "text"])
def test_other_content(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    message = refusal(path)
    assert "cannot be read" in message and "report this message" not in message


FORMATS = ("a.md", "a", "a.zip", "a.jpg", "a.tif", "a.nrrd", "a.mha", "a.png", "a.vtk")
LIGHT = """
import sys
from monai_locor.cli import main
codes = [main(line.split()) for name in sys.argv[1:] for line in (f"info {name}", f"register {name} {name} -o out")]
print(codes, {"torch", "monai", "itk"} & set(sys.modules))
"""


@pytest.mark.slow
def test_refusals_of_unknown_files_import_nothing_heavy(tmp_path):
    pytest.importorskip("SimpleITK")
    for name in FORMATS:
        (tmp_path / name).write_text("no image at all")
    command = [sys.executable, "-c", LIGHT, *FORMATS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == f"{[2] * 2 * len(FORMATS)} set()"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_a_name_that_lies_about_compression(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    content = whole(path)
    path.write_bytes(gzip.decompress(content) if suffix.endswith(".gz") else gzip.compress(content))
    assert "cannot be read" in refusal(path) and "report this message" not in refusal(path)


@pytest.mark.parametrize("error", [KeyError("ITK"), TypeError("unhashable"), AttributeError("'X' has no attribute 'y'")])
def test_a_failure_of_the_reader_is_called_one(tmp_path, monkeypatch, error):
    path = tmp_path / "a.nii"
    whole(path)

    def fail(*_: object) -> None:
        raise error

    for name in ("read_nibabel", "nibabel_geometry"):
        monkeypatch.setattr(image_files, name, fail)
    with pytest.raises(InputError) as caught:
        read_grid(path)
    for message in (refusal(path), str(caught.value)):
        assert type(error).__name__ in message and "report this message" in message
        assert "complete" not in message and "damaged" not in message


def test_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    whole(path)
    monkeypatch.setattr(image_files, "read_nibabel", lambda *_: np.empty(2**60))
    assert "memory" in refusal(path)


def test_folders_and_files_that_are_not_there(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.nii")
    (tmp_path / "b.nii").mkdir()
    assert "DICOM" in refusal(tmp_path / "b.nii")


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage])
def test_half_a_pair(tmp_path, kind):
    nib.save(kind(VOXELS, np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    assert f"No such file or directory: {tmp_path / 'a.img'}" in refusal(tmp_path / "a.hdr")


def test_minc(tmp_path, monkeypatch):
    """An HDF5 file that is no MINC volume says so; without h5py, what to install."""
    h5py = pytest.importorskip("h5py")
    broken = tmp_path / "broken.mnc"
    broken.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    with h5py.File(tmp_path / "other.mnc", "w") as file:
        file["data"] = np.zeros(3)
    for path in (broken, tmp_path / "other.mnc"):
        assert "it is an HDF5 file, but no complete MINC volume" in refusal(path)
    monkeypatch.setattr("monai_locor.io.nibabel_images.find_spec", lambda name: None)
    assert 'need h5py, which is not installed; pip install "monai-locor[formats]"' in refusal(broken)
