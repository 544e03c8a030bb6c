# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Runs of one channel of a file, or one of several DICOM series in a folder, whose record names them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from pydicom.uid import MRImageStorage

from monai_locor.io import FileChannel, read_image
from monai_locor.registration import RegistrationResult
from monai_locor.registration.described import described_image
from monai_locor.registration.manifest import RunManifest, sha256

from ..io.dicom_files import dataset
from ..io.dicom_files import save as save_dicom
from ..run_schema import valid_run
from .files import AFFINE, load, save

WORDS = ("--config", "short.json", "--device", "cpu", "--outputs", "forward,inverse")
SERIES = {"fixed": "1.2.3.10", "moving": "1.2.3.20"}


@pytest.fixture
def channels(short_folder):
    """The pair, each in channel 1 of a file whose channel 0 is something else."""
    for role in ("fixed", "moving"):
        image = load(short_folder / f"{role}.nii.gz").astype(np.float32)
        save(short_folder / f"{role}_two.nii.gz", np.stack([image[::-1] ** 2, image], -1))
    return ("fixed_two.nii.gz", "moving_two.nii.gz", "--fixed-channel", "1", "--moving-channel", "1")


@pytest.fixture
def series(short_folder):
    """The pair as two DICOM series in one folder."""
    for role, uid in SERIES.items():
        image = np.rint(1000 * load(short_folder / f"{role}.nii.gz")).astype(np.int16)
        for k in range(image.shape[2]):
            place = {"ImagePositionPatient": [0.0, 0.0, 3.0 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            geometry = {**place, "PixelSpacing": [2.0, 2.0], "SliceThickness": 3, "InstanceNumber": k + 1}
            pixels = np.ascontiguousarray(image[..., k].T)
            save_dicom(short_folder / "study" / f"{role}{k}.dcm", dataset(pixels, MRImageStorage, uid, **geometry))
    return tuple(f"study/{uid}" for uid in SERIES.values())


def recorded(folder) -> dict[str, object]:
    return valid_run(folder / "run.json")["arguments"]


def test_a_channel_is_recorded_and_repeated(run, channels, short_folder):
    assert run("register", *channels, *WORDS, "-o", "out").code in (0, 1)
    file = short_folder / "fixed_two.nii.gz"
    assert recorded(short_folder / "out")["fixed"] == {"path": str(file), "sha256": sha256(file), "channel": 1}
    arguments = RunManifest.load("out").arguments()
    assert arguments["moving"] == FileChannel(str(short_folder / "moving_two.nii.gz"), 1)
    assert run("register", "--from", "out/run.json", "--outputs", "forward", "-o", "again").code in (0, 1)
    assert recorded(short_folder / "again") == recorded(short_folder / "out")
    field, again = (load(short_folder / name / "forward_field.nii.gz") for name in ("out", "again"))
    np.testing.assert_array_equal(again, field)
    run("register", "fixed.nii.gz", "moving.nii.gz", *WORDS, "-o", "plain")
    np.testing.assert_array_equal(load(short_folder / "plain" / "forward_field.nii.gz"), field)


def test_the_record_of_a_channel_is_enough_to_load(run, channels, short_folder, caplog):
    run("register", *channels, *WORDS, "-o", "out")
    expected = read_image("fixed.nii.gz")[0]
    assert np.array_equal(RegistrationResult.load("out").held("fixed_image"), expected)
    (short_folder / "moved").mkdir()
    for role in ("fixed", "moving"):
        shutil.move(f"{role}_two.nii.gz", "moved")
    caplog.clear()
    moved = RegistrationResult.load("out", "moved/fixed_two.nii.gz", "moved/moving_two.nii.gz")
    assert np.array_equal(moved.held("fixed_image"), expected) and not caplog.records
    given = RegistrationResult.load("out", "fixed.nii.gz", "moving.nii.gz")  # the channels, saved as files
    assert np.array_equal(given.held("fixed_image"), expected) and "another content" in caplog.text


@pytest.mark.slow
def test_the_report_of_channels(run, channels, short_folder):
    pytest.importorskip("matplotlib")
    run("register", *channels, *WORDS, "-o", "out")
    assert run("report", "out").code == 0
    page = (short_folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "fixed_two.nii.gz" in page and "channel" in page


def test_the_check_of_channels(run, channels, short_folder):
    run("register", *channels, *WORDS, "-o", "out")
    images = channels[:2]
    for words in (channels, images):  # the record tells the channels
        assert run("check", *words, "out", "-o", "check.json", "--force").code in (0, 1)
        assert json.loads((short_folder / "check.json").read_text())["kind"] == "registration"
    answer = run("check", *images, "--fixed-channel", "0", "--moving-channel", "1", "out", "-o", "check.json", "--force")
    content = valid_run(short_folder / "check.json")
    assert content["kind"] == "check" and content["arguments"]["fixed"]["channel"] == 0
    assert "registered another fixed image" in answer.err


def test_a_record_of_voxels_is_known_again(run, channels, short_folder):
    """Earlier versions recorded a channel as an image in memory."""
    run("register", *channels, *WORDS, "-o", "out")
    content = json.loads((short_folder / "out" / "run.json").read_text())
    for role in ("fixed", "moving"):
        content["arguments"][role] = described_image(read_image(f"{role}_two.nii.gz", channel=1)[0])
    (short_folder / "out" / "run.json").write_text(json.dumps(content))
    assert run("check", *channels, "out", "-o", "check.json").code in (0, 1)
    assert json.loads((short_folder / "check.json").read_text())["kind"] == "registration"


def test_a_series_is_recorded_and_repeated(run, series, short_folder):
    assert run("register", *series, *WORDS, "-o", "out").code in (0, 1)
    study = short_folder / "study"
    expected = {role: {"path": str(study / uid), "sha256": sha256(study), "series": uid} for role, uid in SERIES.items()}
    assert {role: recorded(short_folder / "out")[role] for role in SERIES} == expected
    assert run("register", "--from", "out/run.json", "--outputs", "forward", "-o", "again").code in (0, 1)
    field, again = (load(short_folder / name / "forward_field.nii.gz") for name in ("out", "again"))
    np.testing.assert_array_equal(again, field)
    assert RegistrationResult.load("out", need_images=True).fixed_grid.affine == pytest.approx(AFFINE * [[-1], [-1], [1], [1]])
    run("check", *series, "out", "-o", "check.json")
    assert json.loads((short_folder / "check.json").read_text())["kind"] == "registration"
    answer = run("check", *series[::-1], "out", "-o", "check.json", "--force")
    assert json.loads((short_folder / "check.json").read_text())["kind"] == "check"
    assert "registered another fixed image" in answer.err
    study.rename(short_folder / "elsewhere")
    run("check", *(f"elsewhere/{uid}" for uid in SERIES.values()), "out", "-o", "check.json", "--force")
    assert json.loads((short_folder / "check.json").read_text())["kind"] == "registration"


def test_a_channel_of_a_picture(run, short_folder):
    from PIL import Image

    generator = np.random.default_rng(0)
    for role in ("fixed", "moving"):
        plane = load(short_folder / f"{role}.nii.gz")[:, :, 5]
        image = np.stack([255 * generator.random(plane.shape), 100 * plane, 255 - 100 * plane], -1).clip(0, 255)
        Image.fromarray(np.rint(image).astype(np.uint8)).resize((72, 84)).save(short_folder / f"{role}.png")
    words = ("fixed.png", "moving.png", "--fixed-channel", "1", "--moving-channel", "1")
    assert run("register", *words, *WORDS, "-o", "out", "--outputs", "warped,forward,inverse").code in (0, 1)
    assert (short_folder / "out" / "warped.png").exists() and recorded(short_folder / "out")["fixed"]["channel"] == 1
    assert run("register", "--from", "out/run.json", "-o", "again", "--outputs", "warped").code in (0, 1)
    assert (short_folder / "again" / "warped.png").read_bytes() == (short_folder / "out" / "warped.png").read_bytes()
