# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The schema of ``run.json``: every number has a name, a unit and a description."""

from __future__ import annotations

import dataclasses

import jsonschema
import numpy as np
import pytest

from monai_locor import check
from monai_locor.quality import Thresholds
from monai_locor.report.summary import run_row
from monai_locor.schemas import declared_numbers, numbers_of, run_schema

from .report.results import GRID_2D, aligned, result_with
from .run_schema import valid_run

UNITS = {"1", "%", "mm", "s", "degrees", "voxels", "blocks", "smallest voxel side", "ml", "bytes", "index"}


def nodes(node):
    """All parts of a schema."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from nodes(child)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(run_schema())


def test_every_number_has_a_unit_and_a_description():
    for node in nodes(run_schema()):
        for name, child in node.get("properties", {}).items():
            types = child.get("type", ()) if isinstance(child, dict) else ()
            if {"number", "integer"} & {*([types] if isinstance(types, str) else types)}:
                assert child["unit"] in UNITS and len(child["description"]) > 5, name


def test_measures_are_those_of_the_verdict(tmp_path):
    result = check(*aligned(GRID_2D), result_with(*aligned(GRID_2D)))
    names = [name.removeprefix("verdict.measures.") for name in declared_numbers() if name.startswith("verdict.measures.")]
    assert sorted(names) == sorted(result.verdict.measures)
    second = {"one_subject_shear"}  # another threshold of shear_degrees
    assert {field.name for field in dataclasses.fields(Thresholds)} - second <= {*names}
    result.save(tmp_path)
    content = valid_run(tmp_path / "run.json")
    found = numbers_of(content)
    assert found["verdict.measures.overlap"] == content["verdict"]["measures"]["overlap"] == 1
    assert found["seconds"] == content["seconds"] and found["timings.reading"] is None
    assert {*found} < {*run_row(content, "pair")}


def test_an_unknown_number_is_refused(tmp_path):
    result = check(*aligned(GRID_2D), np.eye(3))
    result.verdict.measures["something_new"] = 1.0
    result.save(tmp_path)
    with pytest.raises(jsonschema.ValidationError, match="something_new"):
        valid_run(tmp_path / "run.json")
