# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps and landmarks from files, and what they may not be."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.data.annotations import read_label, read_landmarks


def text(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        "x,y,z\n1.5,-2,3e1\n4,5,6\n",
        "\ufeffX, Y ,Z\r\n1.5,-2,30\r\n\r\n4,5,6",
        "label,z,y,x\nleft,30,-2,1.5\nright,6,5,4\n",
    ],
)
def test_landmarks(tmp_path, content):
    points = read_landmarks(text(tmp_path / "a.csv", content))
    assert points.dtype == torch.float64 and points.tolist() == [[1.5, -2, 30], [4, 5, 6]]


def test_landmarks_keep_all_their_digits_and_two_axes(tmp_path):
    path = text(tmp_path / "a.csv", "x,y\n-123.456789012345,0.1\n")
    assert read_landmarks(path).tolist() == [[-123.456789012345, 0.1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2,3\n4,5,6\n", "the header x,y,z"),
        ("x,z\n4,5\n", "the header x,y,z"),
        ("", "0 lines"),
        ("x,y,z\n", "at least one point"),
        ("x,y,z\n1,2,3\n\n1,2\n", "line 4: is '1,2'"),
        ("x,y,z\n1,2,left\n", "line 2: is '1,2,left'"),
        ("x,y,z\n1,2,nan\n", "line 2"),
        (b"\xff\xfe\x00x", "cannot be read"),
    ],
)
def test_malformed_landmarks(tmp_path, content, message):
    path = text(tmp_path / "a.csv", content)
    with pytest.raises(InputError) as caught:
        read_landmarks(path, "moving")
    assert message in str(caught.value) and str(caught.value).startswith(f"moving landmarks {path}")
    assert "\n" not in str(caught.value)


def test_missing_landmarks(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_landmarks(tmp_path / "none.csv")


def test_a_label_map_keeps_its_values_and_grid(tmp_path):
    values = np.zeros((3, 4, 5), np.int16)
    values[1, 2, 3] = -7
    values[0, 0, 0] = 14175
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), tmp_path / "label.nii")
    label = read_label(tmp_path / "label.nii")
    assert label.dtype == torch.float32 and np.array_equal(label[0].numpy(), values)
    assert label.affine.diagonal().tolist() == [2, 2, 3, 1]


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_what_is_no_label(value):
    values = torch.zeros(1, 3, 4, 5)
    values[0, 1, 1, 1] = value
    with pytest.raises(InputError, match=f"fixed label .* the value {value:g}"):
        read_label(values)
