# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images of several numbers a voxel, in the formats of ITK: all of them, in order, with their names where a file has any."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_locor.errors import InputError
from monai_locor.io import read_image, read_mask
from monai_locor.io.grids import read_grid
from monai_locor.io.image_files import read_stored
from monai_locor.io.itk_images import itk_geometry
from monai_locor.io.itk_library import load_simpleitk

from ..parameters import mostly_slow

RNG = np.random.default_rng(0)
MODES = ("L", "RGB", "RGBA", "P")
COLORS = ("red", "green", "blue", "alpha")


DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"]


@pytest.fixture(params=["SimpleITK", "itk"])
def library(request, monkeypatch) -> str:
    """Both ways to read the formats of ITK, which must agree."""
    if request.param == "itk":
        pytest.importorskip("itk")
        monkeypatch.setattr("monai_locor.io.itk_images.load_simpleitk", lambda: None)
    return request.param


@pytest.mark.parametrize(
    ("suffix", "dtype", "count"),
    [
        (s, d, (1, 2, 3, 4, 7)[(i + k) % 5])
        for i, s in enumerate((".nrrd", ".mha", ".mhd", ".nhdr"))
        for k, d in enumerate(DTYPES)
    ],
)
def test_volumes(tmp_path, suffix, dtype, count):
    check_volume(tmp_path, suffix, dtype, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", mostly_slow([3, 1, 2, 7]))
def test_volumes_with_both_libraries(tmp_path, library, dtype, count):
    check_volume(tmp_path, ".nrrd", dtype, count)


def check_volume(tmp_path: Path, suffix: str, dtype: str, count: int) -> None:
    data = (RNG.random((4, 5, 6, count)) * 100).astype(dtype)
    image = sitk.GetImageFromArray(data if count > 1 else data[..., 0], isVector=count > 1)
    image.SetSpacing((2, 2.5, 3))
    image.SetOrigin((5, -6, 7))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    stored = read_stored(tmp_path / f"a{suffix}", "a")
    assert stored.voxels.shape == (6, 5, 4, count) and stored.dtype == dtype == stored.voxels.dtype.name
    np.testing.assert_array_equal(stored.voxels, data.transpose(2, 1, 0, 3))
    np.testing.assert_allclose(stored.affine, [[0, -2.5, 0, -5], [-2, 0, 0, 6], [0, 0, -3, 7], [0, 0, 0, 1]])
    shape, affine = itk_geometry(tmp_path / f"a{suffix}", "a")
    assert shape == (6, 5, 4)
    np.testing.assert_allclose(affine, stored.affine)


NRRD = """NRRD0005
type: float
dimension: 4
sizes: {sizes}
kinds: {kinds}
space: {space}
space directions: {directions}
space origin: (1,2,3)
endian: little
encoding: raw

"""
SPACES = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "left-anterior-superior": (-1, 1, 1)}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["list", "vector", "3-color", "RGB-color"])
@pytest.mark.parametrize("first", [True, False], ids=["components first", "components last"])
def test_nrrd_axes_and_spaces(tmp_path, space, kind, first):
    axes = {"sizes": ["6", "5", "4"], "kinds": ["space"] * 3, "directions": ["(2,0,0)", "(0,0,3)", "(0,4,0)"]}  # left-handed
    for name, extra in (("sizes", "3"), ("kinds", kind), ("directions", "none")):
        axes[name].insert(0 if first else 3, extra)
    data = RNG.random((6, 5, 4, 3)).astype("<f4")
    content = (np.moveaxis(data, -1, 0) if first else data).tobytes(order="F")
    header = NRRD.format(space=space, **{name: " ".join(values) for name, values in axes.items()})
    (tmp_path / "a.nrrd").write_bytes(header.encode() + content)
    stored = read_stored(tmp_path / "a.nrrd", "a")
    np.testing.assert_array_equal(stored.voxels, data)
    signs = np.diag([*SPACES[space], 1.0])
    np.testing.assert_allclose(stored.affine, signs @ [[2, 0, 0, 1], [0, 0, 4, 2], [0, 3, 0, 3], [0, 0, 0, 1]])
    assert stored.channels == (COLORS[:3] if kind == "RGB-color" else ())


@pytest.mark.parametrize(("version", "usable"), [("2.5.5", False), ("2.5.6", True), ("2.5.10-g12ab", True), ("3.0.0", True)])
def test_old_simpleitk_is_not_used(monkeypatch, version, usable):
    """It rotates the images of ``test_nrrd_axes_and_spaces`` in left-anterior-superior space."""
    monkeypatch.setattr(sitk.Version, "VersionString", lambda: version)
    assert (load_simpleitk() is sitk) == usable


def test_layers_of_a_segmentation_and_gradients(tmp_path, library):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.uint8), isVector=True)
    segments = (("liver", 0, 1), ("spleen", 0, 2), ("tumor", 1, 1))
    for k, (name, layer, value) in enumerate(segments):
        for key, said in (("Name", name), ("Layer", str(layer)), ("LabelValue", str(value))):
            image.SetMetaData(f"Segment{k}_{key}", said)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    expected = ("layer of liver = 1, spleen = 2", "layer of tumor = 1")
    assert read_stored(tmp_path / "a.seg.nrrd", "a").channels == expected
    with pytest.raises(InputError, match=r"has 2 channels or frames \(0: layer of liver.*a mask has one"):
        read_mask(tmp_path / "a.seg.nrrd")
    for k, gradient in enumerate(("0 0 0", "1   0 0")):
        image.SetMetaData(f"DWMRI_gradient_{k:04}", gradient)
        image.EraseMetaData(f"Segment{k}_Layer")
    image.EraseMetaData("Segment2_Layer")
    sitk.WriteImage(image, str(tmp_path / "dwi.nrrd"))
    assert read_stored(tmp_path / "dwi.nrrd", "a").channels == ("gradient 0 0 0", "gradient 1 0 0")


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".jpg", "L"), (".jpg", "RGB"), (".bmp", "RGB"), *((suffix, mode) for suffix in (".png", ".tif") for mode in MODES)],
)
def test_pictures(tmp_path, library, suffix, mode):
    pixels = RNG.integers(0, 255, (6, 5, 4)).astype(np.uint8)
    if suffix == ".jpg":
        pixels[:] = pixels[0, 0]  # it is not exact
    picture = Image.fromarray(pixels, "RGBA") if mode == "RGBA" else Image.fromarray(pixels[..., :3]).convert(mode)
    picture.save(tmp_path / f"a{suffix}")
    stored = read_stored(tmp_path / f"a{suffix}", "a")
    count = 1 if mode == "L" else 3
    assert stored.shape == (5, 6) and stored.voxels.shape[-1] == count
    assert stored.channels == (COLORS[:count] if count > 1 else ())
    again = Image.open(tmp_path / f"a{suffix}")
    if mode == "RGBA":
        again = Image.alpha_composite(Image.new("RGBA", again.size, "white"), again)
    expected = np.atleast_3d(np.asarray(again if mode == "L" else again.convert("RGB"))).transpose(1, 0, 2)
    found = stored.voxels // (256 if stored.dtype == "uint16" else 1)  # palettes of TIFF have 16 bits
    tolerance = 2 if suffix == ".jpg" else 1 if mode == "RGBA" else 0
    np.testing.assert_allclose(found.astype(int), expected, atol=tolerance)


def test_gray_and_alpha(tmp_path, caplog):
    gray = RNG.integers(1, 255, (6, 5)).astype(np.uint8)
    Image.fromarray(np.stack([gray, 255 - gray], -1), "LA").save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        image = read_image(tmp_path / "a.png")[0]
    np.testing.assert_array_equal(image.numpy()[0], gray.T)
    assert f"{tmp_path / 'a.png'}: its alpha channel (transparency) is left out" in caplog.text


def test_sixteen_bits_and_pages(tmp_path, library):
    data = RNG.integers(0, 2**16, (6, 5, 3)).astype(np.uint16)
    for suffix in (".tif", ".png"):
        sitk.WriteImage(sitk.GetImageFromArray(data, isVector=True), str(tmp_path / f"a{suffix}"))
        stored = read_stored(tmp_path / f"a{suffix}", "a")
        np.testing.assert_array_equal(stored.voxels, data.transpose(1, 0, 2))
        assert stored.channels == COLORS[:3]
    pages = [Image.fromarray(data[..., k].astype(np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    stored = read_stored(tmp_path / "pages.tif", "a")
    assert stored.shape == (5, 6, 3) == read_grid(tmp_path / "pages.tif").shape
    np.testing.assert_array_equal(stored.voxels[..., 0], data.astype(np.uint8).transpose(1, 0, 2))


def test_series_in_four_axes(tmp_path, library):
    frames = [sitk.GetImageFromArray(RNG.random((4, 5, 6)).astype(np.float32)) for _ in range(3)]
    image = sitk.JoinSeries(frames, 10.0, 2.5)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    stored = read_stored(tmp_path / "a.nrrd", "a")
    assert stored.voxels.shape == (6, 5, 4, 3) and stored.time == (2.5, "unknown", 10.0)
    np.testing.assert_array_equal(stored.voxels[..., 1], sitk.GetArrayFromImage(frames[1]).T)


def test_complex_voxels_are_refused(tmp_path, library):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.complex64)), str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match=r"its voxels are complex.*save the magnitude or the phase"):
        read_image(tmp_path / "a.nrrd")


def test_one_is_chosen_by_number(tmp_path):
    data = RNG.random((4, 5, 6, 3)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(data, isVector=True), str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match=r"has 3 channels .*channel=0 to 2 \(on the command line --channel N; of register"):
        read_image(Path(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.nrrd", channel=2)[0].numpy()[0], data[..., 2].T)
