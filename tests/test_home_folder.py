# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whatever writes a file takes ``~`` for the home folder, and makes no folder of this name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_locor.geometry import Grid, SpatialTransform
from monai_locor.io import (
    PointList,
    atomic_path,
    write_affine,
    write_displacement_field,
    write_image,
    write_points,
    write_transform,
)
from monai_locor.io.dicom.images import write_series
from monai_locor.io.paths import write_json
from monai_locor.quality.error_map import ErrorMap
from monai_locor.registration.error_files import write_error_map
from monai_locor.report import before_after_picture, explain_fit, write_report
from monai_locor.report.html.thumbnail import write_thumbnail
from monai_locor.report.summary import write_summary

from .io.dicom_files import AXIAL, places
from .io.dicom_files import write_series as dicom_series
from .phantoms import grid_of, image
from .report.fit_phantom import CONFIG, bases, displaced
from .report.results import aligned, result_with

GRID = grid_of((6, 5, 7), (2.0, 2.0, 2.0))
PICTURE = Grid((6, 5), np.diag([-1.0, -1.0, 1.0]))
VALUES = torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(0))


def write_text(path: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("whole")


def write_dicom(folder: str) -> list[Path]:
    there = dicom_series(Path(folder).expanduser().parent / "given", places(AXIAL, 3), AXIAL)
    return write_series(folder, VALUES.numpy(), GRID, there, there)


RESULT = result_with(*aligned(grid_of((16, 14, 13), (2.0, 2.0, 2.0))))
MAP = ErrorMap(*VALUES.expand(3, *GRID.shape), GRID)
FIELD = torch.zeros(3, *GRID.shape)

WRITERS: dict[str, Callable[[str], Any]] = {
    "a.txt": write_text,
    "a.json": lambda path: write_json(path, {}),
    "a.nii.gz": lambda path: write_image(path, VALUES, GRID),
    "a.mha": lambda path: write_image(path, VALUES, GRID),
    "a.png": lambda path: write_image(path, torch.zeros(1, *PICTURE.shape, dtype=torch.uint8), PICTURE),
    "a.ome.zarr": lambda path: write_image(path, VALUES, GRID),
    "series": write_dicom,
    "field.nii.gz": lambda path: write_displacement_field(path, FIELD, GRID),
    "a.tfm": lambda path: write_affine(path, np.eye(4)),
    "transform.nii.gz": lambda path: write_transform(path, SpatialTransform.of_field(FIELD, GRID)),
    "a.csv": lambda path: write_points(path, PointList(torch.zeros(1, 3))),
    "error.nii.gz": lambda path: write_error_map(path, MAP),
    "summary.csv": lambda path: write_summary(path, [{"pair": "a"}]),
    "result": RESULT.save,
    "report.html": lambda path: write_report(path, RESULT, residuals=False),
    "thumbnail.jpg": lambda path: write_thumbnail(path, RESULT),
    "before_after.png": lambda path: before_after_picture(path, *[image(torch.rand(PICTURE.shape), PICTURE)] * 3),
    "fit.png": lambda path: explain_fit(*displaced(2), voxel=[13, 11], path=path, dpi=20),
    "basis.safetensors": lambda path: bases(CONFIG).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_home_folder(name, tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "made", here):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(here)
    told = WRITERS[name](f"~/made/{name}")
    assert (home / "made" / name).exists() and not list(here.iterdir())
    told = [told] if isinstance(told, Path) else told if isinstance(told, list) else []
    assert all(path.exists() for path in told)
