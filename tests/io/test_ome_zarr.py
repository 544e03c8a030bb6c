# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""OME-Zarr: voxels, positions and units of both versions, choice of channels, and metadata that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.io import read_image, read_transform, write_image
from monai_locor.io.grids import read_grid
from monai_locor.io.ome_zarr import (
    OmeZarrImage,
    create_ome_zarr,
    is_ome_zarr,
    multiscales,
    stores,
    write_ome_zarr,
    writing,
)
from tests.phantoms import turned

MICRON = np.diag([-4e-4, -5e-4, 2e-3, 1.0])
MICRON[:3, 3] = [0.5, -0.25, 0.125]
SPACE = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]


@pytest.fixture(params=["0.4", "0.5"])
def version(request):
    zarr = pytest.importorskip("zarr")
    if request.param == "0.5" and int(zarr.__version__.split(".")[0]) < 3:
        pytest.skip("zarr 2 does not read Zarr 3")
    return request.param


def voxels(shape, dtype="float32"):
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def foreign(folder: Path, axes, shape, scale, dtype="<u2", **known) -> Path:
    """An image as another program writes it, version 0.4, without its voxels."""
    transformations = [{"type": "scale", "scale": scale}, *known.pop("more", [])]
    dataset = {"path": known.pop("path", "0"), "coordinateTransformations": transformations}
    multiscale = {"version": "0.4", "axes": axes, "datasets": [dataset], **known.pop("multiscale", {})}
    (folder / "0").mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [multiscale], **known.pop("attributes", {})}))
    array = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": dtype, "compressor": None, "fill_value": 0}
    (folder / "0" / ".zarray").write_text(json.dumps({**array, "order": "C", "filters": None, **known}))
    return folder


def killed_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Write this number of files of metadata, then end at once: nothing is cleaned up."""
    left = iter(range(count))

    def until_killed(path: Path, content: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        path.write_text(json.dumps(content))

    patch.setattr(writing, "write_json", until_killed)
    patch.setattr(writing.shutil, "rmtree", lambda *_, **__: None)


@pytest.mark.parametrize(
    "grid", [Grid((7, 5, 4), MICRON), turned(0.3, (2.0, 1.5, -1.0), (7, 5, 4)), Grid((7, 5), np.diag([-0.002, -0.001, 1.0]))]
)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_voxels_and_positions_come_back(tmp_path, version, grid, dtype):
    values = voxels((1, *grid.shape), dtype)
    write_ome_zarr(tmp_path / "a.ome.zarr", values, grid, version)
    image = OmeZarrImage(tmp_path / "a.ome.zarr", "image")
    assert image.shape == grid.shape and image.dtype == dtype and image.count == 1
    assert np.allclose(image.affine, grid.full_affine, rtol=1e-12, atol=1e-12)
    assert image.unit == ("micrometer" if grid.spacing.max() < 0.05 else "millimeter")
    box = tuple(slice(1, n - 1) for n in grid.shape)
    assert np.array_equal(image.read(box), values[0][box])


def test_lengths_are_written_in_micrometers_and_read_in_mm(tmp_path, version):
    write_ome_zarr(tmp_path / "a.zarr", voxels((1, 3, 3, 3)), Grid((3, 3, 3), MICRON), version)
    name, key = (".zattrs", "multiscales") if version == "0.4" else ("zarr.json", "attributes")
    text = json.loads((tmp_path / "a.zarr" / name).read_text())[key]
    (multiscale,) = text if version == "0.4" else text["ome"]["multiscales"]
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    assert [axis["unit"] for axis in multiscale["axes"]] == ["micrometer"] * 3
    assert np.allclose(scale["scale"], [2, 0.5, 0.4])
    assert np.allclose(translation["translation"], [125, 250, -500])  # z, y, x of LPS


def test_the_same_image_is_the_same_files(tmp_path, version):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_ome_zarr(folder / "brain.ome.zarr", voxels((1, 3, 3, 3)), Grid((3, 3, 3), MICRON), version)
        contents.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    metadata = contents[0][Path("brain.ome.zarr", ".zattrs" if version == "0.4" else "zarr.json")]
    assert contents[0] == contents[1] and b'"name": "brain"' in metadata


def test_another_program_reads_what_is_written(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    values = voxels((2, 7, 5, 4))
    write_ome_zarr(tmp_path / "a.zarr", values, Grid((7, 5, 4), MICRON), version, channels=["red", "green"])
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    assert np.array_equal(np.asarray(group["0"][:]), values.transpose(0, 3, 2, 1))
    assert dict(group.attrs).get("ome", dict(group.attrs))["multiscales"][0]["axes"][0] == {"name": "c", "type": "channel"}


def test_blocks_are_written_in_place(tmp_path, version):
    grid, values = Grid((6, 5, 4), MICRON), voxels((3, 6, 5, 4))
    made = create_ome_zarr(tmp_path / "a.zarr", grid, np.dtype("float32"), components="xyz", version=version)
    for first in range(0, 6, 2):
        made.write([slice(first, first + 2), slice(0, 5), slice(0, 4)], values[:, first : first + 2])
    image = OmeZarrImage(tmp_path / "a.zarr", "image")
    assert image.channels == ("x", "y", "z")
    assert np.array_equal(image.read([slice(0, 6), slice(0, 5), slice(0, 4)], 2), values[2])


@pytest.mark.parametrize("components", ["", "xyz"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_kill_leaves_no_image_without_metadata(tmp_path, version, components, after, monkeypatch):
    folder, options = tmp_path / "a.zarr", {"components": components, "version": version}
    grid = Grid((6, 5, 4), MICRON)
    if version == "0.5" and after == 2:
        pytest.skip("has two files of metadata")
    with monkeypatch.context() as patch:
        killed_after(patch, after)
        with pytest.raises(KeyboardInterrupt):
            create_ome_zarr(folder, grid, np.dtype("float32"), **options)
    assert not folder.exists()
    create_ome_zarr(folder, grid, np.dtype("float32"), **options)
    assert OmeZarrImage(folder, "image").shape == grid.shape


def test_it_is_an_input_like_any_other_file(tmp_path, version):
    grid, values = Grid((7, 5, 4), MICRON), torch.from_numpy(voxels((1, 7, 5, 4)))
    write_image(tmp_path / "a.ome.zarr", values, grid)
    image, valid = read_image(tmp_path / "a.ome.zarr")
    assert valid is None and torch.equal(image.as_tensor(), values)
    assert np.allclose(read_grid(tmp_path / "a.ome.zarr").affine, grid.affine)
    with pytest.raises(InputError, match="already exists"):
        write_image(tmp_path / "a.ome.zarr", values, grid)


def test_channels_are_chosen_or_refused_with_their_names(tmp_path, version):
    values = voxels((2, 7, 5, 4))
    write_ome_zarr(tmp_path / "a.zarr", values, Grid((7, 5, 4), MICRON), version, channels=["DAPI", "GFP"])
    with pytest.raises(InputError, match=r"2 channels or frames .*\(0: DAPI, 1: GFP\); choose one"):
        read_image(tmp_path / "a.zarr")
    image, _ = read_image(tmp_path / "a.zarr", channel=1)
    assert np.array_equal(image.as_tensor()[0].numpy(), values[1])


def test_a_level_is_named_by_its_folder(tmp_path):
    folder = foreign(tmp_path / "a.zarr", SPACE, [4, 4, 4], [1.0, 1, 1])
    multiscale = json.loads((folder / ".zattrs").read_text())["multiscales"][0]
    coarse = {"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 2, 2]}]}
    multiscale["datasets"].append(coarse)
    (folder / ".zattrs").write_text(json.dumps({"multiscales": [multiscale]}))
    (folder / "1").mkdir()
    (folder / "1" / ".zarray").write_text((folder / "0" / ".zarray").read_text().replace("4", "2"))
    assert read_grid(folder / "1").shape == (2, 2, 2)
    assert np.allclose(read_grid(folder / "1").spacing, 2e-3) and np.allclose(read_grid(folder).spacing, 1e-3)
    (folder / "2").mkdir()
    assert not is_ome_zarr(folder / "2")


def test_transformations_of_image_and_level_are_composed(tmp_path):
    more = [{"type": "translation", "translation": [1.0, 2, 3]}]
    multiscale = {"coordinateTransformations": [{"type": "scale", "scale": [10.0, 10, 10]}]}
    folder = foreign(tmp_path / "a.zarr", SPACE, [4, 5, 6], [2.0, 3, 4], more=more, multiscale=multiscale)
    expected = np.array([[-40, 0, 0, -30], [0, -30, 0, -20], [0, 0, 20, 10], [0, 0, 0, 1000]]) / 1000
    assert read_grid(folder).shape == (6, 5, 4)
    assert np.allclose(OmeZarrImage(folder, "image").affine, expected)


def test_anatomical_orientations_place_the_axes(tmp_path):
    values = ["posterior-to-anterior", "superior-to-inferior", "left-to-right"]
    axes = [{**a, "orientation": {"type": "anatomical", "value": v}} for a, v in zip(SPACE, values, strict=True)]
    affine = OmeZarrImage(foreign(tmp_path / "a.zarr", axes, [4, 5, 6], [1.0, 2, 3]), "image").affine
    assert np.allclose(1e3 * affine[:3, :3], [[3, 0, 0], [0, 0, 1], [0, -2, 0]])


@pytest.mark.parametrize("unit", [None, "nanometer", "centimeter"])
def test_units_are_converted_and_a_missing_one_is_warned_about(tmp_path, unit, caplog):
    axes = [{"name": n, "type": "space", **({} if unit is None else {"unit": unit})} for n in "yx"]
    grid = read_grid(foreign(tmp_path / "a.zarr", axes, [4, 4], [3.0, 3.0]))
    assert np.allclose(grid.spacing, 3 * {None: 1, "nanometer": 1e-6, "centimeter": 10}[unit])
    assert ("no unit of length" in caplog.text) == (unit is None)


BAD = {
    "outside of the image": {"path": "../other"},
    "is outside": {"path": "/etc"},
    "has the path": {"path": "..\\other"},
    "more than 512": {"chunks": [2**11, 2**11, 2**11]},
    "the shape": {"shape": [4, -4, 4]},
    "shape .*positive": {"shape": [4, 2**40, 4]},
    "of type '.O'": {"dtype": "|O"},
    "of type": {"dtype": [["a", "<u2"]]},
    "uses .*pickle": {"filters": [{"id": "pickle"}]},
    "uses .*other": {"compressor": {"id": "other"}},
    "unit": {"axes": [{**SPACE[0], "unit": "parsec"}, *SPACE[1:]]},
    "of type 'velocity'": {"axes": [{"name": "z", "type": "velocity"}, *SPACE[1:]]},
    "the axes": {"axes": [*SPACE, {"name": "w", "type": "space"}]},
    "positive scale": {"scale": [1.0, float("nan"), 1.0]},
    "only a positive scale": {"scale": [1.0, 0, 1.0]},
    "with 3": {"scale": [1.0, 1.0]},
    "OME-Zarr 0.9": {"multiscale": {"version": "0.9"}},
    "lists no datasets": {"multiscale": {"datasets": []}},
    "not a list of objects": {"multiscale": {"datasets": ["0"]}},
}


@pytest.mark.parametrize("message", BAD)
def test_hostile_metadata_are_refused_before_anything_is_opened(tmp_path, message, monkeypatch):
    monkeypatch.setattr(stores, "open_array", lambda *a: pytest.fail("opened"))
    changes = {"axes": SPACE, "shape": [4, 4, 4], "scale": [1.0, 1, 1], **BAD[message]}
    folder = foreign(tmp_path / "a.zarr", **changes)
    with pytest.raises(InputError, match=message):
        read_grid(folder)


def test_links_out_of_the_image_are_refused(tmp_path):
    folder, other = foreign(tmp_path / "a.zarr", SPACE, [4, 4, 4], [1.0, 1, 1], path="link"), tmp_path / "other"
    other.mkdir()
    try:
        (folder / "link").symlink_to(other, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links")
    with pytest.raises(InputError, match="outside of the image"):
        read_grid(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "the codec"),
        ({"codecs": "bytes"}, "the codec"),
        ({"data_type": "string"}, "of type 'string'"),
        ({"chunk_grid": {"name": "rectangular"}}, "not regular"),
        ({"storage_transformers": [{"name": "x"}]}, "transformed"),
        ({"codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [2]}}]}, "chunk shape|codec"),
    ],
)
def test_hostile_arrays_of_version_3_are_refused(tmp_path, change, message):
    create_ome_zarr(tmp_path / "a.zarr", Grid((4, 4, 4), MICRON), np.dtype("uint8"), version="0.5")
    path = tmp_path / "a.zarr" / "0" / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        read_grid(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff\xfe", b"[" * 5000, b" " * 3000])
def test_broken_metadata_files_are_refused(tmp_path, text, monkeypatch):
    monkeypatch.setattr(multiscales, "MAX_METADATA_BYTES", 2000 if text.startswith(b" ") else 2**24)
    folder = foreign(tmp_path / "a.zarr", SPACE, [4, 4, 4], [1.0, 1, 1])
    (folder / ".zattrs").write_bytes(text)
    with pytest.raises(InputError, match=r"JSON|bytes, more than"):
        read_grid(folder)


def test_a_collection_of_images_and_other_folders_are_refused(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    with pytest.raises(InputError, match="collection of images; name one"):
        read_grid(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / ".zattrs").write_text("{}")
    with pytest.raises(InputError, match="no OME-Zarr metadata"):
        read_grid(tmp_path / "a.zarr")


def test_an_image_that_is_too_large_as_a_whole_is_refused(tmp_path, monkeypatch):
    from monai_locor.io.ome_zarr import reading

    monkeypatch.setattr(reading, "MAX_WHOLE_BYTES", 4 * 60)
    folder = foreign(tmp_path / "a.zarr", SPACE, [4, 4, 4], [1.0, 1, 1])
    with pytest.raises(InputError, match=r"register it in blocks \(--blocks\), or name a coarser level"):
        read_image(folder)


def test_a_stale_affine_of_this_package_does_not_count(tmp_path):
    own = {"monai_locor": {"affine": np.eye(4).tolist(), "shape": [6, 5, 4]}}
    folder = foreign(tmp_path / "a.zarr", SPACE, [4, 5, 6], [2.0, 3, 4], attributes=own)
    assert np.allclose(read_grid(folder).spacing, [4e-3, 3e-3, 2e-3])


def test_without_zarr_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    folder = foreign(tmp_path / "a.zarr", SPACE, [4, 4, 4], [1.0, 1, 1])
    with pytest.raises(ImportError, match=r"pip install 'monai-locor\[formats\]'"):
        stores.open_array(folder / "0", "image")


def test_a_field_of_a_blockwise_registration_is_a_transform(tmp_path, version):
    grid, values = turned(0.2, (0.003, 0.002, -0.002), (6, 5, 4)), 1e-3 * voxels((3, 6, 5, 4))
    own = {"kind": "displacement field"}
    for name, sign in (("forward_field.ome.zarr", 1), ("inverse_field.ome.zarr", -1)):
        made = create_ome_zarr(tmp_path / name, grid, np.dtype("float32"), components="xyz", version=version, own=own)
        lps = np.array([-1, -1, 1]).reshape(3, 1, 1, 1)
        made.write([slice(0, n) for n in grid.shape], sign * 1e3 * lps * values)  # micrometers
    (tmp_path / "affine.tfm").write_text("never read")
    found, alone = read_transform(tmp_path), read_transform(tmp_path / "inverse_field.ome.zarr")
    assert np.allclose(found.displacement(grid), values, atol=1e-6)
    for inverse in (found.inverse(), alone):
        assert np.allclose(inverse.displacement(grid), -values, atol=1e-6)
    write_ome_zarr(tmp_path / "image.ome.zarr", values, grid, version)
    with pytest.raises(InputError, match="is an OME-Zarr image, not a displacement field"):
        read_transform(tmp_path / "image.ome.zarr")
