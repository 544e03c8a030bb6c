# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One channel of a file as the source of an image."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.io import FileChannel, read_image, read_mask
from monai_locor.io.grids import read_grid
from monai_locor.io.images import read_labels
from monai_locor.registration.channels import read_channels
from monai_locor.registration.described import described_image

VALUES = np.random.default_rng(0).integers(0, 2, (4, 5, 6, 3)).astype(np.uint8)


@pytest.fixture
def file(tmp_path) -> str:
    nib.save(nib.Nifti1Image(VALUES, np.eye(4)), tmp_path / "three.nii")
    return str(tmp_path / "three.nii")


@pytest.mark.parametrize("channel", [0, 2])
def test_every_reader_takes_the_channel(file, channel):
    source = FileChannel(file, channel)
    for image in (read_image(source)[0], read_mask(source), read_labels(source)):
        assert image.meta["filename_or_obj"] == file
        np.testing.assert_array_equal(image[0].numpy(), VALUES[..., channel])
    assert read_grid(source).shape == VALUES.shape[:3]
    np.testing.assert_array_equal(read_channels([source, FileChannel(file, 1)], "fixed")[0][1].numpy(), VALUES[..., 1])
    np.testing.assert_array_equal(read_image(source, channel=1)[0][0].numpy(), VALUES[..., 1])  # a named one wins


def test_it_is_a_path_and_recorded_with_its_channel(file):
    source = FileChannel(file, 2)
    assert os.fspath(source) == str(source) == file and Path(source) == Path(file)
    assert pickle.loads(pickle.dumps(source)) == source
    assert described_image(source) == {**described_image(file), "channel": 2}


def test_what_is_refused(file):
    for channel in (3, -1):
        with pytest.raises(InputError, match=f"three.nii: has no channel {channel}"):
            read_image(FileChannel(file, channel))
    with pytest.raises(InputError, match="a mask has one"):
        read_mask(file)
