# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Small readers and writers of ITK and Slicer: geometry, matrices, points and names, without files of a library."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, apply_affine
from monai_locor.io.channel_names import channel_names
from monai_locor.io.grids import as_grid, grid_of_stored
from monai_locor.io.itk_linear import ItkTransform, linear_matrix
from monai_locor.io.itk_matlab import is_matlab, read_matlab, write_matlab_affine
from monai_locor.io.lps import affine_of_itk, flipped, geometry_for_itk, lps_signs
from monai_locor.io.markups import fcsv_text, finite_point, from_fcsv, from_markups, markups_text, rows_of, table_text

from ..phantoms import ORDERS, turned

GRID = turned(0.4, (1.5, -2.0, 3.0), (5, 6, 4))
RNG = np.random.default_rng(0)


class TestLps:
    @pytest.mark.parametrize("dims", [2, 3])
    def test_there_and_back(self, dims):
        matrix = np.vstack((RNG.standard_normal((dims, dims + 1)), np.eye(dims + 1)[-1]))
        np.testing.assert_array_equal(flipped(flipped(matrix)), matrix)
        points = RNG.standard_normal((5, dims))
        signs = lps_signs(dims)
        np.testing.assert_allclose(apply_affine(flipped(matrix), points * signs) * signs, apply_affine(matrix, points))

    def test_products_and_inverses_commute_with_the_conversion(self):
        a, b = (np.vstack((RNG.standard_normal((3, 4)), np.eye(4)[-1])) for _ in range(2))
        np.testing.assert_allclose(flipped(a @ b), flipped(a) @ flipped(b))
        np.testing.assert_allclose(flipped(np.linalg.inv(a)), np.linalg.inv(flipped(a)))

    @pytest.mark.parametrize(("axes", "flips"), ORDERS[2::9])
    def test_geometry_comes_back_in_every_order(self, axes, flips):
        grid = GRID.reordered(axes, flips)
        direction, spacing, origin = geometry_for_itk(grid)
        np.testing.assert_allclose(affine_of_itk(direction, spacing, origin), grid.affine, atol=1e-12)
        np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(affine_of_itk(direction.ravel().tolist(), spacing, origin), grid.affine, atol=1e-12)

    def test_a_time_axis_is_left_out(self):
        found = affine_of_itk(np.eye(4), (1, 2, 3, 99), (4, 5, 6, 99))
        np.testing.assert_array_equal(found, [[-1, 0, 0, -4], [0, -2, 0, -5], [0, 0, 3, 6], [0, 0, 0, 1]])


class TestGrids:
    def test_trailing_axes_of_one_voxel_are_dropped_down_to_two(self):
        assert grid_of_stored((5, 6, 4), GRID.affine, "x").shape == (5, 6, 4)
        assert grid_of_stored((5, 6, 1), GRID.affine, "x").shape == (5, 6)
        assert grid_of_stored((5, 1, 1), GRID.affine, "x").shape == (5, 1)

    @pytest.mark.parametrize("shape", [(5,), (), (5, 0, 4)])
    def test_without_two_axes_or_voxels_there_is_no_grid(self, shape):
        with pytest.raises(InputError, match=re.escape(f"a.nii: has no usable geometry (its shape is {shape})")):
            grid_of_stored(shape, np.eye(4), "a.nii")

    def test_a_bad_affine_names_the_image(self):
        with pytest.raises(InputError, match=r"a\.nii: has no usable geometry \(the affine is not invertible.*another image"):
            grid_of_stored((5, 6, 4), np.zeros((4, 4)), "a.nii")

    def test_grids_and_none_pass(self):
        assert as_grid(GRID, "x") is GRID and as_grid(None, "x") is None
        found = as_grid(np.zeros((1, 5, 6, 4), np.float32), "x")
        assert isinstance(found, Grid) and found.shape == (5, 6, 4)


def linear(kind: str, parameters, fixed=(0.0, 0.0, 0.0), dims: int = 3) -> np.ndarray:
    return linear_matrix(ItkTransform(kind, dims, np.array(parameters, float), np.array(fixed, float)))


class TestItkLinear:
    SHIFT, CENTER = (3.0, -2.0, 5.0), (10.0, 20.0, -7.0)

    @pytest.mark.parametrize(
        ("kind", "zero"),
        [
            ("AffineTransform", [*np.eye(3).ravel(), 0, 0, 0]),
            ("IdentityTransform", []),
            ("TranslationTransform", [0, 0, 0]),
            ("ScaleTransform", [1, 1, 1]),
            ("ScaleLogarithmicTransform", [0, 0, 0]),
            ("Euler3DTransform", [0] * 6),
            ("VersorTransform", [0] * 3),
            ("VersorRigid3DTransform", [0] * 6),
            ("Similarity3DTransform", [0] * 6 + [1]),
            ("ScaleVersor3DTransform", [0] * 6 + [1] * 3),
            ("ScaleSkewVersor3DTransform", [0] * 6 + [1] * 3 + [0] * 6),
            ("ComposeScaleSkewVersor3DTransform", [0] * 6 + [1] * 3 + [0] * 3),
            ("QuaternionRigidTransform", [0, 0, 0, 1, 0, 0, 0]),
        ],
    )
    def test_neutral_parameters_are_the_identity_about_any_center(self, kind, zero):
        np.testing.assert_allclose(linear(kind, zero, self.CENTER), np.eye(4), atol=1e-12)

    @pytest.mark.parametrize("kind", ["VersorRigid3DTransform", "Euler3DTransform"])
    def test_rigid_maps_are_rotations_that_move_the_center_by_the_translation(self, kind):
        matrix = linear(kind, [0.2, -0.3, 0.1, *self.SHIFT], self.CENTER)
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1)
        moved = apply_affine(matrix, np.array(self.CENTER))
        np.testing.assert_allclose(moved, np.add(self.CENTER, self.SHIFT), atol=1e-12)

    def test_versor_and_quaternion_agree_and_the_opposite_is_the_inverse(self):
        v = np.array([0.2, -0.3, 0.1])
        turn = linear("VersorTransform", v)
        np.testing.assert_allclose(linear("QuaternionRigidTransform", [*v, np.sqrt(1 - v @ v), 0, 0, 0]), turn, atol=1e-12)
        np.testing.assert_allclose(linear("VersorTransform", -v) @ turn, np.eye(4), atol=1e-12)
        np.testing.assert_allclose(turn[:3, :3] @ v, v, atol=1e-12)  # the axis

    def test_one_euler_angle_is_a_turn_about_its_axis(self):
        for axis in range(3):
            angles = np.zeros(6)
            angles[axis] = 0.3
            versor = np.zeros(3)
            versor[axis] = np.sin(0.15)
            np.testing.assert_allclose(linear("Euler3DTransform", angles), linear("VersorTransform", versor), atol=1e-12)

    def test_the_flag_of_euler_transforms_changes_the_order_of_rotations(self):
        def turned_by(x: float = 0, y: float = 0, z: float = 0, flag: float = 0) -> np.ndarray:
            return linear("Euler3DTransform", [x, y, z, 0, 0, 0], (0, 0, 0, flag))

        x, y, z = turned_by(x=0.2), turned_by(y=0.3), turned_by(z=0.4)
        np.testing.assert_allclose(turned_by(0.2, 0.3, 0.4), z @ x @ y, atol=1e-12)
        np.testing.assert_allclose(turned_by(0.2, 0.3, 0.4, 1), z @ y @ x, atol=1e-12)

    def test_a_similarity_scales_the_rotation(self):
        turn = linear("VersorRigid3DTransform", [0.2, -0.3, 0.1, 0, 0, 0])
        scaled = linear("Similarity3DTransform", [0.2, -0.3, 0.1, 0, 0, 0, 1.7])
        np.testing.assert_allclose(scaled[:3, :3], 1.7 * turn[:3, :3])

    def test_wrong_counts_and_dimensions_are_named(self):
        with pytest.raises(ValueError, match="holds a VersorTransform of 2 dimensions instead of 3"):
            linear("VersorTransform", [0, 0, 0], dims=2)
        with pytest.raises(ValueError, match="holds a TranslationTransform with 2 parameters instead of 3"):
            linear("TranslationTransform", [0, 0])
        with pytest.raises(ValueError, match="holds a VersorTransform with 2 fixed parameters instead of 3"):
            linear("VersorTransform", [0, 0, 0], (0, 0))
        assert linear("BSplineTransform", []) is None

    @pytest.mark.parametrize("name", ["AffineTransform", "AffineTransform_double_3_2", "Affine Transform_double_3_3", ""])
    def test_types_that_are_not_supported(self, name):
        with pytest.raises(ValueError, match="which is not supported"):
            ItkTransform.of(name, np.zeros(0), np.zeros(0))


class TestItkMatlab:
    @pytest.mark.parametrize("dims", [2, 3])
    def test_an_affine_map_comes_back(self, tmp_path, dims):
        matrix = np.eye(dims + 1)
        matrix[:-1] += RNG.standard_normal((dims, dims + 1))
        write_matlab_affine(tmp_path / "a.mat", matrix)
        (found,) = read_matlab(tmp_path / "a.mat")
        np.testing.assert_array_equal(linear_matrix(found), matrix)

    def test_only_its_own_files_are_recognized(self, tmp_path):
        write_matlab_affine(tmp_path / "a.mat", np.eye(4))
        content = (tmp_path / "a.mat").read_bytes()
        assert is_matlab(content) and is_matlab(content[:20]) and not is_matlab(content[:19])
        for other in (
            b"",
            b"MATLAB 5.0 MAT-file, Platform: GLNX",
            b"#Insight Transform File V1.0\n",
            b"\x89HDF\r\n\x1a\n" + b"\0" * 20,
            struct.pack("<5i", 0, 12, 1, 0, 1),
            struct.pack("<5i", 0, 12, 1, 0, 129),
            struct.pack("<5i", 51, 12, 1, 0, 24),
        ):
            assert not is_matlab(other)

    @pytest.mark.parametrize("cut", [1, 50, 100])
    def test_a_truncated_file_is_refused(self, tmp_path, cut):
        write_matlab_affine(tmp_path / "a.mat", np.eye(4))
        content = (tmp_path / "a.mat").read_bytes()
        (tmp_path / "a.mat").write_bytes(content[:-cut])
        with pytest.raises(ValueError, match=r"ends too early|is not a complete MATLAB file|is not a transform of ITK"):
            read_matlab(tmp_path / "a.mat")


class TestMarkups:
    POINTS, LABELS = RNG.uniform(-90, 90, (4, 3)), ("a", 'with, comma and "quote"', "", "d")

    @pytest.mark.parametrize(("write", "read"), [(fcsv_text, from_fcsv), (markups_text, from_markups)])
    def test_points_and_labels_come_back(self, write, read):
        text = write((self.POINTS * lps_signs(3)).tolist(), self.LABELS)
        points, labels = read(text, "x")
        np.testing.assert_allclose(points, self.POINTS)
        assert labels == ("a", self.LABELS[1], "P-3", "d")  # Slicer shows nothing for an empty label

    @pytest.mark.parametrize(("system", "sign"), [("RAS", 1), ("0", 1), ("LPS", -1), ("1", -1), (None, 1)])
    def test_coordinate_systems_of_fiducials(self, system, sign):
        head = "" if system is None else f"# CoordinateSystem = {system}\n"
        points, _ = from_fcsv(head + "1,2,3,4,0,0,0,1,1,1,0,P,,\n", "x")
        np.testing.assert_array_equal(points, [[2 * sign, 3 * sign, 4]])

    def test_columns_of_a_header_decide(self):
        points, labels = from_fcsv("# columns = label,z,x,y\nhere,3,1,2\n", "x")
        np.testing.assert_array_equal(points, [[1, 2, 3]])
        assert labels == ("here",)

    def test_points_that_are_not_placed_are_left_out_with_a_warning(self, caplog):
        content = json.loads(markups_text(self.POINTS.tolist(), self.LABELS))
        points = content["markups"][0]["controlPoints"]
        points[1]["positionStatus"], points[2]["position"] = "preview", None
        found, labels = from_markups(json.dumps(content), "x")
        assert labels == ("a", "d") and len(found) == 2
        assert "2 of 4 control points are not placed" in caplog.text

    @pytest.mark.parametrize(
        ("read", "text", "message"),
        [
            (from_fcsv, "", "x: holds no points; is it a list of fiducials of Slicer?"),
            (
                from_fcsv,
                "# CoordinateSystem = IJK\n1,2,3,4\n",
                "x: its coordinate system is 'IJK'; save it from Slicer as LPS or RAS",
            ),
            (from_fcsv, "1,2,x,4\n", "x, line 1: is '1,2,x,4'; give a finite number for each axis, in mm"),
            (from_markups, "{}", "x: is not a list of Slicer markups"),
            (from_markups, "[1", "x: is not a list of Slicer markups"),
            (from_markups, '{"markups": [{"controlPoints": []}]}', "x: holds no points that are placed"),
        ],
    )
    def test_errors_name_the_file_and_the_remedy(self, read, text, message):
        with pytest.raises(InputError, match=re.escape(message)):
            read(text, "x")

    @pytest.mark.parametrize("row", [["1", "nan", "3"], ["1", "inf", "3"], ["1", "2"], ["1", None, "3"], ["1", "", "3"]])
    def test_coordinates_must_be_finite_numbers(self, row):
        with pytest.raises(InputError, match=r"f\.csv, line 7: is 'shown'; give a finite number"):
            finite_point(row, range(3), "f.csv, line 7", "shown")

    def test_tables_come_back_without_empty_rows_but_with_line_numbers(self):
        rows = [["a", "b,c"], ['"', "1"]]
        text = table_text(rows)
        assert [row for _, row in rows_of(text, "x")] == rows
        assert rows_of("\n a\n\n,\nb\n", "x") == [(2, [" a"]), (5, ["b"])]


class TestChannelNames:
    @pytest.mark.parametrize(
        ("name", "count", "header", "expected"),
        [
            ("a.png", 4, {}, ("red", "green", "blue", "alpha")),
            ("a.png", 1, {}, ()),
            ("a.nrrd", 3, {}, ()),
            ("a.nrrd", 3, {"NRRD_kinds[pixel]": "RGB-color"}, ("red", "green", "blue")),
            (
                "a.nrrd",
                2,
                {"DWMRI_gradient_0000": "0  0 0", "DWMRI_gradient_0001": "1 0 0"},
                ("gradient 0 0 0", "gradient 1 0 0"),
            ),
            ("a.nrrd", 2, {"DWMRI_gradient_0000": "0 0 0"}, ()),
            (
                "a.seg.nrrd",
                2,
                {"Segment0_Layer": "1", "Segment0_Name": "liver", "Segment0_LabelValue": "3", "Segment1_Layer": "0"},
                ("layer of ? = ?", "layer of liver = 3"),
            ),
            ("a.seg.nrrd", 2, {"Segment0_Layer": "0", "Segment1_Layer": "2"}, ()),
            ("a.seg.nrrd", 2, {"Segment0_Layer": "0", "Segment1_Layer": "²"}, ()),
        ],
    )
    def test_names(self, name, count, header, expected):
        assert channel_names(Path(name), count, header) == expected
