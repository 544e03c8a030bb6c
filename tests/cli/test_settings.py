# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Settings from preset, file, measure and single values, the later ones on top."""

from __future__ import annotations

import argparse
import dataclasses
import json

import pytest

from monai_locor.cli.settings import add_settings, settings_of
from monai_locor.errors import InputError
from monai_locor.registration import PRESETS, RegistrationConfig


def settings(*words: object, base: RegistrationConfig | None = None) -> RegistrationConfig:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    return settings_of(parser.parse_args([str(word) for word in words]), None if base is None else base.to_dict())


def test_nothing_is_the_default():
    assert settings() == RegistrationConfig()
    assert settings("--preset", "fast") == PRESETS["fast"]


def test_the_later_ones_are_on_top(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"preset": "default", "bending_weight": 7, "num_basis": 3, "stride": 2}))
    found = settings(
        "--config", file, "--preset", "fast", "--similarity", "mind_ssc", "--set", "num_basis=4", "--set", "stride=1"
    )
    assert found.stages == PRESETS["fast"].stages
    assert (found.bending_weight, found.num_basis, found.stride, found.similarity) == (7, 4, 1, "mind_ssc")


def test_settings_of_an_earlier_run_are_not_lost_without_a_word(tmp_path, caplog):
    earlier = dataclasses.replace(PRESETS["fast"], transform="affine", bending_weight=7.0, num_basis=3)
    assert settings("--set", "num_basis=4", base=earlier) == dataclasses.replace(earlier, num_basis=4)
    assert settings("--similarity", "mind_ssc", base=earlier) == earlier.with_similarity("mind_ssc")
    assert not caplog.records
    found = settings("--preset", "fast", "--transform", "rigid", "--set", "num_basis=4", base=earlier)
    assert found == dataclasses.replace(PRESETS["fast"], transform="rigid", num_basis=4)
    (line,) = caplog.messages
    lost = "--preset fast: replaces all settings of the earlier run: bending_weight 7.0 then, None now; name those to keep"
    assert line.startswith(lost)  # what the options change is no loss
    caplog.clear()
    assert settings("--preset", "fast", base=PRESETS["fast"]) == PRESETS["fast"] and not caplog.records
    (tmp_path / "own.json").write_text('{"preset": "fast", "num_basis": 3}')
    settings("--config", tmp_path / "own.json", base=earlier)
    assert "own.json: replaces" in caplog.text and "transform affine then, deformable now" in caplog.text


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine", "deformable"])
def test_the_kind_of_transform(kind, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"transform": kind}))
    for words in (["--transform", kind], ["--set", f"transform={kind}"], ["--config", file]):
        assert settings(*words).transform == kind


def test_missing_tissue():
    assert settings("--missing", "map").missing == "map"
    with pytest.raises(InputError, match="never, map, auto"):
        settings("--missing", "yes")


def test_values_are_json_or_words():
    found = settings("--set", "affine=false", "--set", "initialization=moments", "--set", "hidden_channels=[8]")
    assert found.affine is False and found.initialization == "moments" and found.hidden_channels == (8,)
    assert settings("--set", 'similarity_options={"num_bins": 8}', "--similarity", "mutual_information").similarity_options


def test_dots_lead_into_the_schedule_and_the_options():
    found = settings("--set", "stages.5.iterations=3", "--set", "stages.0.learning_rate=0.5")
    default = RegistrationConfig().stages
    assert found.stages[5].iterations == 3 and found.stages[5].spacing == default[5].spacing
    assert found.stages[0].learning_rate == 0.5 and found.stages[1:5] == default[1:5]
    found = settings("--similarity", "mutual_information", "--set", "similarity_options.num_bins=8")
    assert found.similarity_options == {"num_bins": 8}
    assert RegistrationConfig().stages == default  # nothing was changed in place


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "slow"], "preset must be one of default, fast, draft, intersubject, paper, got 'slow'"),
        (["--similarity", "ssd"], "similarity must be one of locor"),
        (["--transform", "elastic"], "transform must be one of rigid, similarity, affine, deformable, got 'elastic'"),
        (["--transform", "rigid", "--set", "affine=false"], "affine false leaves"),
        (["--set", "nonsense=1"], "unknown settings: nonsense"),
        (["--set", "bending_weight"], "--set bending_weight: give KEY=VALUE"),
        (["--set", "bending_weight=-1"], "bending_weight must be"),
        (["--set", "stages.9.iterations=1"], "stages.9.iterations: there is no '9' among 6; count from 0 to 5"),
        (["--set", "nonsense.a=1"], "there is no setting 'nonsense'; there is stages"),
        (["--set", "stride.a=1"], "stride is one value"),
        (["--set", "preset=fast"], "--set preset=fast: a preset is not a single setting; give --preset fast"),
        (["--config", "none.json"], "--config none.json: no such file"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(InputError) as caught:
        settings(*words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_setting_that_a_file_has_wrong_is_told_with_the_file(tmp_path):
    file = tmp_path / "settings.json"
    for content, message in (({"strid": 2}, "unknown settings: strid"), ({"stages.0.factr": 2}, "unknown settings: factr")):
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message) as caught:
            settings("--config", file)
        assert str(caught.value).startswith(f"--config {file}: ")


@pytest.mark.parametrize("content", ["{", "[1]", "import os"])
def test_a_file_that_is_no_object(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        settings("--config", tmp_path / "a.json")
