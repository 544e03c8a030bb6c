# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK's files read without ITK: every linear kind means what it means to ITK, in text, MATLAB and HDF5."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import AffineStep, FieldStep, SpatialTransform, SplineStep
from monai_locor.io import itk_hdf5, read_affine, read_transform, write_transform
from monai_locor.io.itk_linear import _KINDS

from .transform_cases import GRIDS, inner_points, some_affine, some_transform

FLIP = np.array([-1.0, -1.0, 1.0])
KINDS = [(kind, dims) for kind, (only, _, _) in _KINDS.items() for dims in ((only,) if only else (2, 3))]
# not in the factory of ITK's readers, in these dimensions or at all
UNKNOWN = {("MatrixOffsetTransformBase", 2), ("MatrixOffsetTransformBase", 3), ("Rigid3DTransform", 3)}
UNKNOWN |= {(f"{kind}Transform", 2) for kind in ("FixedCenterOfRotationAffine", "ScalableAffine", "ScaleLogarithmic")}


def itk_class(module: str, name: str):
    pytest.importorskip("itk")
    return getattr(import_module(f"itk.itk{module}Python"), f"itk{name}")


def some_parameters(kind: str, dims: int) -> np.ndarray:
    numbers = np.random.default_rng(len(kind)).uniform(-0.4, 0.4, _KINDS[kind][1](dims))
    if kind == "QuaternionRigidTransform":
        numbers[:4] /= np.linalg.norm(numbers[:4])
    if "Affine" in kind or "Matrix" in kind or kind == "Rigid3DTransform":
        numbers[: dims * dims] += np.eye(dims).ravel()
    return numbers


def text_of(kind: str, dims: int, parameters, fixed, precision: str = "double") -> str:
    lines = ["#Insight Transform File V1.0", "#Transform 0", f"Transform: {kind}_{precision}_{dims}_{dims}"]
    lines += [
        f"{key}: {' '.join(map(repr, map(float, v)))}" for key, v in (("Parameters", parameters), ("FixedParameters", fixed))
    ]
    return "\n".join(lines) + "\n"


def itk_maps(path, points: np.ndarray) -> np.ndarray:
    """LPS points through the one transform of a text file, by ITK."""
    dims = points.shape[1]
    itk_class("TxtTransformIO", "TxtTransformIOFactory").RegisterOneFactory()
    reader = itk_class("TransformFileReader", "TransformFileReaderTemplateD").New()
    reader.SetFileName(str(path))
    reader.Update()
    transform = itk_class("TransformBase", f"TransformD{dims}{dims}").cast(reader.GetTransformList()[0])
    return np.array([list(transform.TransformPoint(point.tolist())) for point in points])


@pytest.mark.parametrize(("kind", "dims"), [case for case in KINDS if case not in UNKNOWN])
@pytest.mark.parametrize("precision", ["double", "float"])
def test_every_linear_kind_maps_as_in_itk(tmp_path, kind, dims, precision):
    rng, path = np.random.default_rng(0), tmp_path / "t.tfm"
    fixed = rng.normal(size=dims) * 5
    if "Euler3D" in kind:
        fixed = np.append(fixed, float(precision == "float"))  # whose angles have another order
    path.write_text(text_of(kind, dims, some_parameters(kind, dims), fixed, precision))
    points, flip = rng.normal(size=(9, dims)) * 30, FLIP[:dims]
    expected = itk_maps(path, points * flip) * flip
    np.testing.assert_allclose(read_transform(path).points(points), expected, atol=1e-9)
    matrix = read_affine(path)
    np.testing.assert_allclose(points @ matrix[:-1, :-1].T + matrix[:-1, -1], expected, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["double", "float"])
@pytest.mark.parametrize("kind", ["MatrixOffsetTransformBase", "AffineTransform"])
@pytest.mark.parametrize("name", ["t.txt", "t.tfm", "t.mat", "t.itk"])
def test_the_base_class_that_many_tools_write_is_an_affine(tmp_path, dims, precision, kind, name):
    """c3d_affine_tool, ITK-SNAP, greedy and fMRIPrep; the name of the file does not matter."""
    rng = np.random.default_rng(1)
    linear, shift, center = rng.normal(size=(dims, dims)), rng.normal(size=dims), rng.normal(size=dims) * 20
    (tmp_path / name).write_text(text_of(kind, dims, [*linear.ravel(), *shift], center, precision))
    points, flip = rng.normal(size=(5, dims)) * 30, FLIP[:dims]
    expected = ((points * flip - center) @ linear.T + center + shift) * flip
    np.testing.assert_allclose(read_transform(tmp_path / name).points(points), expected, atol=1e-9)


@pytest.mark.parametrize("library", ["h5py", "itk"])
@pytest.mark.parametrize("case", ["left-handed", "flat"])
def test_both_readers_of_hdf5_agree(tmp_path, monkeypatch, library, case):
    pytest.importorskip(library)
    fixed, _ = GRIDS[case]
    ours, points = some_transform(fixed), inner_points(fixed)
    write_transform(tmp_path / "t.h5", ours)
    if library == "itk":
        monkeypatch.setattr(itk_hdf5, "find_spec", lambda name: None)
    back = read_transform(tmp_path / "t.h5")
    assert [type(step) for step in back.steps] == [FieldStep, AffineStep]
    np.testing.assert_allclose(back.points(points), ours.points(points), atol=1e-4)


@pytest.mark.parametrize("library", ["h5py", "itk"])
def test_a_file_of_fmriprep_is_read(tmp_path, monkeypatch, library):
    """Single precision, an affine and a field, in one composite; and a spline."""
    sitk = pytest.importorskip("SimpleITK")
    if library == "itk":
        monkeypatch.setattr(itk_hdf5, "find_spec", lambda name: None)
    affine = sitk.AffineTransform(3)
    affine.SetParameters([1, 0.1, 0, 0, 1, 0.2, 0, 0, 1.1, 4, 5, 6])
    affine.SetCenter((10, 20, 30))
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(8, 9, 10, 3)), isVector=True)
    spline = sitk.BSplineTransform(3)
    spline.SetTransformDomainPhysicalDimensions([8.0, 9, 10])
    spline.SetParameters(np.random.default_rng(1).normal(size=len(spline.GetParameters())).tolist())
    whole = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(image), spline])
    sitk.WriteTransform(whole, str(tmp_path / "t.h5"))
    found = read_transform(tmp_path / "t.h5")
    assert [type(step) for step in found.steps] == [SplineStep, FieldStep, AffineStep]
    points = np.random.default_rng(2).uniform(1, 6, (20, 3)) * FLIP
    expected = np.array([whole.TransformPoint(p.tolist()) for p in points * FLIP]) * FLIP
    np.testing.assert_allclose(found.points(points), expected, atol=1e-5)


def test_single_precision_and_old_names_in_hdf5(tmp_path):
    """ITK 4, which BRAINSFit and fMRIPrep were built with, left out a letter."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        for index, (kind, numbers, fixed) in enumerate(
            (
                ("CompositeTransform_float_3_3", None, None),
                ("AffineTransform_float_3_3", [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3], [0, 0, 0]),
                ("TranslationTransform_float_3_3", [10, 0, 0], []),
            )
        ):
            group = file.create_group(f"TransformGroup/{index}")
            group["TransformType"] = np.array([kind], dtype=object)
            if numbers is not None:
                group["TranformParameters"] = np.array(numbers, np.float32)
                group["TranformFixedParameters"] = np.array(fixed, np.float32)
    assert read_transform(tmp_path / "t.h5").points(np.zeros((1, 3))).tolist() == [[-11.0, -2.0, 3.0]]


@pytest.mark.parametrize("dims", [2, 3])
def test_matlab_files_are_those_of_itk(tmp_path, dims):
    sitk = pytest.importorskip("SimpleITK")
    ours = some_affine(dims)
    write_transform(tmp_path / "a.mat", SpatialTransform.of_affine(ours))
    sitk.WriteTransform(sitk.ReadTransform(str(tmp_path / "a.mat")), str(tmp_path / "b.mat"))
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()
    flat = sitk.Euler2DTransform((3.0, 4.0), 0.3)
    transform = flat if dims == 2 else sitk.VersorRigid3DTransform((0, 0, 1), 0.3, (1, 2, 3), (4, 5, 6))
    sitk.WriteTransform(transform, str(tmp_path / "c.mat"))
    points, flip = np.random.default_rng(0).normal(size=(5, dims)) * 20, FLIP[:dims]
    expected = np.array([transform.TransformPoint(p.tolist()) for p in points * flip]) * flip
    np.testing.assert_allclose(read_transform(tmp_path / "c.mat").points(points), expected, atol=1e-9)


def test_a_composite_in_matlab_has_lost_its_parts(tmp_path):
    """SimpleITK writes such files, and cannot read them back."""
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteTransform(sitk.CompositeTransform([sitk.AffineTransform(3)] * 2), str(tmp_path / "a.mat"))
    with pytest.raises(InputError, match=r"a\.mat: holds a composite without its parts"):
        read_transform(tmp_path / "a.mat")


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t + "# größer\n\n"])
def test_ends_of_lines_marks_and_comments_do_not_matter(tmp_path, change):
    (tmp_path / "t.txt").write_bytes(change(text_of("TranslationTransform", 3, [1, 2, 3], [])).encode())
    np.testing.assert_allclose(read_transform(tmp_path / "t.txt").matrix[:3, 3], [-1, -2, 3])


def test_hdf5_of_other_tools_is_told(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_group("TransformGroup/0")["Transform"] = np.eye(4)
    with pytest.raises(InputError, match=r"t\.h5: is not an HDF5 file of ITK") as caught:
        read_transform(tmp_path / "t.h5")
    assert "\n" not in str(caught.value)


WRONG = [("Euler3DTransform", ""), ("AffineTransform", "1 2"), ("Euler2DTransform", "1 2 3")]


@pytest.mark.parametrize(("kind", "fixed"), WRONG)
def test_numbers_that_do_not_fit_the_kind(tmp_path, kind, fixed):
    count = 12 if kind == "AffineTransform" else 6
    text = f"Transform: {kind}_double_3_3\nParameters: {'0.1 ' * count}\nFixedParameters: {fixed}\n"
    (tmp_path / "t.tfm").write_text("#Insight Transform File V1.0\n" + text)
    with pytest.raises(InputError, match=rf"t\.tfm: holds a {kind} (with|of)") as caught:
        read_transform(tmp_path / "t.tfm")
    assert "\n" not in str(caught.value)


def test_several_transforms_without_a_composite_are_not_guessed(tmp_path):
    one = text_of("TranslationTransform", 3, [1, 2, 3], [])
    (tmp_path / "t.tfm").write_text(one + one.split("\n", 1)[1])
    with pytest.raises(InputError, match=r"t\.tfm: holds 2 transforms side by side"):
        read_transform(tmp_path / "t.tfm")
    composite = one.split("\n", 1)[0] + "\nTransform: CompositeTransform_double_3_3\n"
    (tmp_path / "t.tfm").write_text(composite + one.split("\n", 1)[1])
    np.testing.assert_allclose(read_transform(tmp_path / "t.tfm").matrix[:3, 3], [-1, -2, 3])


LIGHT = """
import json, sys
from pathlib import Path
from monai_locor.io import read_transform
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    read_transform(path)
    found[path.name] = sorted({"torch", "monai", "itk"} & set(sys.modules))
print(json.dumps(found))
"""


def test_files_are_read_without_the_heavy_libraries(tmp_path):
    pytest.importorskip("h5py")
    fixed, moving = GRIDS["mixed"]
    affine = SpatialTransform.of_affine(some_affine(3))
    for name in ("a.tfm", "a.txt", "a.mat", "a.lta", "a.h5"):
        write_transform(tmp_path / name, affine, fixed=fixed, moving=moving)
    for name, kind in (("f.h5", None), ("f.nii.gz", None), ("def.nii.gz", "niftyreg-def")):
        write_transform(tmp_path / name, some_transform(fixed), format=kind, fixed=fixed)
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 8 and not any(found.values()), found
