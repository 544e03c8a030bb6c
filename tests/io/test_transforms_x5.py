# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""X5 files: read back, as nitransforms writes them, and refusals."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import AffineStep, SpatialTransform
from monai_locor.io.transforms import read_transform, write_transform

from .transform_cases import GRIDS, inner_points, some_affine, some_transform


def stored(path, parts, chains=None):
    """A file of linear transforms and of fields ``(values, representation, grid)``, with chains by name."""
    with h5py.File(path, "w") as file:
        file.attrs["Format"] = "X5"
        group = file.create_group("TransformGroup")
        for index, part in enumerate(parts):
            item = group.create_group(str(index))
            values, representation, grid = part if isinstance(part, tuple) else (part, "matrix", None)
            item.attrs["Type"], item.attrs["Representation"] = "linear" if grid is None else "nonlinear", representation
            item.create_dataset("Transform", data=values)
            if grid is not None:
                domain = item.create_group("Domain")
                domain.create_dataset("Size", data=grid.shape)
                domain.create_dataset("Mapping", data=grid.affine)
        for name, order in (chains or {}).items():
            file.require_group("TransformChain").create_dataset(name, data=order)
    return path


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize("kind", ["affine", "deformable", "chain"])
def test_read_back(tmp_path, grids, kind):
    fixed, _ = GRIDS[grids]
    affine = SpatialTransform.of_affine(some_affine(fixed.dims))
    ours = {"affine": affine, "deformable": some_transform(fixed), "chain": affine.then(some_transform(fixed))}[kind]
    path = tmp_path / "t.x5"
    assert write_transform(path, ours, fixed=fixed) == [path]
    back = read_transform(path)
    assert [type(step) for step in back.steps] == [type(step) for step in ours.steps]
    points = inner_points(fixed)
    np.testing.assert_allclose(back.points(points), ours.points(points), atol=1e-5)


def test_content_decides_not_the_name(tmp_path):
    path = stored(tmp_path / "t.h5", [some_affine(3)])
    np.testing.assert_array_equal(read_transform(path).matrix, some_affine(3))


def test_chains_order_transforms_and_deformations_are_positions(tmp_path):
    grid = GRIDS["mixed"][0]
    positions = grid.points() + 1.5
    path = stored(tmp_path / "t.x5", [some_affine(3)[None], (positions, "deformations", grid)], {"0": b"1/0"})
    points = inner_points(grid)
    expected = AffineStep(some_affine(3)).matrix
    np.testing.assert_allclose(
        read_transform(path).points(points), (points + 1.5) @ expected[:3, :3].T + expected[:3, 3], atol=1e-4
    )


def test_refusals(tmp_path):
    grid, matrix = GRIDS["mixed"][0], some_affine(3)
    field = np.zeros((*grid.shape, 3), np.float32)
    refused = {
        "2 transforms without a chain": ([matrix, matrix], None),
        "2 chains": ([matrix], {"0": "0", "1": "0"}),
        "of coefficients; convert it": ([(field, "coefficients", grid)], None),
        "its field has the shape": ([(field[1:], "displacements", grid)], None),
        "is it a complete X5 file": ([matrix], {"0": "7"}),
    }
    for message, (parts, chains) in refused.items():
        with pytest.raises(InputError, match=message):
            read_transform(stored(tmp_path / "t.x5", parts, chains))
    with h5py.File(stored(tmp_path / "t.x5", [matrix]), "r+") as file:
        file["TransformGroup/0"].attrs["ArrayLength"] = 3
    with pytest.raises(InputError, match="series of 3 transforms"):
        read_transform(tmp_path / "t.x5")
    (tmp_path / "t.x5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"t\.x5"):
        read_transform(tmp_path / "t.x5")
