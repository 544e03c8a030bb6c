# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Folders of DICOM slices: the right series, in the right place, or a refusal."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.io import read_image

from .dicom_slices import write_slices

VOLUME = np.random.default_rng(0).integers(0, 1000, (5, 6, 4)).astype(np.int16)  # z, y, x


def write(folder: Path, series: str, tilt: float = 0.0, skip: tuple[int, ...] = (), **more: str) -> None:
    write_slices(folder, series, VOLUME, tilt, skip, **more)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path, "moving")
    message = str(caught.value)
    assert message.startswith(f"moving image {path}: ") and "\n" not in message and ";" in message
    return message


def test_one_of_several_series_in_a_folder(tmp_path):
    write(tmp_path, "1.2.3.4", **{"0008|103e": "T1 sag"})
    write(tmp_path, "1.2.3.5", skip=(4,))
    message = refusal(tmp_path)
    assert "2 DICOM series: 1.2.3.4 (T1 sag, 5 slices)" in message and "(4 slices)" in message
    assert f"choose one as in {tmp_path / '1.2.3.4'}" in message
    np.testing.assert_array_equal(read_image(tmp_path / "1.2.3.4")[0].numpy()[0], VOLUME.T)
    np.testing.assert_array_equal(read_image(tmp_path / "1.2.3.5")[0].numpy()[0], VOLUME.T[..., :4])
    assert "2 DICOM series" in refusal(tmp_path / "1.2.3")
    assert "no DICOM series whose UID begins so" in refusal(tmp_path / "1.2.4")


def test_a_tilted_gantry_is_a_shear(tmp_path):
    write(tmp_path, "1.2.3.4", tilt=1.0)
    affine = read_image(tmp_path)[0].affine.numpy()
    np.testing.assert_allclose(affine, [[-2, 0, 0, -1], [0, -3, -1, -2], [0, 0, 4, 0], [0, 0, 0, 1]], atol=1e-9)


def test_missing_slices(tmp_path, capfd):
    write(tmp_path, "1.2.3.4", skip=(2,))
    message = refusal(tmp_path)
    assert "slices are missing or unevenly spaced" in message and "dcm2niix" in message
    assert capfd.readouterr().err == ""  # ITK's own warning


def test_slightly_uneven_slices(tmp_path, caplog):
    write(tmp_path, "1.2.3.4", skip=(2,))
    write(tmp_path, "1.2.3.4", skip=(0, 1, 3, 4), **{"0020|0032": "1\\2\\8.2"})
    with caplog.at_level(logging.WARNING):
        read_image(tmp_path)
    assert "the distance of slices varies by up to 0.2 mm and is taken to be 4 mm" in caplog.text


def test_rescaled_values(tmp_path):
    write(tmp_path, "1.2.3.4", **{"0028|1052": "-1000", "0028|1053": "1"})
    assert read_image(tmp_path)[0].min() >= -1000
