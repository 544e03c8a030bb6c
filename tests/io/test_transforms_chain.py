# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Chains of transforms, and conversion of lists, pairs and names to chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import SpatialTransform, apply_affine
from monai_locor.io.transforms.ants_syntax import parse_item
from monai_locor.io.transforms.chain import ChainItem, chain_transforms
from monai_locor.io.transforms.conversion import as_transform
from monai_locor.io.transforms.inverse_check import is_inverse

from ..phantoms import grid_of

POINTS = np.random.default_rng(0).uniform(-20, 20, (30, 3))
FIXED, MOVING = grid_of((8, 9, 10)), grid_of((7, 6, 5))


def affine(seed: int, dims: int = 3) -> np.ndarray:
    rng, matrix = np.random.default_rng(seed), np.eye(dims + 1)
    matrix[:-1, :-1] += 0.2 * rng.standard_normal((dims, dims))
    matrix[:-1, -1] = rng.uniform(-9, 9, dims)
    return matrix


def transform(seed: int, dims: int = 3) -> SpatialTransform:
    return SpatialTransform.of_affine(affine(seed, dims))


def item(seed: int, inverse: bool = False, dims: int = 3) -> ChainItem:
    return ChainItem(f"transform {seed}", lambda *_: transform(seed, dims), inverse)


class TestChain:
    def test_one_transform_is_itself(self):
        np.testing.assert_array_equal(chain_transforms([item(1)], None, None).matrix, affine(1))

    def test_points_go_through_the_first_transform_first(self):
        found = chain_transforms([item(1), item(2), item(3)], None, None)
        np.testing.assert_allclose(found.matrix, affine(3) @ affine(2) @ affine(1))

    def test_grouping_does_not_matter(self):
        both = chain_transforms([item(1), item(2)], None, None)
        nested = chain_transforms([ChainItem("both", lambda *_: both), item(3)], None, None)
        np.testing.assert_allclose(nested.matrix, chain_transforms([item(1), item(2), item(3)], None, None).matrix)

    def test_a_transform_and_its_inverse_cancel(self):
        found = chain_transforms([item(1), item(2), item(2, True), item(1, True)], None, None)
        np.testing.assert_allclose(found.points(POINTS), POINTS, atol=1e-9)

    def test_the_reversed_inverted_chain_is_the_inverse(self):
        ahead = chain_transforms([item(1), item(2)], None, None)
        back = chain_transforms([item(2, True), item(1, True)], None, None)
        np.testing.assert_allclose(back.matrix, np.linalg.inv(ahead.matrix), atol=1e-12)

    @pytest.mark.parametrize(("inverse", "expected"), [(False, (FIXED, MOVING)), (True, (MOVING, FIXED))])
    def test_an_inverted_transform_gets_the_grids_of_its_own_images(self, inverse, expected):
        seen = []

        def read(fixed, moving):
            seen.append((fixed, moving))
            return transform(1)

        chain_transforms([ChainItem("one", read, inverse)], FIXED, MOVING)
        assert seen == [expected]

    def test_only_an_inverse_at_the_start_is_computed_on_the_given_grid(self):
        field = SpatialTransform.of_field(torch.zeros(3, *FIXED.shape), FIXED)
        warped = ChainItem("field", lambda *_: field, True)
        first = chain_transforms([warped], None, None, inverse_grid=MOVING)
        assert first.steps[0].grid is MOVING
        later = chain_transforms([item(1), warped], None, None, inverse_grid=MOVING)
        assert later.steps[1].grid is not MOVING

    def test_an_empty_chain_is_refused(self):
        with pytest.raises(InputError, match="the list of transforms is empty; give at least one"):
            chain_transforms([], None, None)

    def test_dimensions_that_differ_are_refused_by_name(self):
        with pytest.raises(InputError, match="transform 2: is 2-D, the previous ones are 3-D; give transforms of one pair"):
            chain_transforms([item(1), item(2, dims=2)], None, None)

    def test_a_failing_inverse_names_the_transform_and_the_remedy(self):
        field = torch.zeros(3, *FIXED.shape)
        field[0, 0, 0, 0] = 1e6
        bad = ChainItem("transform far.nii", lambda *_: SpatialTransform.of_field(field, FIXED), True)
        with pytest.raises(InputError, match=r"transform far\.nii: the inverse would need .*; give the inverse itself"):
            chain_transforms([bad], None, None)


class TestParseItem:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a.mat", ("a.mat", False)),
            ("[a.mat,0]", ("a.mat", False)),
            ("[a.mat,1]", ("a.mat", True)),
            ("[ with space, and comma.mat , 1 ]", ("with space, and comma.mat", True)),
            ("[a.mat,2]", ("[a.mat,2]", False)),
            ("[a.mat]", ("[a.mat]", False)),
            ("x[a.mat,1]", ("x[a.mat,1]", False)),
            ("[a.mat,1],", ("[a.mat,1],", False)),
        ],
    )
    def test_only_the_exact_form_is_an_inverse(self, text, expected):
        assert parse_item(text) == (Path(expected[0]), expected[1])

    @pytest.mark.parametrize("text", ["~/a.mat", "[~/a.mat,1]"])
    def test_the_home_folder_is_expanded(self, text, monkeypatch):
        monkeypatch.setenv("HOME", "/home/someone")
        assert parse_item(text)[0] == Path("/home/someone/a.mat")


class TestConversion:
    @pytest.mark.parametrize("given", [np.eye(4), torch.eye(4), np.eye(4).tolist(), torch.zeros(3, 4, 4, 4), None, 5, []])
    def test_numbers_are_not_transforms(self, given):
        assert as_transform(given, "initial") is None

    def test_a_transform_is_itself_and_a_list_is_a_chain(self):
        np.testing.assert_array_equal(as_transform(transform(1), "initial").matrix, affine(1))
        np.testing.assert_allclose(as_transform([transform(1), transform(2)], "initial").matrix, affine(2) @ affine(1))

    def test_a_pair_with_a_flag_is_one_transform(self):
        np.testing.assert_array_equal(as_transform((transform(1), False), "initial").matrix, affine(1))
        np.testing.assert_allclose(as_transform((transform(1), True), "initial").matrix, np.linalg.inv(affine(1)))
        pairs = [(transform(1), True), transform(2)]
        np.testing.assert_allclose(as_transform(pairs, "initial").matrix, affine(2) @ np.linalg.inv(affine(1)))

    def test_the_output_of_ants_registration(self):
        found = as_transform({"fwdtransforms": [transform(1), transform(2)], "warpedmovout": None}, "initial")
        np.testing.assert_allclose(found.matrix, affine(2) @ affine(1))

    def test_a_result_of_a_registration_by_its_transform(self):
        class Result:
            transform = transform(1)
            forward_mm = None

            def transform_points(self, points):
                return points

        np.testing.assert_array_equal(as_transform(Result(), "initial").matrix, affine(1))

    def test_objects_of_other_libraries_map_points(self):
        sitk = pytest.importorskip("SimpleITK")
        given = sitk.AffineTransform(3)
        given.SetMatrix(affine(1)[:3, :3].ravel().tolist())
        given.SetTranslation(affine(1)[:3, 3].tolist())
        lps = np.array([-1, -1, 1])
        expected = [lps * given.TransformPoint((lps * p).tolist()) for p in POINTS]
        np.testing.assert_allclose(as_transform(given, "initial").points(POINTS), expected, atol=1e-9)

    def test_anything_else_in_a_list_is_refused_by_type(self):
        with pytest.raises(InputError, match="initial: holds a ndarray among transforms; give files and transform objects"):
            as_transform([transform(1), np.eye(4)], "initial")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"missing\.tfm"):
            as_transform(tmp_path / "missing.tfm", "initial")

    @pytest.mark.parametrize("flag", [False, True])
    def test_the_flag_and_the_brackets_toggle_each_other(self, tmp_path, flag):
        """An inverse of an inverse is the transform."""
        path = tmp_path / "a.tfm"
        numbers = " ".join(map(str, [*np.eye(3).ravel(), 1.0, 2.0, 3.0]))
        path.write_text(
            "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
        )
        found = as_transform((f"[{path},1]", flag), "initial")
        shift = apply_affine(found.matrix, np.zeros(3))
        np.testing.assert_allclose(shift, np.array([-1.0, -2, 3]) * (1 if flag else -1), atol=1e-12)


class TestIsInverse:
    GRID = grid_of((12, 10, 8))

    def field(self, scale: float) -> SpatialTransform:
        """A translation of ``scale`` voxels as a field."""
        shift = torch.full((3, *self.GRID.shape), 0.0)
        shift[0] = scale * float(self.GRID.spacing.max())
        return SpatialTransform.of_field(shift, self.GRID)

    def test_the_opposite_translation_is_the_inverse(self):
        assert is_inverse(self.field(-1.5), self.field(1.5))
        assert is_inverse(SpatialTransform.of_affine(np.linalg.inv(self.matrix(3))), self.field(1.5))

    @pytest.mark.parametrize("off", [1.1, -1.1])
    def test_an_error_of_more_than_a_voxel_is_not(self, off):
        assert not is_inverse(self.field(-1.5 + off), self.field(1.5))
        assert is_inverse(self.field(-1.5 + 0.8 * off), self.field(1.5))

    def matrix(self, shift: float) -> np.ndarray:
        matrix = np.eye(4)
        matrix[0, 3] = shift
        return matrix
