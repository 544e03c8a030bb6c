# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Templates, midpoints and series of tiny phantoms."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

import monai_locor
from monai_locor import InputError
from monai_locor.cohort.folder import CohortFolder
from monai_locor.geometry import Grid, SpatialTransform, warp
from monai_locor.io import read_image
from monai_locor.sets import Subject
from monai_locor.sets.averages import exponential_mm, mean_affine
from monai_locor.sets.rounds import Rounds

from ..phantoms import PLANE, grid_of
from .serial import LENIENT, SHORT, distance, serial, shifted, write_phantom  # noqa: F401 (a fixture)

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

OPTIONS = {
    "preset": SHORT,
    "outputs": ["affine", "forward", "inverse"],
    "thresholds": LENIENT,
    "device": "cpu",
    "progress": False,
}
OFFSETS = np.array([[3.0, 0], [0, -3.0], [-3.0, 3.0]])  # their sum is zero
STILL = SpatialTransform.of_affine(np.eye(3))


def waves(count: int) -> list[SpatialTransform]:
    """Smooth deformations of the plane whose velocities sum to zero."""
    x, y = np.moveaxis(PLANE.points(), -1, 0) * 2 * np.pi / 60
    fields = []
    for k in range(count):
        phase = 2 * np.pi * k / count
        velocity = 3 * np.stack([np.sin(y + phase), np.sin(x + phase)])
        fields.append(SpatialTransform.of_field(exponential_mm(torch.from_numpy(velocity).float(), PLANE), PLANE))
    return fields


def plane_set(folder, maps, contrasts=None) -> list[Subject]:
    """Phantoms at the mapped points of the plane."""
    found = []
    for k, mapped in enumerate(maps):
        contrast = "" if contrasts is None else contrasts[k]
        path = write_phantom(folder / f"s{k}.nii", PLANE, mapped, other=contrast == "B")
        found.append(Subject(f"s{k}", path, contrast))
    return found


def difference(path, reference) -> float:
    """RMS difference of two images in the inner half of the plane, in units of the standard deviation of the second."""
    found, wanted = (read_image(str(p))[0] for p in (path, reference))
    moved = warp(found.as_tensor(), Grid.of(found), None, Grid.of(wanted))
    inner = (0, *(slice(n // 4, -(n // 4)) for n in wanted.shape[1:]))
    a, b = moved[inner], wanted.as_tensor()[inner]
    return float((a - b).square().mean().sqrt() / b.std())


def test_the_order_of_the_images_has_no_effect(serial, tmp_path):  # noqa: F811
    subjects = plane_set(tmp_path, [shifted(offset) for offset in OFFSETS])
    one, other = (
        monai_locor.template(some, tmp_path / name, rounds=1, **OPTIONS)
        for some, name in ((subjects, "one"), ([subjects[k] for k in (2, 0, 1)], "other"))
    )
    files = ["template.nii.gz", *(f"pairs/s{k}/{name}" for k in range(3) for name in ("forward_field.nii.gz", "affine.tfm"))]
    for name in files:
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert [row["id"] for row in other.rows] == ["s0", "s1", "s2"] and set(one.transforms) == {"s0", "s1", "s2"}


def test_equal_images_give_that_image(serial, tmp_path):  # noqa: F811
    subjects = plane_set(tmp_path, [STILL] * 3)
    found = monai_locor.template(subjects, tmp_path / "out", rounds=1, **OPTIONS)
    assert difference(found.images[""], subjects[0].image) < 0.05
    assert all(distance(t, STILL, PLANE) < 0.15 for t in found.transforms.values())
    assert found.rounds[1]["shift_mm"] < 0.15 and found.rounds[1]["excluded"] == []
    assert found.image().shape == (1, *PLANE.shape)


def test_velocities_that_sum_to_zero_give_the_undisplaced_image(serial, tmp_path):  # noqa: F811
    maps = waves(3)
    subjects = plane_set(tmp_path, maps)
    still = write_phantom(tmp_path / "still.nii", PLANE)
    found = monai_locor.template(subjects, tmp_path / "out", rounds=2, **OPTIONS)
    assert difference(found.images[""], still) < 0.2 < difference(subjects[0].image, still)
    truth = {f"s{k}": mapped.inverse() for k, mapped in enumerate(maps)}
    assert max(distance(t, truth[name], PLANE) for name, t in found.transforms.items()) < 0.6
    assert found.rounds[2]["shift_mm"] < 0.4


def test_two_contrasts_share_a_space(serial, tmp_path):  # noqa: F811
    maps = [shifted(offset) for offset in [*OFFSETS, -OFFSETS[0]]]
    subjects = plane_set(tmp_path, maps, ["A", "B", "A", "B"])
    found = monai_locor.template(subjects, tmp_path / "out", rounds=1, reference="A", **OPTIONS)
    assert sorted(path.name for path in found.images.values()) == ["template.nii.gz", "template_B.nii.gz"]
    steps = [t.inverse().points(np.zeros((1, 2))) for t in found.transforms.values()]
    middle = np.mean(steps, 0)[0]
    for contrast, other in (("A", False), ("B", True)):
        still = write_phantom(tmp_path / f"{contrast}.nii", PLANE, shifted(-middle), other=other)
        assert difference(found.images[contrast], still) < 0.35
    about = json.loads((tmp_path / "out" / "template.json").read_text())
    assert about["reference"] == "A" and about["templates"] == {"A": "template.nii.gz", "B": "template_B.nii.gz"}


def test_an_interrupted_run_is_continued(serial, tmp_path):  # noqa: F811
    subjects = plane_set(tmp_path, [shifted(offset) for offset in OFFSETS])
    found = monai_locor.template(subjects, tmp_path / "out", rounds=1, **OPTIONS)
    assert len(serial.asked) == 2 + 3 + 3
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*template.nii.gz")}
    monai_locor.template(subjects, tmp_path / "out", rounds=1, **OPTIONS)
    assert len(serial.asked) == 8
    for path in (tmp_path / "out" / "rounds" / "1" / "pairs" / "s1", tmp_path / "out" / "rounds" / "0" / "average.json"):
        (path / "run.json" if path.is_dir() else path).unlink()
    monai_locor.template(subjects, tmp_path / "out", rounds=1, **OPTIONS)
    assert len(serial.asked) == 9 and {path: path.read_bytes() for path in kept} == kept
    with pytest.raises(InputError, match="finished with other inputs or settings"):
        monai_locor.template(subjects, tmp_path / "out", rounds=1, **{**OPTIONS, "seed": 1})
    with pytest.raises(InputError, match="pair s0 is finished with another template"):
        monai_locor.template(subjects, tmp_path / "out", rounds=2, **OPTIONS)
    assert {path: path.read_bytes() for path in kept} == kept
    assert found.counts["PASS" if "PASS" in found.counts else "WARN"] > 0


def test_an_excluded_image_does_not_move_the_mean_pose(serial, tmp_path, monkeypatch):  # noqa: F811
    usable = Rounds._usable
    monkeypatch.setattr(
        Rounds, "_usable", lambda self, found, known=(): [s for s in usable(self, found, known) if known or s.id != "s2"]
    )
    subjects = plane_set(tmp_path, [shifted(offset) for offset in OFFSETS])
    options = {**OPTIONS, "preset": SHORT.with_transform("rigid"), "outputs": ["affine"]}
    found = monai_locor.template(subjects, tmp_path / "out", rounds=1, **options)
    record = json.loads((found.folder / "rounds" / "1" / "average.json").read_text())
    assert record["excluded"] == ["s2"] == found.rounds[1]["excluded"]
    mean = mean_affine([np.array(matrix) for matrix in record["affines"].values()])
    np.testing.assert_allclose(mean, np.eye(3), atol=1e-5)


def test_the_midpoint_favors_no_visit(serial, tmp_path):  # noqa: F811
    grid, offset = grid_of((24, 24, 24), (3.0, 3.0, 3.0)), np.array([4.0, -2.0, 1.0])
    for name, first, second in (("forth", "a", "b"), ("back", "b", "a")):  # the same images with exchanged names
        write_phantom(tmp_path / name / f"{first}.nii", grid, shifted(-offset))
        write_phantom(tmp_path / name / f"{second}.nii", grid, shifted(offset))
    options = {**OPTIONS, "preset": SHORT.with_transform("rigid"), "outputs": ["affine"], "rounds": 1}
    found = {
        name: monai_locor.longitudinal(
            [tmp_path / name / "b.nii", tmp_path / name / "a.nii"], tmp_path / f"{name}_out", **options
        )
        for name in ("forth", "back")
    }
    for name, visit, wanted in (("forth", "a", offset), ("forth", "b", -offset), ("back", "b", offset), ("back", "a", -offset)):
        assert distance(found[name].transform(visit), shifted(wanted), grid) < 0.4
    assert distance(found["forth"].transform("a"), found["back"].transform("b"), grid) < 0.3


def test_frames_are_aligned_to_their_mean(serial, tmp_path):  # noqa: F811
    grid, offsets = grid_of((24, 24, 16), (3.0, 3.0, 3.0)), np.array([[2.0, 0, 0], [0, -2, 0], [-2, 2, 0], [0, 0, 0]])
    frames = [nib.load(write_phantom(tmp_path / f"{n}.nii", grid, shifted(-offset))) for n, offset in enumerate(offsets)]
    stacked = nib.Nifti1Image(np.stack([np.asarray(f.dataobj) for f in frames], -1), frames[0].affine)
    stacked.header.set_zooms((3, 3, 3, 2.5))
    stacked.header.set_xyzt_units("mm", "sec")
    nib.save(stacked, tmp_path / "series.nii")
    nib.save(nib.Nifti1Image(np.ones(grid.shape, np.uint8), frames[0].affine), tmp_path / "mask.nii")
    options = {name: value for name, value in OPTIONS.items() if name != "outputs"}
    found = monai_locor.series(tmp_path / "series.nii", tmp_path / "out", mask=tmp_path / "mask.nii", rounds=2, **options)
    corrected = nib.load(found.corrected)
    assert corrected.shape == stacked.shape and corrected.header.get_zooms()[3] == 2.5
    inner = (slice(5, -5),) * 3
    before, after = (np.asarray(i.dataobj)[inner].std(-1).mean() for i in (stacked, corrected))
    assert after < 0.25 * before
    shifts = np.array([[row[f"translation_{axis}_mm"] for axis in "xyz"] for row in found.motion])
    np.testing.assert_allclose(shifts - shifts.mean(0), offsets - offsets.mean(0), atol=0.4)
    assert found.motion[0]["step_mm"] == 0 and found.motion[1]["step_mm"] == pytest.approx(np.sqrt(8), abs=0.5)
    result = found.result("0001")  # its images are still there
    np.testing.assert_array_equal(result.moving_image.as_tensor()[0], np.asarray(stacked.dataobj)[..., 1])
    averages = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("average.json")}
    monai_locor.series(tmp_path / "series.nii", tmp_path / "out", mask=tmp_path / "mask.nii", rounds=2, **options)
    assert {path: path.stat().st_mtime_ns for path in averages} == averages and len(serial.asked) == 8
    assert not CohortFolder(tmp_path / "out" / "rounds").work.exists() and (tmp_path / "out" / "motion.csv").exists()
