# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Descriptions of grids and transforms, JSON values, options and output names of the command line."""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_locor.cli.console import Console, console_of, listed, plain_values
from monai_locor.cli.describe import _affine_parts, describe_grid, describe_transform, kind_of, lines_of
from monai_locor.cli.inputs import check_device, is_ants_prefix
from monai_locor.cli.output_files import stem_of, suffix_of
from monai_locor.cli.parser import Parser, UsageError, whole_number
from monai_locor.cli.result_text import dice_lines, result_lines, warning_lines
from monai_locor.cli.transforms import check_formats, size_of
from monai_locor.errors import InputError
from monai_locor.geometry import AffineStep, FieldStep, Grid, SpatialTransform
from monai_locor.quality import Verdict
from monai_locor.report.summary import summary_lines, verdict_lines, write_summary

from ..phantoms import ORDERS, grid_of, turned

GRID = turned(0.2, (1.0, 2.0, 3.0), (6, 5, 4))


class TestDescribeGrid:
    @pytest.mark.parametrize(("axes", "flips"), ORDERS[::5])
    def test_the_storage_order_permutes_sizes_and_letters_only(self, axes, flips):
        one, other = describe_grid(GRID), describe_grid(GRID.reordered(axes, flips))
        for key in ("shape", "spacing_mm", "extent_mm"):
            np.testing.assert_allclose(other[key], [one[key][a] for a in axes])
        np.testing.assert_allclose(other["center_mm"], one["center_mm"])
        assert other["oblique_degrees"] == pytest.approx(one["oblique_degrees"], abs=1e-3)
        opposite = dict(zip("RASLPI", "LPIRAS", strict=True))
        letters = [one["orientation"][a] for a in axes]
        assert other["orientation"] == "".join(opposite[c] if f else c for c, f in zip(letters, flips, strict=True))

    @pytest.mark.parametrize("degrees", [0.0, 5.0, 30.0, 44.0])
    def test_the_angle_is_that_to_the_nearest_world_axis(self, degrees):
        found = describe_grid(grid_of(turn=math.radians(degrees)))
        assert found["oblique_degrees"] == pytest.approx(degrees, abs=2e-3) and found["orientation"] == "RAS"

    def test_shear_is_named(self):
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        assert not describe_grid(Grid((3, 3, 3), affine))["sheared"]
        affine[0, 1] = 0.3
        assert describe_grid(Grid((3, 3, 3), affine))["sheared"]

    def test_a_sagittal_slice_lies_in_space(self):
        affine = np.array([[0.0, 0, 4, 3], [2, 0, 0, -32], [0, 2, 0, -30], [0, 0, 0, 1]])
        found = describe_grid(Grid.placed((33, 31), affine))
        assert found["orientation"] == "AS"
        np.testing.assert_allclose(found["center_mm"], [3, 0, 0], atol=1e-9)


class TestDescribeTransform:
    def turn(self, degrees: float, scale: float = 1.0) -> np.ndarray:
        angle, matrix = math.radians(degrees), np.eye(4)
        matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        matrix[:3, :3] *= scale
        matrix[:3, 3] = 1, 2, 3
        return matrix

    @pytest.mark.parametrize("degrees", [0.0, 1.0, 90.0, 179.0])
    @pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
    def test_rotation_and_scaling_are_told_apart(self, degrees, scale):
        found = _affine_parts(self.turn(degrees, scale))
        assert found["rotation_degrees"] == pytest.approx(degrees, abs=1e-5)
        np.testing.assert_allclose(found["stretches"], scale)
        assert found["determinant"] == pytest.approx(scale**3) and found["translation_mm"] == [1, 2, 3]

    def test_the_inverse_turns_as_far_and_stretches_by_the_reciprocals(self):
        matrix = self.turn(25.0) @ np.diag([1.1, 0.8, 1.0, 1.0])
        one, back = _affine_parts(matrix), _affine_parts(np.linalg.inv(matrix))
        assert back["rotation_degrees"] == pytest.approx(one["rotation_degrees"])
        np.testing.assert_allclose(sorted(back["stretches"]), sorted(1 / np.array(one["stretches"])))

    def test_a_reflection_has_no_angle(self):
        assert _affine_parts(np.diag([-1.0, 1, 1, 1]))["rotation_degrees"] is None

    def test_two_dimensions(self):
        assert _affine_parts(np.delete(np.delete(self.turn(-30.0), 2, 0), 2, 1))["rotation_degrees"] == pytest.approx(30)

    def test_kinds_in_the_order_in_which_points_are_mapped(self):
        field, affine = FieldStep(torch.zeros(3, *GRID.shape), GRID), AffineStep(np.eye(4))
        kinds = [kind_of(SpatialTransform(steps)) for steps in ((affine, affine), (field, affine), (affine, field))]
        assert kinds == ["affine", "displacement field, then affine", "affine, then displacement field"]

    def test_a_translation_as_a_field_and_as_a_matrix_moves_as_far(self):
        matrix = np.eye(4)
        matrix[:3, 3] = 3, 0, 4
        affine = SpatialTransform.of_affine(matrix)
        field = SpatialTransform.of_field(affine.displacement(GRID), GRID)
        one, other = (describe_transform(t, GRID) for t in (affine, field))
        assert one["displacement_mm"] == pytest.approx(other["displacement_mm"])
        assert other["displacement_mm"]["max"] == pytest.approx(5) and other["jacobian"]["min"] == pytest.approx(1)
        assert "affine" in one and "affine" not in other and not one["holds_inverse"]
        text = "\n".join(lines_of(Path("a.tfm"), one))
        assert "rotation 0.00 degrees, scaling 1 x 1 x 1" in text and "translation (3.000, 0.000, 4.000) mm RAS" in text
        assert "mean 5 mm, 95 % below 5 mm, maximum 5 mm" in text


class TestPlainValues:
    def test_what_json_has_is_unchanged(self):
        values = {"a": [1, 2.5, "x", None, True], "b": {"c": []}}
        assert plain_values(values) == values and plain_values(plain_values(values)) == values

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (math.nan, None),
            (-math.inf, None),
            (np.float32(0.5), 0.5),
            (np.array([[1.0, np.nan]]), [[1.0, None]]),
            (torch.tensor([1, 2]), [1, 2]),
            (torch.tensor(True), True),
            ((1, 2), [1, 2]),
            ({3: Path("a/b")}, {"3": "a/b"}),
        ],
    )
    def test_everything_else_becomes_json(self, value, expected):
        found = plain_values(value)
        assert found == expected
        json.dumps(found, allow_nan=False)

    @pytest.mark.parametrize(("machine", "quiet"), [(False, False), (True, False), (False, True)])
    def test_text_or_one_object(self, machine, quiet, capsys):
        console = Console(machine, quiet, command="info")
        console.say("text")
        assert console.answer({"x": math.inf}, 3) == 3
        out = capsys.readouterr().out
        if machine:
            assert json.loads(out) == {"command": "info", "exit_code": 3, "x": None}
        else:
            assert out == ("" if quiet else "text\n")

    def test_files_are_listed_relative_to_their_folder(self):
        assert listed([Path("/o/b"), Path("/o/a/c"), Path("/x/d")], Path("/o")) == "/x/d, a/c, b"


class TestParsing:
    @pytest.mark.parametrize(("least", "text", "value"), [(0, "0", 0), (1, "7", 7), (-3, "-3", -3)])
    def test_whole_numbers(self, least, text, value):
        assert whole_number(least)(text) == value

    @pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "x", "1e3"])
    def test_others_are_refused_with_the_limit(self, text):
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be an integer, 1 or more, got {re.escape(repr(text))}"):
            whole_number(1)(text)

    def test_options_are_not_abbreviated_and_errors_are_one_line(self):
        parser = Parser(prog="monai-locor x")
        parser.add_argument("--output")
        with pytest.raises(UsageError, match=r"^unrecognized arguments: --out a; see monai-locor x --help$"):
            parser.parse_args(["--out", "a"])

    @pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "cuda:0, cuda:1", None])
    def test_devices(self, name):
        check_device(name)

    @pytest.mark.parametrize(("name", "wrong"), [("gpu", "gpu"), ("cuda:", "cuda:"), ("cpu,", ""), ("cuda:0,tpu", "tpu")])
    def test_other_devices_are_named(self, name, wrong):
        with pytest.raises(InputError, match=re.escape(f"--device {name}: {wrong!r} is not a device; give cpu, cuda, cuda:1")):
            check_device(name)

    def test_formats_once_for_all_or_once_for_each(self):
        assert check_formats(None, 2) == [None, None] == check_formats(["auto"], 2)
        assert check_formats(["fsl", "auto"], 2) == ["fsl", None] and check_formats(["itk"], 3) == ["itk"] * 3
        with pytest.raises(InputError, match="--from fsl fsl: 2 formats for 3 transforms; give one, or one for each"):
            check_formats(["fsl", "fsl"], 3)
        with pytest.raises(InputError, match=r"--from fls: not a transform format; choose one of .*fsl"):
            check_formats(["fls"], 1)

    def test_the_prefix_of_an_ants_run(self, tmp_path):
        (tmp_path / "run_0GenericAffine.mat").touch()
        (tmp_path / "file").touch()
        assert is_ants_prefix(tmp_path / "run_")
        assert (
            not is_ants_prefix(tmp_path / "file") and not is_ants_prefix(tmp_path / "other_") and not is_ants_prefix(Path("/"))
        )

    @pytest.mark.parametrize("name", ["a.nii.gz", "b.NII", "c.d.csv", "e", "f.mrk.json", "g.h.tfm"])
    def test_stem_and_suffix_are_the_name(self, name):
        assert stem_of(f"folder/{name}").lower() + suffix_of(f"folder/{name}") == name.lower()

    def test_the_size_of_a_grid(self):
        assert size_of(Grid((91, 109, 91), np.diag([2.0, 2, 2, 1]))) == "91x109x91 voxels of 2x2x2 mm"


VERDICT = {
    "status": "WARN",
    "reasons": [
        {"check": "overlap", "status": "WARN", "text": "little overlap", "advice": "try another start"},
        {"check": "folding", "status": "PASS", "text": "no folding", "advice": ""},
    ],
    "measures": {},
    "thresholds": {},
}


class TestTexts:
    def test_a_verdict_lists_its_problems_with_their_remedy(self):
        lines = verdict_lines(Verdict.of(VERDICT))
        assert lines == ["verdict: WARN", "  WARN overlap: little overlap; try another start"]
        good = Verdict.of({**VERDICT, "status": "PASS", "reasons": VERDICT["reasons"][1:]})
        assert verdict_lines(good) == ["verdict: PASS, no problems found"]

    @pytest.mark.parametrize("interrupted", [False, True])
    def test_a_result(self, interrupted):
        jacobian = {"min": 0.5, "max": 2.0, "p01": 0.6, "p99": 1.5, "folding_percent": 0.0, "ndv": None}
        values = {
            **{"seconds": 12.34, "device": "cpu", "interrupted": interrupted, "jacobian": jacobian},
            "displacement_mm": {"mean": 1.234, "max": 5.0},
        }
        lines = list(result_lines(values, None))
        assert lines[0].startswith("INTERRUPTED") == interrupted
        assert lines[-3:-1] == ["12.3 s on cpu", "displacement: mean 1.23 mm, maximum 5 mm"]
        assert "non-diffeomorphic volume not measured" in lines[-1]
        assert list(result_lines(values, Verdict.of(VERDICT)))[-2:] == verdict_lines(Verdict.of(VERDICT))

    def test_warnings_without_those_of_the_verdict(self):
        assert list(warning_lines(["a", "b", "c"], ["b"])) == ["  warned: a", "  warned: c"]
        pairs = [{"name": "x.nii", "before": {"mean": 0.5}, "after": {"mean": 0.75}}]
        assert list(dice_lines(pairs)) == ["mean Dice 0.500 before, 0.750 after: x.nii"]

    ROWS = (
        {"pair": "one", "verdict": "PASS", "why": "", "seconds": 10.0},
        {"pair": "three", "verdict": "FAIL", "why": "overlap", "seconds": 2.5, "verdict.measures.nmi_after": 1.2},
        {"pair": "two", "verdict": "", "why": "", "seconds": 1.0},
    )

    def test_the_worst_pair_comes_first_and_all_are_counted(self):
        lines = summary_lines(self.ROWS)
        assert lines[0] == "3 registrations: 1 FAIL, 0 WARN, 1 PASS"
        assert [line.split()[0] for line in lines[1:]] == ["three", "one", "two"] and lines[1].endswith("overlap")
        assert summary_lines([]) == ["0 registrations: 0 FAIL, 0 WARN, 0 PASS"]

    def test_the_table_has_all_columns_of_all_rows(self, tmp_path):
        write_summary(tmp_path / "s.csv", self.ROWS)
        with (tmp_path / "s.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["verdict.measures.nmi_after"] for row in found] == ["", "1.2", ""] and [row["pair"] for row in found] == [
            "one",
            "three",
            "two",
        ]


def test_a_console_is_made_where_none_was_set_up():
    mine = Console(quiet=True)
    assert console_of(SimpleNamespace(console=mine)) is mine and isinstance(console_of(SimpleNamespace()), Console)
