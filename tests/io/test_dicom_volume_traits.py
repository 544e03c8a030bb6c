# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Several volumes in one DICOM series or file are channels, named by what tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import (
    generate_uid,
)

from monai_locor.errors import InputError
from monai_locor.io import read_image

from ..parameters import mostly_slow
from .dicom_files import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    assert_in_place,
    enhanced,
    expected,
    item,
    places,
    read,
    refusal,
    save,
    slice_of,
    without_pydicom,
    write_series,
)

REPEATS = {
    "echoes": ([{"EchoTime": 12.5}, {"EchoTime": 5}], ("echo time 5 ms", "echo time 12.5 ms"), (1, 0)),
    "echo numbers": ([{"EchoNumbers": 2}, {"EchoNumbers": 1}], ("echo 1", "echo 2"), (1, 0)),
    "times": ([{"TemporalPositionIdentifier": t} for t in (3, 1, 2)], ("time 1", "time 2", "time 3"), (1, 2, 0)),
    "acquisitions": ([{"AcquisitionNumber": t} for t in (7, 4)], ("time 1", "time 2"), (1, 0)),
    "cardiac phases": ([{"TriggerTime": t} for t in (0, 40)], ("trigger time 0 ms", "trigger time 40 ms"), (0, 1)),
    "phase": (
        [{"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}],
        ("magnitude", "phase"),
        (1, 0),
    ),
    "phase of Philips": (
        [{"ImageType": ["ORIGINAL", "PRIMARY", f"{kind}_FFE", kind, "FFE"]} for kind in "MP"],
        ("magnitude", "phase"),
        (0, 1),
    ),
    "phase of two echoes": (
        [{"ImageType": ["ORIGINAL", "PRIMARY", kind], "EchoTime": time} for kind in "MP" for time in (5, 10)],
        tuple(f"{kind}, echo time {time} ms" for kind in ("magnitude", "phase") for time in (5, 10)),
        (0, 1, 2, 3),
    ),
    "image types": ([{"ImageType": ["DERIVED", "PRIMARY", kind]} for kind in ("SUB", "MIP")], ("type MIP", "type SUB"), (1, 0)),
    "diffusion": ([{"DiffusionBValue": b} for b in (1000.0, 0.0)], ("b-value 0", "b-value 1000"), (1, 0)),
    "flip angles": ([{"FlipAngle": a} for a in (4, 18)], ("flip angle 4°", "flip angle 18°"), (0, 1)),
}


@pytest.mark.parametrize("kind", REPEATS)
@pytest.mark.parametrize("with_pydicom", mostly_slow([True, False]))
def test_volumes_at_the_same_positions_are_channels(tmp_path, monkeypatch, kind, with_pydicom):
    volumes, names, order = REPEATS[kind]
    write_series(tmp_path, places(CORONAL, 5), CORONAL, volumes)
    if not with_pydicom:
        without_pydicom(monkeypatch)
    stored = read(tmp_path)
    assert stored.channels == names and stored.shape == (5, 6, 5)
    for channel, v in enumerate(order):
        np.testing.assert_allclose(stored.voxels[..., channel], expected(stored.shape, stored.affine, v), atol=0.51)


@pytest.mark.parametrize("element", ["AcquisitionTime", "ContentTime", "TriggerTime", "InstanceNumber"])
def test_times_that_differ_from_slice_to_slice(tmp_path, element):
    """A cine, whose slices were taken one after the other."""
    for k, place in enumerate(places(AXIAL, 3)):
        for v in range(4):
            number = 100 * k + 10 * v
            value = f"{number + 100000}" if element in ("AcquisitionTime", "ContentTime") else number
            save(tmp_path / f"{generate_uid()}.dcm", slice_of(place, AXIAL, v, **{element: value}))
    stored = read(tmp_path)
    noun = "repeat" if element == "InstanceNumber" else "time"
    assert stored.channels == tuple(f"{noun} {k}" for k in (1, 2, 3, 4))
    assert_in_place(stored, 4)


ENHANCED = {
    "echoes": ([{"MREchoSequence": [item(EffectiveEchoTime=t)]} for t in (5.0, 7.5)], ("echo time 5 ms", "echo time 7.5 ms")),
    "times": ([{"FrameContentSequence": [item(TemporalPositionIndex=t)]} for t in (1, 2)], ("time 1", "time 2")),
    "components": (
        [{"MRImageFrameTypeSequence": [item(ComplexImageComponent=c)]} for c in ("MAGNITUDE", "PHASE")],
        ("magnitude", "phase"),
    ),
    "frame types": (
        [{"MRImageFrameTypeSequence": [item(FrameType=["ORIGINAL", "PRIMARY", "T1", c])]} for c in ("M", "FIELD_MAP")],
        ("magnitude", "field map"),
    ),
    "diffusion": (
        [
            {"MRDiffusionSequence": [item(DiffusionBValue=900.0, DiffusionGradientDirectionSequence=[direction])]}
            for direction in (
                item(DiffusionGradientOrientation=[0.0, 0.0, 1.0]),
                item(DiffusionGradientOrientation=[1.0, 0.0, 0.0]),
            )
        ],
        ("direction (0.0, 0.0, 1.0)", "direction (1.0, 0.0, 0.0)"),
    ),
    "converted": (
        [{"UnassignedPerFrameConvertedAttributesSequence": [item(EchoTime=t)]} for t in (5, 7)],
        ("echo time 5 ms", "echo time 7 ms"),
    ),
    "dimensions": (
        [{"FrameContentSequence": [item(DimensionIndexValues=[1, t])]} for t in (4, 6)],
        ("dimension 2: 4", "dimension 2: 6"),
    ),
    "nothing": ([{}, {}], ("repeat 1", "repeat 2")),
}


@pytest.mark.parametrize("kind", ENHANCED)
@pytest.mark.parametrize("inner", ["slices", "volumes"])
def test_volumes_in_one_file_are_channels(tmp_path, kind, inner):
    volumes, names = ENHANCED[kind]
    frames = [(place, v, groups) for v, groups in enumerate(volumes) for place in places(SAGITTAL, 4)]
    if inner == "volumes":
        frames = [frames[4 * v + k] for k in range(4) for v in range(2)]
    stored = read(save(tmp_path / "a.dcm", enhanced(frames, SAGITTAL)))
    assert stored.channels == names
    assert_in_place(stored, 2)


def test_a_folder_of_enhanced_files_is_a_series_in_time(tmp_path):
    for t in range(3):
        data = enhanced([(place, t, {}) for place in places(AXIAL, 4)], AcquisitionNumber=t + 1)
        save(tmp_path / f"{9 - t}.dcm", data)
    stored = read(tmp_path)
    assert stored.channels == ("time 1", "time 2", "time 3")
    assert_in_place(stored, 3)


def test_volumes_with_different_slices(tmp_path):
    write_series(tmp_path / "a", places(AXIAL, 5), volumes=[{"EchoTime": 5}, {"EchoTime": 10}])
    (tmp_path / "a" / "009.dcm").unlink()
    refusal(tmp_path / "a", "2 volumes do not have the same slices", "of 5 positions", "ms has 4", "ms has 5")


def test_an_echo_as_an_image(tmp_path):
    """Through the public function, with its choice of a channel."""
    write_series(tmp_path, places(OBLIQUE, 4), OBLIQUE, [{"EchoTime": 5}, {"EchoTime": 10}])
    image = read_image(tmp_path, channel=1)[0]
    assert image.meta["channels"] == ("echo time 10 ms",)
    np.testing.assert_allclose(image[0].numpy(), expected(image.shape[1:], image.affine.numpy(), 1), atol=0.51)
    with pytest.raises(
        InputError,
        match=r"2 channels or frames of shape .* \(0: echo time 5 ms, 1: echo time 10 ms\); choose one with channel=0 to 1",
    ):
        read_image(tmp_path)


PRIVATE = {
    "component of GE": ("GE", 0x0043, "GEMS_PARM_01", 0x2F, "SS", (1, 0), ("magnitude", "phase")),
    "b-value of GE": (
        "GE MEDICAL SYSTEMS",
        0x0043,
        "GEMS_PARM_01",
        0x39,
        "IS",
        ([1000000800, 8], [0, 0]),
        ("b-value 0", "b-value 800"),
    ),
    "b-value of Siemens": ("SIEMENS", 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", (900, 0), ("b-value 0", "b-value 900")),
    "b-value of Philips": ("Philips", 0x2001, "Philips Imaging DD 001", 0x03, "FL", (500.0, 0.0), ("b-value 0", "b-value 500")),
}


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("with_pydicom", [True, False])
def test_what_vendors_say_in_elements_of_their_own(tmp_path, monkeypatch, kind, with_pydicom):
    vendor, group, owner, element, representation, values, names = PRIVATE[kind]
    for v, value in enumerate(values):
        for k, place in enumerate(places(AXIAL, 3)):
            data = slice_of(place, AXIAL, 1 - v, Manufacturer=vendor)
            data.private_block(group, owner, create=True).add_new(element, representation, value)
            save(tmp_path / f"{v}{k}.dcm", data)
    if not with_pydicom:
        without_pydicom(monkeypatch)
    stored = read(tmp_path)
    assert stored.channels == names
    assert_in_place(stored, 2)
