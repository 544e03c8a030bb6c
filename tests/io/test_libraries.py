# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images and transforms of other libraries: each as the library itself places and maps it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform, SplineStep
from monai_locor.io.libraries import from_library, library_of
from monai_locor.io.transforms.library_objects import from_object, itk_of_steps, simpleitk_of_steps

from .library_objects import IMAGES, ANTsTransform, itk, nibabel_image, sitk, sitk_image, write_ants_transform
from .transform_cases import GRIDS, inner_points, smooth_field, some_affine, some_transform

LPS = np.array([-1.0, -1.0, 1.0])
FIXED = {name: pair[0] for name, pair in GRIDS.items()}


def values_on(grid: Grid, *components: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, (*grid.shape, *components)).astype(dtype)


def stored_affine(grid: Grid) -> np.ndarray:
    return np.asarray(nibabel_image(np.zeros(grid.shape, np.float32), grid).affine)


class TestImages:
    @pytest.mark.parametrize("components", [(), (3,)], ids=["scalar", "vector"])
    @pytest.mark.parametrize("place", FIXED)
    @pytest.mark.parametrize("library", IMAGES)
    def test_voxels_and_place(self, library, place, components):
        grid = FIXED[place]
        array = values_on(grid, *components)
        image = IMAGES[library](array, grid)
        assert library_of(image) == library
        found = from_library(image, "image")
        expected = array.reshape(*grid.shape, -1)
        np.testing.assert_array_equal(found.voxels.reshape(expected.shape), expected)
        np.testing.assert_allclose(found.affine, stored_affine(grid), atol=1e-6)
        assert found.dtype == "float32"

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
    @pytest.mark.parametrize("library", IMAGES)
    def test_the_type_is_kept(self, library, dtype):
        grid = FIXED["flat"]
        assert from_library(IMAGES[library](values_on(grid, dtype=dtype), grid), "image").dtype == dtype

    @pytest.mark.parametrize("place", FIXED)
    def test_a_cropped_image_of_itk_begins_elsewhere(self, place):
        grid = FIXED[place]
        image = IMAGES["itk"](values_on(grid), grid)
        inner = [3] * grid.dims
        region = itk.ImageRegion[grid.dims](inner, [4] * grid.dims)
        filtered = itk.ExtractImageFilter.New(image, ExtractionRegion=region)  # keeps the index
        filtered.SetDirectionCollapseToSubmatrix()
        for given in (filtered, filtered.GetOutput()):
            found = from_library(given, "image")
            np.testing.assert_allclose(found.affine[: grid.dims, 3], grid.affine[:-1] @ [*inner, 1], atol=1e-6)
            cut = values_on(grid)[(slice(3, 7),) * grid.dims]
            np.testing.assert_array_equal(found.voxels[..., 0], cut)

    @pytest.mark.parametrize("join", ["SimpleITK", "ants", "nibabel"])
    def test_a_fourth_axis_is_frames(self, join):
        solid = FIXED["mixed"]
        array = values_on(solid, 5)
        if join == "SimpleITK":
            image = sitk.JoinSeries([sitk_image(array[..., i], solid) for i in range(5)], 0.0, 2.0)
        elif join == "ants":
            image = _four_axes(array, solid)
        else:
            image = nibabel_image(array, solid)
        found = from_library(image, "image")
        np.testing.assert_array_equal(found.voxels, array)
        np.testing.assert_allclose(found.affine, solid.affine, atol=1e-6)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: sitk.Image([4, 4, 4], sitk.sitkLabelUInt8),
            lambda: sitk.Transform(3, sitk.sitkEuler),
            lambda: itk.AffineTransform[itk.D, 3].New(),  # noqa: PLW0108 - the class is loaded where it is named
        ],
        ids=["label map", "SimpleITK", "itk"],
    )
    def test_other_objects_are_refused(self, make):
        with pytest.raises(InputError, match=r"moving image: (SimpleITK|itk)'s .* cannot be registered"):
            from_library(make(), "moving image")

    def test_nothing_is_imported_for_it(self):
        code = "import sys, numpy; from monai_locor.io.libraries import from_library as f; f(numpy.zeros((3, 3)), 'x'); "
        code += "print({'SimpleITK', 'itk', 'ants', 'torch'} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


def _four_axes(array: np.ndarray, grid: Grid) -> object:
    image = IMAGES["ants"](array[..., 0], grid)
    direction = np.eye(4)
    direction[:3, :3] = image.direction
    image.direction, image.spacing, image.origin = direction, (*image.spacing, 2.0), (*image.origin, 0.0)
    image._array = array
    return image


def _centered(transform: sitk.Transform) -> sitk.Transform:
    transform.SetCenter([5.0, -2.0, 10.0][: transform.GetDimension()])
    return transform


def _field(grid: Grid) -> sitk.Transform:
    data = np.moveaxis(smooth_field(grid).double().numpy(), 0, -1) * LPS[: grid.dims]
    return sitk.DisplacementFieldTransform(sitk_image(data, grid))


def _spline(grid: Grid) -> sitk.Transform:
    image = sitk_image(np.zeros(grid.shape, np.float32), grid)
    transform = sitk.BSplineTransformInitializer(image, [4] * grid.dims, 3)
    size = len(transform.GetParameters())
    transform.SetParameters(np.random.default_rng(2).normal(0, 2.0, size).tolist())
    return transform


def _matrix(dims: int) -> sitk.Transform:
    transform = sitk.AffineTransform(dims)
    transform.SetMatrix(some_affine(dims)[:-1, :-1].ravel().tolist())
    transform.SetTranslation([3.0, -4.0, 5.0][:dims])
    return _centered(transform)


def _composite(grid: Grid) -> sitk.Transform:
    inner = sitk.CompositeTransform([_field(grid), _matrix(grid.dims)])
    return sitk.CompositeTransform([sitk.TranslationTransform(grid.dims, [1.0, 2.0, -3.0][: grid.dims]), inner])


SITK = {
    "euler": lambda g: _centered(
        sitk.Euler2DTransform((0, 0), 0.3, (4, -5))
        if g.dims == 2
        else sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.1, (4, -5, 6))
    ),
    "similarity": lambda g: _centered(
        sitk.Similarity2DTransform(1.2, 0.3) if g.dims == 2 else sitk.Similarity3DTransform(1.2, (1, 2, 3), 0.4)
    ),
    "scale": lambda g: _centered(sitk.ScaleTransform(g.dims, [1.1, 0.9, 1.2][: g.dims])),
    "translation": lambda g: sitk.TranslationTransform(g.dims, [4.0, -5.0, 6.0][: g.dims]),
    "affine": lambda g: _matrix(g.dims),
    "base": lambda g: sitk.Transform(_matrix(g.dims)),
    "field": _field,
    "spline": _spline,
    "composite": _composite,
    "base of a composite": lambda g: sitk.Transform(_composite(g)),
    "identity": lambda g: sitk.Transform(g.dims, sitk.sitkIdentity),
}
SOLID_ONLY = {
    "versor": lambda g: _centered(sitk.VersorTransform((1, 2, 3), 0.4)),
    "versor rigid": lambda g: _centered(sitk.VersorRigid3DTransform((1, 2, 3), 0.4, (7, 8, 9))),
    "scale skew versor": lambda g: _centered(
        sitk.ScaleSkewVersor3DTransform((1.1, 1.2, 0.9), (0.1,) * 6, (1, 2, 3), 0.4, (7, 8, 9))
    ),
}
CASES = [(kind, place) for kind in SITK for place in FIXED] + [(kind, "mixed") for kind in SOLID_ONLY]


def through_library(transform: object, points: np.ndarray) -> np.ndarray:
    """What a transform of SimpleITK or ITK makes of RAS points."""
    signs = LPS[: points.shape[1]]
    return np.array([list(transform.TransformPoint((p * signs).tolist())) for p in points]) * signs


class TestTransforms:
    @pytest.mark.parametrize(("kind", "place"), CASES)
    def test_simpleitk(self, kind, place):
        grid = FIXED[place]
        given = {**SITK, **SOLID_ONLY}[kind](grid)
        points = inner_points(grid)
        found = from_object(given, "initial")
        np.testing.assert_allclose(found.points(points), through_library(given, points), atol=1e-4)

    @pytest.mark.parametrize("place", FIXED)
    @pytest.mark.parametrize("dtype", ["D", "F"])
    def test_itk_matrices(self, dtype, place):
        grid = FIXED[place]
        affine = itk.AffineTransform[getattr(itk, dtype), grid.dims].New()
        affine.Rotate(0, 1, 0.3)
        affine.Shear(1, 0, 0.2)
        affine.SetTranslation([3.0, -4.0, 5.0][: grid.dims])
        points = inner_points(grid)
        np.testing.assert_allclose(from_object(affine, "x").points(points), through_library(affine, points), atol=1e-3)

    @pytest.mark.parametrize("place", FIXED)
    @pytest.mark.parametrize("kind", ["AffineTransform", "CompositeTransform"])
    def test_ants(self, kind, place, monkeypatch):
        monkeypatch.setitem(sys.modules, "ants", SimpleNamespace(write_transform=write_ants_transform))
        grid = FIXED[place]
        given = _matrix(grid.dims)
        if kind == "CompositeTransform":
            given = sitk.CompositeTransform([given, _field(grid)])
        points = inner_points(grid)
        found = from_object(ANTsTransform(given, kind), "initial")
        np.testing.assert_allclose(found.points(points), through_library(given, points), atol=1e-4)

    def test_a_field_of_ants_is_refused(self):
        with pytest.raises(InputError, match=r"initial: ANTsPy does not tell .*; give the file that"):
            from_object(ANTsTransform(_field(FIXED["mixed"]), "DisplacementFieldTransform"), "initial")

    @pytest.mark.parametrize("place", FIXED)
    @pytest.mark.parametrize("library", ["SimpleITK", "itk", "ants"])
    def test_images_of_vectors_are_fields(self, library, place):
        grid = FIXED[place]
        data = np.moveaxis(smooth_field(grid).numpy(), 0, -1) * LPS[: grid.dims].astype(np.float32)
        points = inner_points(grid)
        found = from_object(IMAGES[library](data, grid), "initial")
        np.testing.assert_allclose(found.points(points), through_library(_field(grid), points), atol=1e-3)
        with pytest.raises(InputError, match="initial: is an image of 1 components per voxel, not a transform; give"):
            from_object(IMAGES[library](data[..., 0], grid), "initial")

    @pytest.mark.parametrize(
        "wrong", [sitk.Image([4, 4], sitk.sitkUInt8), sitk.BSplineTransform(3, 2), itk.PointSet[itk.D, 3].New()]
    )
    def test_what_is_no_transform_is_refused(self, wrong):
        with pytest.raises(InputError, match=r"^initial: "):
            from_object(wrong, "initial")

    def test_anything_else_is_left_to_others(self):
        assert from_object(np.eye(4), "initial") is None and from_object("a.h5", "initial") is None


def chains(grid: Grid) -> dict[str, SpatialTransform]:
    lattice = Grid((7,) * grid.dims, grid.affine @ np.diag([*[4.0] * grid.dims, 1.0]))
    noise = torch.from_numpy(np.random.default_rng(3).normal(0, 1.5, (grid.dims, *lattice.shape)))
    return {
        "affine": SpatialTransform.of_affine(some_affine(grid.dims)),
        "field": SpatialTransform((FieldStep(smooth_field(grid), grid),)),
        "spline": SpatialTransform((SplineStep(noise, lattice),)),
        "both": some_transform(grid),
        "three": SpatialTransform(
            (AffineStep(some_affine(grid.dims)), FieldStep(smooth_field(grid), grid), SplineStep(noise, lattice))
        ),
    }


@pytest.mark.parametrize("chain", chains(FIXED["flat"]))
@pytest.mark.parametrize("place", FIXED)
def test_objects_map_as_the_transform_does(place, chain):
    grid = FIXED[place]
    transform = chains(grid)[chain]
    points = inner_points(grid)
    expected = transform.points(points)
    for made in (simpleitk_of_steps(transform.steps), itk_of_steps(transform.steps)):
        np.testing.assert_allclose(through_library(made, points), expected, atol=1e-4)
        np.testing.assert_allclose(from_object(made, "it").points(points), expected, atol=1e-4)


@pytest.mark.parametrize("place", FIXED)
def test_antspy_itself(place):
    """That what is emulated above is what the package does."""
    ants = pytest.importorskip("ants")
    grid = FIXED[place]
    made = IMAGES["ants"](values_on(grid), grid)
    image = ants.from_numpy(values_on(grid), origin=made.origin, spacing=made.spacing, direction=made.direction)
    for found, expected in zip((from_library(image, "x"), from_library(made, "x")), (values_on(grid),) * 2):
        np.testing.assert_array_equal(found.voxels[..., 0], expected)
        np.testing.assert_allclose(found.affine, stored_affine(grid), atol=1e-5)
    affine = ants.create_ants_transform("AffineTransform", dimension=grid.dims, matrix=some_affine(grid.dims)[:-1, :-1])
    points = inner_points(grid)
    for transform in (affine, ants.compose_ants_transforms([affine, affine])):
        signs = LPS[: grid.dims]
        expected = np.array([transform.apply_to_point((p * signs).tolist()) for p in points]) * signs
        np.testing.assert_allclose(from_object(transform, "x").points(points), expected, atol=1e-3)
