# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""elastix's parameter files: what transformix makes of ours, and we of those that elastix writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import FieldStep, SpatialTransform, SplineStep
from monai_locor.io import read_transform, write_image, write_transform

from .transform_cases import (
    GRIDS,
    LIMIT,
    difference,
    inner_points,
    some_affine,
    some_transform,
    write_coordinates,
)

HEAD = """(FixedImageDimension {dims})
(MovingImageDimension {dims})
(InitialTransformParameterFileName "{initial}")
(HowToCombineTransforms "Compose")
(CenterOfRotationPoint {center})
// a comment
"""
FLIP = np.array([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def elastix():
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "TransformixFilter"):
        pytest.skip("itk-elastix is not installed")
    return itk


def resampled(itk, tmp_path, path, moving) -> np.ndarray:
    parameters = itk.ParameterObject.New()
    for file in path if isinstance(path, list) else [path]:
        parameters.AddParameterFile(str(file))
    found = []
    for image in write_coordinates(tmp_path, moving, "seen"):
        out = itk.transformix_filter(itk.imread(str(image), itk.F), parameters, log_to_console=False)
        found.append(itk.array_from_image(out).T)
    return np.stack(found, -1)


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("kind", ["affine", "field"])
def test_transformix_resamples_with_ours(tmp_path, elastix, case, kind):
    fixed, moving = GRIDS[case]
    ours = some_transform(fixed) if kind == "field" else SpatialTransform.of_affine(some_affine(fixed.dims))
    files = write_transform(tmp_path / "TransformParameters.0.txt", ours, format="elastix", fixed=fixed)
    assert len(files) == (1 if kind == "affine" else 2)
    assert difference(resampled(elastix, tmp_path, files[0], moving), ours, fixed, moving) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("case", ["left-handed", "flat"])
@pytest.mark.parametrize("kinds", [("rigid",), ("translation", "affine"), ("rigid", "bspline"), ("similarity",)])
def test_registrations_of_elastix_are_read(tmp_path, elastix, case, kinds):
    fixed, moving = GRIDS[case]
    fixed = fixed.resampled([0.8] * fixed.dims)
    images = []
    for name, grid, width in (("f", fixed, [6.0, 5, 7]), ("m", moving, [5.0, 6.5, 6])):
        blob = np.exp(-((((grid.points() - fixed.center - len(images)) / width[: grid.dims]) ** 2).sum(-1)))
        write_image(tmp_path / f"{name}.nii", torch.from_numpy(100 * blob).float(), grid)
        images.append(elastix.imread(str(tmp_path / f"{name}.nii"), elastix.F))
    parameters = elastix.ParameterObject.New()
    for kind in kinds:
        known = parameters.GetDefaultParameterMap("rigid" if kind == "similarity" else kind, 1, 8.0)
        if kind == "similarity":
            known["Transform"] = ["SimilarityTransform"]
        known["MaximumNumberOfIterations"], known["ResultImageFormat"] = ["30"], ["nii"]
        known["FinalBSplineInterpolationOrder"] = ["1"]
        parameters.AddParameterMap(known)
    options = {"parameter_object": parameters, "output_directory": str(tmp_path), "log_to_console": False}
    elastix.elastix_registration_method(*images, **options)
    names = [tmp_path / f"TransformParameters.{i}.txt" for i in range(len(kinds))]
    read = read_transform(names[-1])
    assert len(read.steps) == len(kinds) and isinstance(read.steps[-1], SplineStep) == ("bspline" in kinds)
    found = resampled(elastix, tmp_path, names[-1], moving)
    ours = fixed.points() + np.moveaxis(read.displacement(fixed).double().numpy(), 0, -1)
    index = (ours - moving.affine[:-1, -1]) @ np.linalg.inv(moving.affine[:-1, :-1]).T
    seen = ((index > 0) & (index < np.array(moving.shape) - 1)).all(-1)
    assert seen.mean() > 0.5 and np.linalg.norm(ours - fixed.points(), axis=-1).mean() > 0.2
    assert np.linalg.norm(found - ours, axis=-1)[seen].mean() / moving.spacing.min() < LIMIT


def with_head(text: str, dims: int = 3, initial: str = "NoInitialTransform") -> str:
    return HEAD.format(dims=dims, initial=initial, center=" ".join("123"[:dims])) + text


@pytest.mark.parametrize(
    ("kind", "numbers", "itk_name", "dims"),
    [
        ("TranslationTransform", "1 2 3", "TranslationTransform", 3),
        ("EulerTransform", "0.1 -0.2 0.3 1 2 3", "Euler3DTransform", 3),
        ("SimilarityTransform", "0.1 -0.2 0.3 1 2 3 1.1", "Similarity3DTransform", 3),
        ("AffineTransform", "1.1 0.1 0.2 0 0.9 0.1 0.3 0 1 1 2 3", "AffineTransform", 3),
        ("EulerTransform", "0.3 1 2", "Euler2DTransform", 2),
        ("SimilarityTransform", "1.2 0.3 1 2", "Similarity2DTransform", 2),
        ("AffineTransform", "1.1 0.1 0.2 0.9 1 2", "AffineTransform", 2),
    ],
)
def test_linear_transforms_are_those_of_itk(tmp_path, kind, numbers, itk_name, dims):
    sitk = pytest.importorskip("SimpleITK")
    (tmp_path / "t.txt").write_text(with_head(f'(Transform "{kind}")\n(TransformParameters {numbers})\n', dims))
    makers = {
        "AffineTransform": lambda: sitk.AffineTransform(dims),
        "TranslationTransform": lambda: sitk.TranslationTransform(dims),
    }
    theirs = makers.get(itk_name, lambda: getattr(sitk, itk_name)())()  # noqa: PLW0108 (not every name exists)
    if itk_name != "TranslationTransform":
        theirs.SetCenter([1.0, 2, 3][:dims])
    theirs.SetParameters([float(v) for v in numbers.split()])
    points, flip = np.random.default_rng(0).normal(size=(9, dims)) * 30, FLIP[:dims]
    expected = np.array([theirs.TransformPoint(p.tolist()) for p in points * flip]) * flip
    np.testing.assert_allclose(read_transform(tmp_path / "t.txt").points(points), expected, atol=1e-9)


def test_the_order_of_rotations_is_honored(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    text = '(Transform "EulerTransform")\n(TransformParameters 0.1 -0.2 0.3 1 2 3)\n(ComputeZYX "true")\n'
    (tmp_path / "t.txt").write_text(with_head(text))
    theirs = sitk.Euler3DTransform((1, 2, 3), 0.1, -0.2, 0.3, (1, 2, 3))
    theirs.SetComputeZYX(True)
    point = np.array([10.0, -20, 30])
    expected = np.array(theirs.TransformPoint((point * FLIP).tolist())) * FLIP
    np.testing.assert_allclose(read_transform(tmp_path / "t.txt").points(point[None])[0], expected, atol=1e-9)


@pytest.mark.parametrize("case", GRIDS)
def test_ours_come_back(tmp_path, case):
    fixed, _ = GRIDS[case]
    ours, points = some_transform(fixed), inner_points(fixed)
    path = tmp_path / "T.txt"
    assert [p.name for p in write_transform(path, ours, format="elastix")] == ["T.txt", "T_field.mha"]
    back = read_transform(path)
    assert isinstance(back.steps[0], FieldStep)
    torch.testing.assert_close(back.displacement(fixed), ours.displacement(fixed), atol=1e-4, rtol=0)
    (tmp_path / "moved").mkdir()
    for name in ("T.txt", "T_field.mha"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    np.testing.assert_array_equal(read_transform(tmp_path / "moved" / "T.txt").points(points), back.points(points))
    linear = SpatialTransform.of_affine(some_affine(fixed.dims))
    write_transform(path, linear, format="elastix", fixed=fixed)
    np.testing.assert_allclose(read_transform(path).matrix, linear.matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('(Transform "AffineTransform")', "no numbers \\(TransformParameters"),
        ('(Transform "AffineTransform")\n(TransformParameters 1 2 3)', "3 parameters instead of 12"),
        ('(Transform "AffineTransform")\n(TransformParameters 0 0 0 0 0 0 0 0 0 0 0 0)', "singular"),
        ('(Transform "SplineKernelTransform")\n(TransformParameters 1)', "SplineKernelTransform.*transformix -def all"),
        ('(Transform "BSplineTransform")\n(BSplineTransformSplineOrder 2)', "order 2"),
        (
            '(Transform "DeformationFieldTransform")\n(DeformationFieldFileName "gone.mha")',
            "names gone.mha",
        ),
    ],
)
def test_refusals(tmp_path, text, words):
    (tmp_path / "t.txt").write_text(with_head(text + "\n"))
    with pytest.raises(InputError, match=rf"t\.txt: .*{words}") as caught:
        read_transform(tmp_path / "t.txt")
    assert "\n" not in str(caught.value)


def test_chains_without_end_or_beginning(tmp_path):
    text = '(Transform "TranslationTransform")\n(TransformParameters 1 2 3)\n'
    (tmp_path / "t.txt").write_text(with_head(text, initial="t.txt"))
    with pytest.raises(InputError, match="has no end"):
        read_transform(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text(with_head(text, initial="none.txt"))
    with pytest.raises(InputError, match=r"names none\.txt"):
        read_transform(tmp_path / "t.txt")
    (tmp_path / "u.txt").write_text(with_head(text, initial="t.txt").replace("Compose", "Add"))
    with pytest.raises(InputError, match="adds its transforms"):
        read_transform(tmp_path / "u.txt")
    (tmp_path / "v.txt").write_text("(Transfor\n")
    with pytest.raises(InputError, match=r"no line \(Transform"):
        read_transform(tmp_path / "v.txt", format="elastix")
