# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Whatever says where to start: words, numbers, transforms of all libraries, files and lists give the map they stand for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, register
from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform
from monai_locor.io import write_transform
from monai_locor.io.transforms.library_objects import itk_of_steps, simpleitk_of_steps
from monai_locor.registration.manifest import RunManifest

from ..io.library_objects import ANTsTransform, write_ants_transform
from ..io.transform_cases import inner_points, smooth_field
from ..parameters import mostly_slow
from ..phantoms import image, turned

FIXED = turned(0.2, (2.0, -2.0, 2.2), (14, 15, 13))
MOVING = turned(-0.1, (2.1, 2.0, 2.0), (20, 21, 22))
NOTHING = {"stages": [], "multistart": "never"}
MATRIX = np.array([[1.02, -0.08, 0, 1.5], [0.08, 0.98, 0.03, -2.0], [0, -0.03, 1.01, 1.0], [0, 0, 0, 1.0]])
CHAIN = SpatialTransform((FieldStep(smooth_field(FIXED, 1.5), FIXED), AffineStep(MATRIX)))
CLOSE = 0.1  # mm: the engine keeps a deformation on a coarser lattice
AFFINE = SpatialTransform.of_affine(MATRIX)


def waves(grid: Grid) -> MetaTensor:
    return image(np.sin(grid.points() @ [0.3, 0.2, 0.25]) + 0.3 * np.cos(grid.points()[..., 0] / 3), grid)


FIXED_IMAGE, MOVING_IMAGE = waves(FIXED), waves(MOVING)


def run(initial, preset=NOTHING, **options):
    options = {"fixed": FIXED_IMAGE, "moving": MOVING_IMAGE, **options}
    return register(**options, initial=initial, preset=preset, progress=False, device="cpu")


def files(folder: Path) -> dict[str, list[str]]:
    """The chain as files of several kinds."""
    write_transform(folder / "field.nii.gz", SpatialTransform(CHAIN.steps[:1]), fixed=FIXED)
    write_transform(folder / "affine.mat", AFFINE)
    write_transform(folder / "back.tfm", AFFINE.inverse())
    write_transform(folder / "whole.h5", CHAIN)
    write_transform(folder / "prefix_", CHAIN, format="ants", fixed=FIXED)
    (folder / "earlier").mkdir()
    write_transform(folder / "earlier" / "transform.h5", CHAIN)
    return {
        "two": [str(folder / "field.nii.gz"), str(folder / "affine.mat")],
        "an inverse": [str(folder / "field.nii.gz"), f"[{folder / 'back.tfm'},1]"],
        "one": [str(folder / "whole.h5")],
        "prefix": [str(folder / "prefix_")],
        "folder": [str(folder / "earlier")],
    }


GIVEN: dict[str, Callable[[], Any]] = {  # made when they are needed: ITK takes its time to load
    "SpatialTransform": lambda: CHAIN,
    "SimpleITK": lambda: simpleitk_of_steps(CHAIN.steps),
    "itk": lambda: itk_of_steps(CHAIN.steps),
    "ants": lambda: ANTsTransform(simpleitk_of_steps(CHAIN.steps), "CompositeTransform"),
    "list of ours": lambda: [SpatialTransform(CHAIN.steps[:1]), AFFINE],
    "mixed list": lambda: [simpleitk_of_steps(CHAIN.steps[:1]), itk_of_steps(AFFINE.steps)],
    "inverse": lambda: [SpatialTransform(CHAIN.steps[:1]), (simpleitk_of_steps(AFFINE.inverse().steps), True)],
}
MATRICES: dict[str, Callable[[], Any]] = {
    "array": lambda: MATRIX,
    "list": MATRIX.tolist,
    "float32": lambda: torch.from_numpy(MATRIX).float(),
    "ours": lambda: AFFINE,
    "inverse": lambda: (AFFINE.inverse(), True),
    "SimpleITK": lambda: simpleitk_of_steps(AFFINE.steps),
    "itk": lambda: itk_of_steps(AFFINE.steps),
    "ants": lambda: ANTsTransform(simpleitk_of_steps(AFFINE.steps), "AffineTransform"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_deformations(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "ants", SimpleNamespace(write_transform=write_ants_transform))
    found = run(GIVEN[kind]())
    points = inner_points(FIXED)
    np.testing.assert_allclose(found.transform.points(points), CHAIN.points(points), atol=CLOSE)


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices(kind):
    found = run(MATRICES[kind]())
    np.testing.assert_allclose(found.affine, MATRIX, atol=1e-5)
    np.testing.assert_allclose(found.arguments["initial"]["matrix"], MATRIX, atol=1e-5)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("given", mostly_slow([CHAIN, MATRIX]), ids=["deformation", "affine"])
def test_another_result(given, back):
    first = run(given)
    found = run((first, True), fixed=MOVING_IMAGE, moving=FIXED_IMAGE) if back else run(first)
    expected = first.transform.inverse() if back else first.transform
    points = inner_points(MOVING if back else FIXED)
    np.testing.assert_allclose(found.transform.points(points), expected.points(points), atol=2 * CLOSE)


@pytest.mark.parametrize("kind", mostly_slow(["an inverse", "prefix", "ANTsPy", "two", "one", "folder"], 3))
def test_files(tmp_path, kind):
    known = files(tmp_path)
    given = {"fwdtransforms": known["two"]} if kind == "ANTsPy" else known[kind]
    found = run(given if len(given) > 1 or kind == "ANTsPy" else given[0])
    points = inner_points(FIXED)
    np.testing.assert_allclose(found.transform.points(points), CHAIN.points(points), atol=CLOSE)


@pytest.mark.parametrize("kind", mostly_slow(["an inverse", "folder", "two", "prefix"], 2))
def test_a_run_with_a_list_of_files_is_repeated(tmp_path, kind):
    given = files(tmp_path)[kind]
    first = run(given)
    first.save(tmp_path / "out")
    (tmp_path / "earlier" / "note.txt").write_text("is no part of the transform")
    arguments = RunManifest.load(tmp_path / "out").arguments(fixed=FIXED_IMAGE, moving=MOVING_IMAGE)
    assert arguments["initial"] == given
    assert torch.equal(register(**arguments, progress=False).forward_mm, first.forward_mm)
    for file in [*tmp_path.glob("*.*"), *tmp_path.glob("earlier/*.h5")]:
        file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(InputError, match="has changed since"):
        RunManifest.load(tmp_path / "out").arguments(fixed=FIXED_IMAGE, moving=MOVING_IMAGE)


@pytest.mark.parametrize(("word", "meant"), [("center", "centers"), ("moments", "moments")])
def test_words_are_settings(word, meant):
    affine = MOVING.affine.copy()
    affine[:3, 3] += [8, 0, 0]
    moved = MetaTensor(MOVING_IMAGE.as_tensor(), affine=torch.from_numpy(affine))
    found, expected = (run(*given, moving=moved) for given in ((word,), (None, {**NOTHING, "initialization": meant})))
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert found.config == expected.config and found.config.initialization == meant and "initial" not in found.arguments


def test_a_field_that_does_not_cover_the_fixed_image_is_told(caplog):
    small = turned(0.2, (2.0, -2.0, 2.2), (8, 8, 8))
    with caplog.at_level(logging.WARNING):
        run(SpatialTransform((FieldStep(smooth_field(small), small),)))
    assert "initial: its field covers" in caplog.text and "of the fixed image" in caplog.text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("centerz", "neither a file nor one of auto, world, centers, center, moments"),
        ("missing.tfm", "missing.tfm: no such file"),
        (["missing.tfm", "other.h5"], "missing.tfm: no such file"),
        (SpatialTransform.of_affine(np.eye(3)), "2 dimensions, the fixed image 3"),
        (simpleitk_of_steps((AffineStep(np.eye(3)),)), "2 dimensions, the fixed image 3"),
        ([AFFINE, SpatialTransform.of_affine(np.eye(3))], "is 2-D, the previous ones are 3-D"),
        ([AFFINE, 3.0], "a float among transforms"),
        (object(), "initial is a object"),
        (np.eye(3).tolist(), "invertible 4x4 matrix"),
        ((np.eye(4) + 5 * np.eye(4, k=3)).T, "not transposed, with the last row 0 0 0 1"),
        (2 * np.eye(4), "last row 0 0 0 1"),
        ([], "invertible 4x4 matrix"),
    ],
)
def test_what_is_refused(given, told):
    with pytest.raises(InputError, match=told) as caught:
        run(given)
    assert "\n" not in str(caught.value)
