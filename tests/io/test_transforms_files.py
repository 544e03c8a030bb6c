# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The registry: formats found out, refusals, and what the table says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.errors import InputError
from monai_locor.geometry import SpatialTransform
from monai_locor.io import FORMATS, formats_text, read_transform, read_transforms, write_image, write_transform
from monai_locor.io.transforms import planned_files

from .transform_cases import GRIDS, some_affine, some_transform


def test_every_format_is_described():
    text = formats_text().splitlines()
    assert len(text) == 2 * len(FORMATS) >= 8
    for name, kind in FORMATS.items():
        assert kind.name == name and (kind.reads or kind.writes) and len(kind.description) > 10
        line, told = next(pair for pair in zip(text[::2], text[1::2], strict=True) if pair[0].startswith(f"{name} "))
        assert kind.description in line and told.endswith(f"recognized by: {kind.recognized or 'nothing, name it'}")


def test_names_that_say_nothing(tmp_path):
    ours = SpatialTransform.of_affine(some_affine(3))
    with pytest.raises(InputError, match=r"t\.xyz: .*name the format"):
        write_transform(tmp_path / "t.xyz", ours)
    with pytest.raises(InputError, match="no transform format 'itc'; choose one of itk, "):
        write_transform(tmp_path / "t.h5", ours, format="itc")
    with pytest.raises(InputError, match=r"t\.nii: a file of the format itk must end in \.h5"):
        write_transform(tmp_path / "t.nii", ours, format="itk")
    with pytest.raises(InputError, match=r"none\.h5: no such file"):
        read_transform(tmp_path / "none.h5")
    with pytest.raises(InputError, match=r"none\.h5: no such file"):
        read_transform(tmp_path / "none.h5", format="itk")
    with pytest.raises(InputError, match="neither"):
        read_transform(tmp_path / "none", format="ants")
    with pytest.raises(InputError, match="empty"):
        read_transforms([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["flirt", "fsl-rel", "learn2reg"])
def test_images_and_files_give_their_grids(tmp_path, name):
    """Where a format counts voxels, an image is as good as its grid, in memory or in a file."""
    fixed, moving = GRIDS["mixed"]
    given, files = {}, {}
    for role, grid in (("fixed", fixed), ("moving", moving)):
        values = torch.rand(1, *grid.shape)
        given[role], files[role] = MetaTensor(values, affine=torch.from_numpy(grid.full_affine)), tmp_path / f"{role}.nii.gz"
        write_image(files[role], values, grid)
    ours = SpatialTransform.of_affine(some_affine(3)) if name == "flirt" else some_transform(fixed)
    path = tmp_path / f"t{FORMATS[name].suffixes[0]}"
    write_transform(path, ours, format=name, **files)
    points = fixed.points().reshape(-1, 3)[::97]
    expected = read_transform(path, format=name, fixed=fixed, moving=moving).points(points)
    for images in (given, files):
        found = read_transform(path, format=name, **images)
        np.testing.assert_allclose(found.points(points), expected, atol=1e-3)
        np.testing.assert_allclose(read_transforms([path], formats=name, **images).points(points), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["flirt", "fsl-rel"])
def test_an_inverse_counts_the_voxels_of_its_own_images(tmp_path, name):
    """The file goes from the moving to the fixed image."""
    fixed, moving = GRIDS["mixed"]
    back = SpatialTransform.of_affine(some_affine(3)) if name == "flirt" else some_transform(moving)
    path = tmp_path / f"t{FORMATS[name].suffixes[0]}"
    write_transform(path, back, format=name, fixed=moving, moving=fixed)
    own = read_transform(path, format=name, fixed=moving, moving=fixed)
    points = fixed.points().reshape(-1, 3)[::97]
    found = read_transforms([path], invert=[True], formats=name, fixed=fixed, moving=moving)
    np.testing.assert_allclose(found.points(points), own.inverse().points(points), atol=1e-6)


def test_what_cannot_be_written(tmp_path):
    fixed, _ = GRIDS["mixed"]
    with pytest.raises(InputError, match=r"t\.tfm: holds affine maps only.*\.h5"):
        write_transform(tmp_path / "t.tfm", some_transform(fixed))
    with pytest.raises(InputError, match=r"t\.nii\.gz: an affine map has no grid.*give the fixed image"):
        write_transform(tmp_path / "t.nii.gz", SpatialTransform.of_affine(np.eye(4)))
    with pytest.raises(InputError, match=r"folder .*missing does not exist"):
        write_transform(tmp_path / "missing" / "t.tfm", SpatialTransform.of_affine(np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_planned_files(tmp_path):
    assert [p.name for p in planned_files(tmp_path / "t.h5")] == ["t.h5", "t_inverse.h5"]
    assert [p.name for p in planned_files(tmp_path / "t.mat")] == ["t.mat"]
    assert len(planned_files(tmp_path / "p_", "ants")) == 3
