# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Mosaics of Siemens are taken apart."""

from __future__ import annotations

import pytest

from monai_locor.io.stored_image import TimeAxis

from .dicom_files import (
    PLANES,
    assert_in_place,
    mosaic,
    read,
    refusal,
    save,
    without_pydicom,
)


@pytest.mark.parametrize("orientation", PLANES.values(), ids=PLANES)
@pytest.mark.parametrize(("sign", "tag"), [(0, True), (1, False), (-1, True)], ids=["tag", "CSA", "CSA reversed"])
@pytest.mark.parametrize("with_pydicom", [True, False])
def test_a_mosaic_is_taken_apart(tmp_path, monkeypatch, orientation, sign, tag, with_pydicom):
    file = save(tmp_path / "a.ima", mosaic(7, 0, orientation, sign, tag))
    if not with_pydicom:
        without_pydicom(monkeypatch)
    assert read(file).shape == (5, 6, 7)
    assert_in_place(read(file))


def test_mosaics_are_a_series_in_time(tmp_path):
    for t in range(3):
        save(tmp_path / f"{9 - t}.dcm", mosaic(10, t, AcquisitionNumber=t + 1, RepetitionTime=2500))
    stored = read(tmp_path)
    assert stored.shape == (5, 6, 10) and stored.channels == ("time 1", "time 2", "time 3")
    assert stored.time == TimeAxis(2.5, "sec")
    assert_in_place(stored, 3)


@pytest.mark.parametrize("lacks", ["count", "gap", "position"])
def test_a_mosaic_that_cannot_be_taken_apart(tmp_path, lacks):
    data = mosaic(7, tag=lacks != "count")
    if lacks == "gap":
        del data.SpacingBetweenSlices
    if lacks == "position":
        del data.ImagePositionPatient
    refusal(save(tmp_path / "a.dcm", data), "a.dcm is a mosaic", "dcm2niix")


def test_the_number_of_slices_in_two_bytes(tmp_path):
    """The type of private elements gets lost in some archives; 49 is the character 1 then."""
    data = mosaic(49, tag=False)
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "UN", b"1\0")
    stored = read(save(tmp_path / "a.dcm", data))
    assert stored.shape == (5, 6, 49)
    assert_in_place(stored)
