# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Settings by dotted names, ranges of numbers, and descriptions of arguments for the record of a run."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.errors import InputError
from monai_locor.geometry import SpatialTransform
from monai_locor.registration import Stage
from monai_locor.registration.described import described_arguments, described_image, described_start
from monai_locor.registration.dotted import replaced
from monai_locor.registration.history import stage_record
from monai_locor.registration.manifest import sha256
from monai_locor.registration.numbers import COUNT, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_NONE, SHARE, STEPS

from ..layouts import LAYOUTS

SETTINGS = {"seed": 1, "stages": [{"iterations": 80}, {"iterations": 40}], "options": {"a": {"b": 2}}}


class TestReplaced:
    def test_no_changes_are_an_equal_copy(self):
        found = replaced(SETTINGS, {})
        assert found == SETTINGS
        found["stages"][0]["iterations"] = 5
        assert SETTINGS["stages"][0]["iterations"] == 80

    @pytest.mark.parametrize(
        ("name", "path"),
        [("seed", ["seed"]), ("stages.1.iterations", ["stages", 1, "iterations"]), ("options.a.b", ["options", "a", "b"])],
    )
    def test_one_value_changes_and_nothing_else(self, name, path):
        expected = copy.deepcopy(SETTINGS)
        target = expected
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = 7
        before = copy.deepcopy(SETTINGS)
        assert replaced(SETTINGS, {name: 7}) == expected
        assert before == SETTINGS  # the input is unchanged
        assert replaced(replaced(SETTINGS, {name: 7}), {name: 7}) == expected

    def test_changes_of_different_values_commute(self):
        first, second = {"seed": 2}, {"stages.0.iterations": 3}
        assert replaced(replaced(SETTINGS, first), second) == replaced(replaced(SETTINGS, second), first)
        assert replaced(SETTINGS, {**first, **second}) == replaced(replaced(SETTINGS, first), second)

    def test_whole_items_and_new_names(self):
        assert replaced(SETTINGS, {"stages.1": {"iterations": 1}})["stages"][1] == {"iterations": 1}
        assert replaced(SETTINGS, {"new": 1})["new"] == 1  # refused by the settings, which know all names

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("stages.2.iterations", "there is no '2' among 2; count from 0 to 1"),
            ("stages.2", "there is no '2' among 2; count from 0 to 1"),
            ("stages.-1.iterations", "there is no '-1' among 2"),
            ("stages.²", "there is no '²' among 2"),
            ("stages.x", "there is no 'x' among 2"),
            ("stage.0", "there is no setting 'stage'; there is seed, stages, options"),
            ("seed.x", "seed is one value; give a value for seed"),
            ("seed.x.y", "there is no setting 'x'; there is nothing"),
        ],
    )
    def test_names_that_do_not_exist(self, name, message):
        with pytest.raises(InputError, match=re.escape(f"{name}: {message}")):
            replaced(SETTINGS, {name: 1})


class TestNumbers:
    @pytest.mark.parametrize(
        ("numbers", "valid", "invalid"),
        [
            (POSITIVE, [1, 1e-9, 2.5], [0, -1, math.inf, math.nan, None, "1", True]),
            (POSITIVE_OR_NONE, [1, None], [0, -1, math.inf, False]),
            (NOT_NEGATIVE, [0, 0.5], [-1e-9, math.inf, math.nan, None]),
            (STEPS, [0, 7], [-1, 1.0, True, None]),
            (COUNT, [1, 7], [0, 1.5, True]),
            (SHARE, [0, 0.5, 1], [-0.1, 1.1, math.nan, True]),
        ],
    )
    def test_range(self, numbers, valid, invalid):
        for value in valid:
            numbers.check("x", value)
        for value in invalid:
            with pytest.raises(InputError, match=re.escape(f"x must be {numbers.described}, got {value!r}.")):
                numbers.check("x", value)


class TestDescribed:
    def test_matrices_by_value_and_names_of_code(self):
        matrix = np.arange(16.0).reshape(4, 4)
        found = described_arguments({"fixed": torch.zeros(1, 2, 2), "initial": matrix, "seed": 3, "similarity": len})
        assert found["initial"] == {"matrix": matrix.tolist()}
        assert found["similarity"] == {"code": "builtins.len"}
        assert found["seed"] == 3 and found["device"] is None and "moving" not in found

    def test_devices_and_weights_are_plain_values(self):
        found = described_arguments(
            {
                "seed": 0,
                "device": torch.device("cpu"),
                "channel_weights": np.array([1, 2]),
                "devices": [torch.device("cpu")] * 2,
            }
        )
        assert (found["device"], found["devices"], found["channel_weights"]) == ("cpu", ["cpu", "cpu"], [1.0, 2.0])
        assert json.loads(json.dumps(found)) == found

    def test_an_array_by_type_shape_and_hash_of_values_and_affine(self):
        values = torch.arange(24.0).reshape(1, 4, 6)

        def described(image: torch.Tensor) -> dict:
            return described_arguments({"fixed": image, "seed": 0})["fixed"]

        one = described(values)
        assert one["memory"] == "float32" and one["shape"] == [1, 4, 6]
        assert described(values.clone()) == one == described(values.mT.contiguous().mT)  # independent of the memory layout
        assert described(values + 1)["sha256"] != one["sha256"]
        placed = [described(MetaTensor(values, affine=torch.eye(4) * s)) for s in (1.0, 2.0)]
        assert placed[0]["sha256"] != placed[1]["sha256"]

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", ["fixed", "fixed_mask", "initial", "initial_velocity", "labels"])
    def test_an_array_of_any_layout(self, name, layout):
        def described(values: np.ndarray) -> dict:
            return described_arguments({name: (values, values) if name == "labels" else values, "seed": 0})

        values = np.random.default_rng(0).random((1, 4, 6))
        assert described(LAYOUTS[layout](values)) == described(values)

    def test_the_hash_of_an_array_does_not_change(self):
        """Resumed registrations compare it with that of an earlier version."""
        values = np.arange(24, dtype=np.int16).reshape(1, 4, 6)
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        assert described_image(values) == {"memory": "int16", "shape": [1, 4, 6], "sha256": digest}

    def test_a_tensor_of_a_type_that_numpy_lacks(self):
        values = torch.arange(24.0).reshape(1, 4, 6)
        found = described_image(values.bfloat16())
        assert found == {**described_image(values), "memory": "bfloat16"}

    def test_files_by_absolute_path_and_content(self, tmp_path, monkeypatch):
        (tmp_path / "a.nii").write_bytes(b"12")
        (tmp_path / "b.nii").write_bytes(b"12")
        monkeypatch.chdir(tmp_path)
        a, b = described_start("a.nii"), described_start(tmp_path / "b.nii")
        assert a["path"] == str(tmp_path / "a.nii") and a["sha256"] == b["sha256"]
        assert described_start("[a.nii,1]") == {**a, "inverse": True} != described_start("[a.nii,0]") == a
        assert described_start(["a.nii", "[b.nii,1]"]) == {"list": [a, {**b, "inverse": True}]}

    def test_transforms_by_matrix_if_they_have_one(self):
        matrix = np.diag([2.0, 3.0, 4.0, 1.0])
        assert described_start(SpatialTransform.of_affine(matrix)) == {"matrix": matrix.tolist()}
        assert described_start(matrix.tolist()) == {"matrix": matrix.tolist()}
        both = [SpatialTransform.of_affine(matrix), (SpatialTransform.of_affine(matrix), True)]
        np.testing.assert_allclose(described_start(both)["matrix"], np.eye(4), atol=1e-12)


class TestSha256:
    def test_a_file_by_content_and_a_folder_by_names_and_contents(self, tmp_path):
        for name in ("one", "two"):
            (tmp_path / name / "inner").mkdir(parents=True)
            (tmp_path / name / "a").write_bytes(b"1")
            (tmp_path / name / "inner" / "b").write_bytes(b"2")
        assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
        assert sha256(tmp_path / "one" / "a") == sha256(tmp_path / "two" / "a") != sha256(tmp_path / "one" / "inner" / "b")
        (tmp_path / "two" / "inner" / "b").rename(tmp_path / "two" / "inner" / "c")
        assert sha256(tmp_path / "one") != sha256(tmp_path / "two")

    @pytest.mark.parametrize("suffixes", [(".hdr", ".img"), (".mhd", ".raw"), (".nhdr", ".raw.gz"), (".safetensors", ".json")])
    def test_a_companion_file_counts(self, tmp_path, suffixes):
        header, data = (tmp_path / f"x{suffix}" for suffix in suffixes)
        header.write_bytes(b"1")
        alone = sha256(header)
        data.write_bytes(b"2")
        assert sha256(header) != alone

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            sha256(tmp_path / "none")


class TestStageRecord:
    STAGE = Stage(2, 3, spacing=8)

    def test_values_by_step_as_plain_numbers(self, caplog):
        found = stage_record(self.STAGE, torch.tensor([[-1.0, 0.1], [-2.0, 0.2], [-3.0, 0.3]], dtype=torch.float64), 1.5)
        assert found == {
            "factor": 2, "spacing": 8, "loss": [-1.0, -2.0, -3.0], "bending": [0.1, 0.2, 0.3], "seconds": 1.5,
            "undone_steps": 0, "undone": False,
        }  # fmt: skip
        assert not [r for r in caplog.records if r.levelname == "WARNING"]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_what_json_cannot_hold_is_null_and_counted(self, bad, caplog):
        found = stage_record(self.STAGE, torch.tensor([[bad, 0.0], [-1.0, bad], [-1.0, 0.0]]), 1.0)
        assert found["loss"][0] is None and found["bending"][1] is None and found["undone_steps"] == 2
        assert "2 of 3 steps were undone because their loss or gradient was not finite" in caplog.text
        json.dumps(found, allow_nan=False)

    def test_a_loss_of_zero_is_no_overlap_or_the_same_images(self, caplog):
        stage_record(self.STAGE, torch.tensor([[-1.0, 0.0], [0.0, 0.0]]), 1.0)
        assert "no valid overlap between the images or masks, or the images are identical" in caplog.text
