# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What templates, midpoints and series refuse before the first registration."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

import monai_locor
from monai_locor import InputError

from ..cohort.small import save_image
from .serial import serial  # noqa: F401 (a fixture)

pytest.importorskip("distributed")


@pytest.fixture
def build(serial, tmp_path):  # noqa: F811
    """Build a set of a kind in ``tmp_path/out``; nothing may be registered."""
    images = {name: save_image(tmp_path / f"{name}.nii") for name in ("0000", "0001")}
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.diag([3.0, 3, 3, 1])), tmp_path / "series.nii")
    subjects = [{"id": name, "image": str(path)} for name, path in images.items()]
    given = {"template": subjects, "longitudinal": list(images.values()), "series": tmp_path / "series.nii"}

    def call(kind, **options):
        return getattr(monai_locor, kind)(given[kind], tmp_path / "out", progress=False, **options)

    yield call
    assert serial.asked == []


each_kind = pytest.mark.parametrize("kind", ["template", "longitudinal", "series"])


@each_kind
def test_a_folder_that_no_run_wrote_is_not_replaced(build, tmp_path, kind):
    path = save_image(tmp_path / "out" / "pairs" / "0001" / "image.nii")
    with pytest.raises(InputError, match=r"pairs.0001 is not that of a pair"):
        build(kind, force=True)
    assert path.exists()
