# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results read back: from every choice of outputs, with and without their images, on every kind of grid."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, RegistrationResult
from monai_locor.cli.registration_outputs import OUTPUTS
from monai_locor.geometry import Grid, warped
from monai_locor.io import write_image
from monai_locor.quality import ErrorMap
from monai_locor.registration.described import described_arguments
from monai_locor.tensors import plain

from ..io.transform_cases import GRIDS, inner_points
from .test_exports import made

CHOICES = [("forward", "inverse"), ("forward",), ("composite",), ("ants",)]


def stored(folder: Path, place: str, outputs: tuple[str, ...], files: bool = True, deformed: bool = True) -> RegistrationResult:
    """A result whose images are files, or were in memory, and its outputs in ``folder / "out"``."""
    result = made(place, deformed)
    fixed = result.fixed_grid.points() @ np.full(result.fixed_grid.dims, 0.1)
    images = {"fixed": torch.from_numpy(np.cos(fixed))[None].float(), "moving": plain(result.moving_image)}
    for role, grid in (("fixed", result.fixed_grid), ("moving", result.moving_grid)):
        write_image(folder / f"{role}.nii.gz", images[role], grid)
    given = {role: str(folder / f"{role}.nii.gz") if files else images[role] for role in images}
    result = dataclasses.replace(
        result,
        warped_moving=warped(images["moving"], result.moving_grid, result.forward_mm, result.fixed_grid),
        warped_fixed=warped(images["fixed"], result.fixed_grid, result.inverse_mm, result.moving_grid),
        arguments=described_arguments({**given, "seed": 0}),
    )
    (folder / "out").mkdir()
    for name in outputs:
        OUTPUTS[name].write(result, folder / "out" / OUTPUTS[name].name)
    (folder / "out" / "run.json").write_text(json.dumps(result.summary()))
    return result


@pytest.mark.parametrize("outputs", CHOICES, ids="+".join)
@pytest.mark.parametrize("place", GRIDS)
def test_the_transform_and_the_images(tmp_path, place, outputs):
    result = stored(tmp_path, place, outputs)
    found = RegistrationResult.load(tmp_path / "out")
    there, back = inner_points(result.fixed_grid), inner_points(result.moving_grid)
    np.testing.assert_allclose(found.transform_points(there), result.transform_points(there), atol=2e-3)
    for grid, name in ((result.fixed_grid, "fixed_grid"), (result.moving_grid, "moving_grid")):
        assert getattr(found, name).shape == grid.shape
        np.testing.assert_allclose(getattr(found, name).affine, grid.affine, atol=1e-4)
    torch.testing.assert_close(plain(found.warped_moving), plain(result.warped_moving), atol=1e-3, rtol=0)
    assert found.summary()["settings"] == result.summary()["settings"] and found.arguments == result.arguments
    if outputs in (("forward", "inverse"), ("composite",)):
        np.testing.assert_allclose(
            found.transform_points(back, inverse=True), result.transform_points(back, inverse=True), atol=2e-3
        )
        torch.testing.assert_close(plain(found.warped_fixed), plain(result.warped_fixed), atol=1e-3, rtol=0)
    again = found.transform_points(found.transform_points(there), inverse=True)
    assert np.median(np.abs(again - there)) < 0.1


@pytest.mark.parametrize("place", GRIDS)
def test_the_inverse_alone_is_inverted_on_the_grids_of_the_run(tmp_path, place):
    result = stored(tmp_path, place, ("inverse",))
    found = RegistrationResult.load(tmp_path / "out")
    assert found.fixed_grid.shape == result.fixed_grid.shape and found.moving_grid.shape == result.moving_grid.shape
    there = inner_points(result.fixed_grid)
    np.testing.assert_allclose(found.transform_points(there), result.transform_points(there), atol=0.05)


@pytest.mark.parametrize("outputs", [("composite",), ("ants",), ("forward",), ("affine",), ()], ids="+".join)
def test_an_affine_result(tmp_path, outputs):
    result = stored(tmp_path, "mixed", outputs, deformed=False)
    found = RegistrationResult.load(str(tmp_path / "out"))
    there = inner_points(result.fixed_grid)
    np.testing.assert_allclose(found.transform_points(there), result.transform_points(there), atol=2e-3)
    np.testing.assert_allclose(
        found.transform_points(there, inverse=True), result.transform_points(there, inverse=True), atol=2e-3
    )


@pytest.mark.parametrize("outputs", CHOICES, ids="+".join)
def test_without_images_there_is_the_transform(tmp_path, outputs, caplog):
    result = stored(tmp_path, "mixed", outputs, files=False)
    with caplog.at_level(logging.WARNING):
        found = RegistrationResult.load(tmp_path / "out")
    assert "loaded without the fixed image" in caplog.text and "loaded without the moving image" in caplog.text
    there = inner_points(result.fixed_grid)
    np.testing.assert_allclose(found.transform_points(there), result.transform_points(there), atol=2e-3)
    assert found.warped_moving is None and found.warped_fixed is None and found.moving_image is None
    for call in (found.moving_before, found.to_nibabel, found.plot, lambda: found.save(tmp_path / "again")):
        with pytest.raises(InputError, match=r"does not hold the (moving|fixed) image: load it with"):
            call()
    whole = RegistrationResult.load(tmp_path / "out", moving=tmp_path / "moving.nii.gz")
    torch.testing.assert_close(plain(whole.warped_moving), plain(result.warped_moving), atol=1e-3, rtol=0)
    assert whole.warped_fixed is None


def test_what_save_writes_of_images_in_memory(tmp_path):
    result = stored(tmp_path, "left-handed", (), files=False)
    result.save(tmp_path / "saved")
    found = RegistrationResult.load(tmp_path / "saved")
    torch.testing.assert_close(plain(found.warped_moving), plain(result.warped_moving))
    torch.testing.assert_close(found.warped_moving.affine, result.warped_moving.affine, atol=1e-4, rtol=0)
    assert found.warped_fixed is None
    assert torch.equal(found.forward_mm, result.forward_mm) and torch.equal(found.inverse_mm, result.inverse_mm)
    np.testing.assert_array_equal(found.fixed_grid.affine, result.fixed_grid.affine)


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
@pytest.mark.parametrize("name", ["missing_fixed", "missing_moving", "warped_moving"])
def test_an_output_may_be_the_same_everywhere(tmp_path, name, value):
    """As where no tissue is missing, or where the moving image does not reach."""
    result = stored(tmp_path, "mixed", (), files=False)
    grid = result.moving_grid if name == "missing_moving" else result.fixed_grid
    dataclasses.replace(result, **{name: MetaTensor(torch.full((1, *grid.shape), value))}).save(tmp_path / "saved")
    found = getattr(RegistrationResult.load(tmp_path / "saved"), name)
    np.testing.assert_array_equal(found, np.full((1, *grid.shape), value))


@pytest.mark.parametrize("outputs", CHOICES, ids="+".join)
def test_a_slice_keeps_its_plane(tmp_path, outputs, monkeypatch):
    sagittal = np.array([[0, 0, 1.0, 12.0], [1.2, -0.9, 0, -8.0], [0.9, 1.2, 0, 5.0], [0, 0, 0, 1.0]])
    monkeypatch.setitem(GRIDS, "sagittal", (Grid.placed((20, 22), sagittal), Grid.placed((30, 28), sagittal)))
    result = stored(tmp_path, "sagittal", outputs)
    assert result.fixed_grid.plane is not None
    found = RegistrationResult.load(tmp_path / "out")
    for name in ("fixed_grid", "moving_grid"):
        np.testing.assert_allclose(getattr(found, name).full_affine, getattr(result, name).full_affine, atol=1e-4)
    torch.testing.assert_close(found.warped_moving.affine, result.warped_moving.affine, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.to_nibabel().affine[:, [0, 1, 3]], sagittal[:, [0, 1, 3]], atol=1e-4)
    there = inner_points(result.fixed_grid)
    np.testing.assert_allclose(found.transform_points(there), result.transform_points(there), atol=2e-3)


def test_of_several_channels_the_first_is_read(tmp_path):
    result = stored(tmp_path, "mixed", ("forward", "inverse"))
    several = {"fixed": [str(tmp_path / "fixed.nii.gz")] * 2, "moving": [tmp_path / "moving.nii.gz"]}
    result = dataclasses.replace(result, arguments=described_arguments({**several, "seed": 0}))
    (tmp_path / "out" / "run.json").write_text(json.dumps(result.summary()))
    found = RegistrationResult.load(tmp_path / "out")
    torch.testing.assert_close(plain(found.warped_moving), plain(result.warped_moving), atol=1e-3, rtol=0)
    assert found.fixed_image.shape[0] == 1


def test_a_changed_image_is_left_aside(tmp_path, caplog):
    result = stored(tmp_path, "mixed", ("forward", "inverse", "warped"))
    write_image(tmp_path / "moving.nii.gz", plain(result.moving_image) + 1, result.moving_grid)
    with caplog.at_level(logging.WARNING):
        found = RegistrationResult.load(tmp_path / "out")
    assert "moving.nii.gz: has changed since" in caplog.text
    assert found.moving_image is None and found.fixed_image is not None
    torch.testing.assert_close(plain(found.warped_moving), plain(result.warped_moving))


@pytest.mark.parametrize("outputs", CHOICES, ids="+".join)
def test_a_run_of_an_earlier_version_says_no_grids(tmp_path, outputs):
    result = stored(tmp_path, "mixed", outputs)
    path = tmp_path / "out" / "run.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if not key.endswith("_grid")}))
    found = RegistrationResult.load(tmp_path / "out")
    assert found.moving_grid.shape == result.moving_grid.shape and found.fixed_grid.shape == result.fixed_grid.shape
    for role in ("fixed", "moving"):
        (tmp_path / f"{role}.nii.gz").unlink()
    if outputs == ("forward",):
        with pytest.raises(InputError, match=r"grid of the moving image is not known; give that image as moving="):
            RegistrationResult.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("outputs", "told"),
    [((), "holds no transform"), (("warped", "affine"), "holds no transform")],
)
def test_a_folder_without_transform_is_refused(tmp_path, outputs, told):
    stored(tmp_path, "mixed", outputs)
    with pytest.raises(InputError, match=told):
        RegistrationResult.load(tmp_path / "out")
    with pytest.raises(InputError, match=r"run\.json: no such file"):
        RegistrationResult.load(tmp_path)


def test_an_image_of_another_pair_is_refused(tmp_path):
    result = stored(tmp_path, "mixed", ("forward", "inverse"))
    other = MetaTensor(torch.rand(1, 5, 6, 7))
    with pytest.raises(InputError, match=r"moving image: has shape \(5, 6, 7\), that of the result"):
        RegistrationResult.load(tmp_path / "out", moving=other)
    assert result.moving_grid.shape != (5, 6, 7)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_an_image_of_the_same_shape_elsewhere_is_refused(tmp_path, role):
    result = stored(tmp_path, "mixed", ("forward", "inverse"))
    grid = getattr(result, f"{role}_grid")
    matrix = grid.full_affine.copy()
    matrix[0, 3] += 7
    write_image(tmp_path / "other.nii.gz", torch.rand(1, *grid.shape), Grid.placed(grid.shape, matrix))
    with pytest.raises(InputError, match=rf"{role} image: has the shape of that of the result .* lies elsewhere"):
        RegistrationResult.load(tmp_path / "out", **{role: tmp_path / "other.nii.gz"})


@pytest.mark.parametrize("several", [False, True])
def test_a_file_of_another_content_is_told(tmp_path, several, caplog):
    result = stored(tmp_path, "mixed", ("forward", "inverse"))
    if several:
        images = {"fixed": [str(tmp_path / "fixed.nii.gz")] * 2, "moving": [str(tmp_path / "moving.nii.gz")] * 2}
        result = dataclasses.replace(result, arguments=described_arguments({**images, "seed": 0}))
        (tmp_path / "out" / "run.json").write_text(json.dumps(result.summary()))
    (tmp_path / "moving.nii.gz").rename(tmp_path / "moved.nii.gz")
    write_image(tmp_path / "other.nii.gz", plain(result.moving_image) + 1, result.moving_grid)
    with caplog.at_level(logging.WARNING):
        RegistrationResult.load(tmp_path / "out", moving=tmp_path / "moved.nii.gz")
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        RegistrationResult.load(tmp_path / "out", moving=tmp_path / "other.nii.gz")
    assert "moving image" in caplog.text and "other.nii.gz: has another content than the registered file" in caplog.text


def test_what_is_saved_has_nothing_of_an_earlier_result(tmp_path):
    result = stored(tmp_path, "mixed", ("forward", "composite", "warped-fixed"), files=False)
    out, missing = tmp_path / "out", MetaTensor(torch.rand(1, *result.fixed_grid.shape))
    error = ErrorMap.of_channels(torch.ones(3, *result.fixed_grid.shape), result.fixed_grid)
    dataclasses.replace(result, missing_fixed=missing, error_mm=error).save(out)
    for name in ("basis.safetensors", "basis.json", "report.html", "notes.txt"):
        (out / name).touch()
    paths = result.save(out)
    assert paths[-1].name == "run.json" and {p.name for p in out.iterdir()} == {*(p.name for p in paths), "notes.txt"}
    found = RegistrationResult.load(out)
    assert found.basis is None and found.error_mm is None and found.missing_fixed is None and found.warped_fixed is None


def test_a_basis_that_was_saved_before_is_kept(tmp_path):
    result = stored(tmp_path, "mixed", (), files=False)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "basis.safetensors").touch()
    result.save(tmp_path / "new")
    assert (tmp_path / "new" / "basis.safetensors").exists()


def test_what_cannot_be_saved_removes_nothing(tmp_path):
    result = stored(tmp_path, "mixed", ("forward",), files=False)
    with pytest.raises(InputError, match="does not hold the moving image"):
        dataclasses.replace(result, warped_moving=None).save(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"forward_field.nii.gz", "run.json"}
