# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Hostile files: sizes that are not there, text on which a search would take hours, deep nesting."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_locor import RegistrationConfig
from monai_locor.errors import InputError
from monai_locor.geometry import SpatialTransform
from monai_locor.io import read_image, read_transform, write_transform
from monai_locor.io.grids import read_grid
from monai_locor.io.itk_text import affine_text
from monai_locor.registration.manifest import RunManifest

from .dicom_files import AXIAL, enhanced, places, save

VOXELS = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)


def header_of(image: nib.spatialimages.SpatialImage, **changes) -> bytes:
    for key, value in changes.items():
        image.header[key] = value
    return image.header.binaryblock


@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf])
def test_a_slope_that_is_not_finite(tmp_path, slope):
    """It is ignored, as nibabel does; no value becomes NaN."""
    content = bytearray(header_of(nib.Nifti1Image((VOXELS * 100).astype(np.int16), np.eye(4)), vox_offset=352, magic=b"n+1"))
    content[112:116] = np.float32(slope).tobytes()
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(content) + bytes(4) + (VOXELS * 100).astype(np.int16).tobytes(order="F"))
    image, valid = read_image(path)
    assert valid is None and np.isfinite(image.numpy()).all()


def nifti(path: Path) -> None:
    header = header_of(
        nib.Nifti2Image(VOXELS, np.eye(4)), dim=[3, 10**5, 10**5, 10**3, 1, 1, 1, 1], vox_offset=544, magic=b"n+2"
    )
    path.write_bytes(gzip.compress(header + bytes(4000)))


def far(path: Path) -> None:
    content = bytearray(header_of(nib.Nifti1Image(VOXELS, np.eye(4)), vox_offset=352, magic=b"n+1"))
    content[108:112] = np.float32(1e20).tobytes()
    path.write_bytes(bytes(content) + bytes(4000))


def mgh(path: Path) -> None:
    header = header_of(nib.MGHImage(VOXELS, np.eye(4)), dims=[10**5, 10**5, 10**3, 1])
    path.write_bytes(gzip.compress(header + bytes(4000)))


def meta(path: Path) -> None:
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "CompressedData = {}",
        "DimSize = 100000 100000 1000",
        "ElementType = MET_FLOAT",
    ]
    text = "\n".join([*lines, "ElementDataFile = LOCAL", ""]).format(path.stem == "packed")
    path.write_bytes(text.encode() + bytes(4000))


def nrrd(path: Path) -> None:
    coding = "gzip" if path.stem == "packed" else "raw"
    text = f"NRRD0004\ntype: float\ndimension: 3\nsizes: 100000 100000 1000\nencoding: {coding}\nendian: little\n\n"
    path.write_bytes(text.encode() + bytes(4000))


def hdf5(path: Path) -> None:
    """Numbers that were never written take no room in the file."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        part = file.create_group("TransformGroup/0")
        part["TransformType"] = [b"DisplacementFieldTransform_double_3_3"]
        part.create_dataset("TransformParameters", (3 * 10**12,), "f8", chunks=(1000,))


def dicom(path: Path) -> None:
    data = enhanced([(place, 0, {}) for place in places(AXIAL, 3)])
    data.NumberOfFrames = 999_999_999
    save(path, data)


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("a.nii.gz", nifti, read_image),
        ("a.nii", far, read_image),
        ("a.mgz", mgh, read_image),
        ("plain.mha", meta, read_image),
        ("packed.mha", meta, read_image),
        ("plain.nrrd", nrrd, read_image),
        ("packed.nrrd", nrrd, read_image),
        ("a.dcm", dicom, read_image),
        ("a.h5", hdf5, read_transform),
    ],
    ids=["nii", "offset", "mgz", "mha", "mha-packed", "nrrd", "nrrd-packed", "dicom", "hdf5"],
)
def test_sizes_are_checked_before_memory_is_allocated(tmp_path, name: str, write: Callable, read: Callable):
    """Each file has some kilobytes, and its header states terabytes."""
    path = tmp_path / name
    write(path)
    start = time.process_time()
    with pytest.raises(InputError, match=rf"{name}: .*(truncated|broken|bytes|cannot be read)") as caught:
        read(path)
    assert "report this" not in str(caught.value) and "MemoryError" not in repr(caught.value.__cause__)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("name", ["a.txt", "a.lta", "a.xfm"])
def test_text_is_searched_in_linear_time(tmp_path, name):
    signature = {"a.txt": '(Transform "AffineTransform")\n', "a.lta": "nxforms = 1\n", "a.xfm": "MNI Transform File\n"}[name]
    path = tmp_path / name
    for part in ("\n", " ", "(a ", "Linear_Transform =", "type\n", "1 4 "):
        path.write_text(signature + part * 60_000)
        start = time.process_time()
        with pytest.raises(InputError, match=name):
            read_transform(path)
        assert time.process_time() - start < 10, part


def test_a_matrix_with_other_bytes_far_behind(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n" + b"\n" * 5000 + b"\xff")
    with pytest.raises(InputError, match=r"a\.mat: "):
        read_transform(path)


def test_deep_nesting(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    for read in (RegistrationConfig.of, RunManifest.load):
        with pytest.raises(InputError, match=r"a\.json: .*nested too deeply"):
            read(path)


def test_a_truncated_record_is_named(tmp_path):
    """Every value of run.json may be missing."""
    content = {"format": "monai_locor run 1", "arguments": {}, "settings": {}}
    (tmp_path / "run.json").write_text(json.dumps(content))
    from monai_locor import RegistrationResult

    with pytest.raises(InputError, match=r"run\.json: is damaged \(no '\w+'\)"):
        RegistrationResult.load(tmp_path)


def test_an_affine_of_itk_may_be_of_any_length(tmp_path):
    path = tmp_path / "a.tfm"
    path.write_text(affine_text(np.eye(4)).replace("Parameters: 1.0", "Parameters: " + "9" * 5000, 1))
    with pytest.raises(InputError, match=r"a\.tfm: "):
        read_transform(path)


def test_names_that_no_file_can_have(tmp_path):
    for name in ("~nobody-of-this-name/a.nii", str(tmp_path / ("a" * 300 + ".nii"))):
        for read in (read_image, read_grid, read_transform, RegistrationConfig.of, RunManifest.load):
            with pytest.raises(InputError, match=r"check|such file|nor a JSON"):
                read(name)


@pytest.mark.parametrize(
    "line", ["NDims = -1", "NDims = 1000", "NDims = 0", "NDims = ", "NDims = 3\nNDims = 3", "DimSize = 4 5", "DimSize = 4 5 -6"]
)
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_headers_that_crash_the_reader_of_itk(tmp_path, name, line):
    lines = {"NDims": "NDims = 3", "DimSize": "DimSize = 4 5 6"}
    lines[line.split()[0]] = line
    text = "\n".join(["ObjectType = Image", *lines.values(), "ElementType = MET_FLOAT", "ElementDataFile = LOCAL", ""])
    path = tmp_path / name
    path.write_bytes(text.encode() + VOXELS.tobytes())
    for read in (read_image, read_grid, read_transform):
        with pytest.raises(InputError, match=rf"{name}: .*its header is invalid"):
            read(path)


def test_colors_are_not_scaled(tmp_path):
    """A slope in the header of an RGB image does not apply."""
    colors = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colors["G"] = np.arange(120).reshape(4, 5, 6)
    image = nib.Nifti1Image(colors, np.eye(4))
    content = bytearray(header_of(image, vox_offset=352, magic=b"n+1"))
    content[112:120] = np.array([2, 3], "<f4").tobytes()
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(content) + bytes(4) + colors.tobytes(order="F"))
    np.testing.assert_array_equal(read_image(path, channel=1)[0].numpy()[0], colors["G"])


def test_a_slice_whose_lengths_underflow():
    with pytest.raises(InputError, match="affine is not invertible"):
        read_image((VOXELS[..., :1], np.diag([1e-320, 1e-320, 1e-320, 1])[[2, 0, 1, 3]]))


def test_a_negative_offset_of_analyze(tmp_path):
    nib.save(nib.AnalyzeImage(VOXELS, np.eye(4)), tmp_path / "a.img")
    path = tmp_path / "a.hdr"
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(-1528).tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.hdr: cannot be read \(.*\); its header is invalid"):
        read_image(path)


@pytest.mark.parametrize("changes", [{"dims": [0, 5, 6, 1]}, {"type": 12345}, {"version": 7}])
def test_headers_that_nibabel_does_not_know(tmp_path, changes):
    path = tmp_path / "a.mgh"
    path.write_bytes(header_of(nib.MGHImage(VOXELS, np.eye(4)), **changes) + VOXELS.tobytes())
    with pytest.raises(InputError, match=r"a\.mgh: cannot be read") as caught:
        read_image(path)
    assert "report this message" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["9" * 5000, "type: " + "9" * 5000, "sizes: 4 5 " + "6" * 5000, "space origin: (0,0," + "9" * 5000]
)
def test_long_lines_that_crash_the_reader_of_itk(tmp_path, line):
    lines = {"type": "type: float", "dimension": "dimension: 3", "sizes": "sizes: 4 5 6", "encoding": "encoding: raw"}
    lines[line.partition(":")[0]] = line
    path = tmp_path / "a.nrrd"
    path.write_bytes("\n".join(["NRRD0004", *lines.values(), "endian: little", "", ""]).encode() + VOXELS.tobytes())
    for read in (read_image, read_grid, read_transform):
        with pytest.raises(InputError, match=r"a\.nrrd: .*its header is invalid, a line of it has 50\d\d characters"):
            read(path)


@pytest.mark.parametrize("name", [b"\1\1\1", b"a" * 5000, b"\xff" * 5000])
def test_names_of_voxels_that_crash_the_reader_of_itk(tmp_path, name):
    """Bytes of the voxels follow without a line end."""
    path = tmp_path / "a.mha"
    header = b"ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\nElementType = MET_FLOAT\nElementDataFile = " + name
    path.write_bytes(header + VOXELS.tobytes().replace(b"\n", b" ") * 9)
    for read in (read_image, read_grid, read_transform):
        with pytest.raises(InputError, match=r"a\.mha: .*its header is invalid, ElementDataFile is not a file name"):
            read(path)


@pytest.mark.parametrize("number", ["1e308", "-1e200"])
def test_directions_that_the_reader_of_itk_never_factorizes(tmp_path, number):
    lines = ["ObjectType = Image", "NDims = 3", f"TransformMatrix = 1 0 0 0 1 0 0 {number} 1", "DimSize = 4 5 6"]
    path = tmp_path / "a.mha"
    text = "\n".join([*lines, "ElementType = MET_FLOAT", "ElementDataFile = LOCAL", ""])
    path.write_bytes(text.encode() + VOXELS.tobytes())
    for read in (read_image, read_transform):
        with pytest.raises(InputError, match=r"a\.mha: .*its header is invalid, a direction of an axis"):
            read(path)


def test_long_texts_in_a_nrrd_header_are_kept(tmp_path):
    """3D Slicer describes a segmentation in lines of thousands of characters."""
    text = ["NRRD0004", "type: float", "dimension: 3", "sizes: 4 5 6", "encoding: raw", "endian: little"]
    path = tmp_path / "a.nrrd"
    path.write_bytes("\n".join([*text, "# " + "a" * 5000, "about:=" + "a" * 5000, "", ""]).encode() + VOXELS.tobytes())
    np.testing.assert_array_equal(read_image(path)[0].numpy()[0].ravel("F"), VOXELS.ravel())


def test_damaged_objects_in_hdf5(tmp_path):
    """Whatever h5py raises, the file is named."""
    pytest.importorskip("h5py")
    write_transform(tmp_path / "whole.h5", SpatialTransform.of_affine(np.diag([2.0, 1, 1, 1])))
    content, path = (tmp_path / "whole.h5").read_bytes(), tmp_path / "a.h5"
    refused = []
    for place in range(8, len(content), 97):
        path.write_bytes(content[:place] + b"\xa5\0\xff" + content[place + 3 :])
        try:
            read_transform(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 5 and all("a.h5: " in message for message in refused)
