# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The configuration that an expression belongs to: found by the references it is given, with or without a workflow."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_locor.bundle import Configuration
from monai_locor.errors import InputError

CONFIG = {
    "imports": ["$import monai_locor.bundle as bundle"],
    "configuration": "$bundle.Configuration(__local_refs)",
    "root": "$@configuration.root",
    "value": 3,
    "list": {"_target_": "builtins.list", "iterable": "@value"},
    "initialize": ["$@configuration.check_options()"],
    "run": ["$@configuration"],
}


def workflow(folder: Path) -> ConfigWorkflow:
    path = folder / "configs" / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(CONFIG))
    (path.parent / "metadata.json").write_text("{}")
    return ConfigWorkflow(str(path), logging_file=False)


def test_each_parser_finds_itself():
    parsers = [ConfigParser({**CONFIG, "value": value}) for value in range(3)]
    found = [parser.get_parsed_content("configuration") for parser in parsers]
    assert all(one.parser is parser for one, parser in zip(found, parsers, strict=True))
    assert [one.get("value") for one in found] == [0, 1, 2]
    assert found[0].root == "." and found[0].workflow is None


def test_a_workflow_knows_its_folder_also_in_another_thread(tmp_path):
    made = [workflow(tmp_path / name) for name in ("a", "b")]
    roots: list[str] = []

    def look(one: ConfigWorkflow) -> None:
        one.parser.parse(reset=True)
        roots.append(one.parser.get_parsed_content("root"))

    for one in made:
        thread = threading.Thread(target=look, args=(one,))
        thread.start()
        thread.join()
    assert roots == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_references_of_no_parser():
    with pytest.raises(ValueError, match="__local_refs"):
        Configuration({})


def test_what_a_component_refuses_is_an_input_error():
    configuration = ConfigParser(CONFIG).get_parsed_content("configuration")
    with pytest.raises(InputError, match="list cannot be made: "):
        configuration.make("list")
