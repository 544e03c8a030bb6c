# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Settings: JSON and back, and everything that is no setting refused with what would be one."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest

from monai_locor import InputError, RegistrationConfig
from monai_locor.inferers import InstanceOptimizationInferer
from monai_locor.networks.composition import COMPOSITIONS
from monai_locor.registration import PRESETS, Stage
from monai_locor.registration.config import CHOICES
from monai_locor.registration.measures import SIMILARITIES

SMALL = RegistrationConfig(
    stages=(Stage(2, 3), Stage(1.5, 4, spacing=8, learning_rate=0.1)), hidden_channels=(8,), form="normalized", affine=False
)


def refusal(settings) -> str:
    with pytest.raises(InputError) as caught:
        RegistrationConfig.of(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSources:
    @pytest.mark.parametrize("config", [*PRESETS.values(), SMALL])
    def test_json_and_back(self, config, tmp_path):
        text = json.dumps(config.to_dict())
        assert RegistrationConfig.of(json.loads(text)) == config
        (tmp_path / "settings.json").write_text(text)
        assert RegistrationConfig.of(tmp_path / "settings.json") == config
        assert RegistrationConfig.of(str(tmp_path / "settings.json")) == config

    @pytest.mark.parametrize("name", list(PRESETS))
    def test_presets_go_by_name(self, name):
        assert RegistrationConfig.of(name) is PRESETS[name]

    def test_there_is_a_default(self):
        assert RegistrationConfig.of({}) == PRESETS["default"] == RegistrationConfig.of({"preset": "default"})

    def test_a_configuration_is_itself(self):
        assert RegistrationConfig.of(SMALL) is SMALL

    @pytest.mark.parametrize("name", list(PRESETS))
    def test_a_mapping_changes_a_preset(self, name):
        changed = RegistrationConfig.of({"preset": name, "num_basis": 3, "stages": [{"factor": 2, "iterations": 7}]})
        expected = dataclasses.replace(PRESETS[name], num_basis=3, stages=(Stage(2, 7),))
        assert changed == expected

    def test_a_file_changes_a_preset_too(self, tmp_path):
        (tmp_path / "a.json").write_text('{"preset": "default", "ridge": 0.01}')
        assert RegistrationConfig.of(tmp_path / "a.json") == dataclasses.replace(PRESETS["default"], ridge=0.01)

    def test_the_mapping_is_not_changed(self):
        mapping = {"preset": "default", "ridge": 0.01}
        RegistrationConfig.of(mapping)
        assert mapping == {"preset": "default", "ridge": 0.01}

    def test_settings_are_frozen_and_plain(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            SMALL.ridge = 1  # type: ignore[misc]
        assert hash(SMALL) == hash(dataclasses.replace(SMALL)) and isinstance(SMALL.stages, tuple)


class TestUnknown:
    def test_settings(self):
        message = refusal({"stride": 2, "itrations": 3, "kernel": 1})
        assert "itrations" in message and "kernel" in message
        assert all(f.name in message for f in dataclasses.fields(RegistrationConfig))

    def test_settings_of_a_stage(self):
        message = refusal({"stages": [{"factor": 1, "iterations": 2, "lr": 3}]})
        assert "lr" in message and all(f.name in message for f in dataclasses.fields(Stage))

    def test_a_stage_that_lacks_something(self):
        assert "iterations" in refusal({"stages": [{"factor": 1}]})

    @pytest.mark.parametrize(
        "preset", ["fats", {"preset": "fats"}, {"preset": None}, {"preset": ["fast"]}, "no/such/file.json"]
    )
    def test_presets(self, preset):
        message = refusal(preset)
        assert all(name in message for name in PRESETS)

    def test_a_preset_inside_a_mapping_is_no_file(self, tmp_path):
        (tmp_path / "a.json").write_text("{}")
        message = refusal({"preset": str(tmp_path / "a.json")})
        assert "preset" in message and all(name in message for name in PRESETS)

    @pytest.mark.parametrize("content", ["{", "", "[1, 2]", '"default"', "\udcff"])
    def test_files_of_something_else(self, content, tmp_path):
        path = tmp_path / "bad.json"
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        assert str(path) in refusal(path)

    def test_a_folder(self, tmp_path):
        assert str(tmp_path) in refusal(tmp_path)


BAD = {
    **{
        name: [0, -1, float("nan"), float("inf"), "3", None, True]
        for name in ("num_basis", "kernel_sigma", "truncated", "stride", "ridge", "eps", "min_mass", "squarings")
    },
    "learning_rate_affine": [0, -1, None],
    "learning_rate_basis": [0, "fast"],
    "form": ["lin", None, 3],
    "basis": ["spline"],
    "initialization": ["nowhere"],
    "quantile": [-0.1, 0.5, float("nan"), "x"],
    "derivative": [True, False, None, "target"],
    "derivative_unit": [True, None, "mm"],
    "composition": [True, None, 2, "both"],
    "region": [True, None, "mask"],
    "undo_worse": ["no", 1, None],
    "bending_weight": [-1, float("nan"), float("inf"), "60", True],
    "similarity": ["mse", None, 3, "Locor"],
    "similarity_options": [None, 3, ["num_bins"], {"num_bins": 3}, {3: 4}],
    "restrict_deformation": [1, [1, 0.5, 1], "1x1x2", "0x0x0", [1], [1, 1, 1, 0], [True, True, False], "ab"],
    "landmark_weight": [-1, float("nan"), float("inf"), "1", None, True],
    "label_weight": [-1, float("nan"), float("inf"), "1", None, True],
    "surface_weight": [-1, float("nan"), float("inf"), "1", None, True],
    "surface_space": ["RAS", "scanner", None, 1],
    "damping": [-0.1, float("nan"), float("inf"), "1", None, True],
    "warmup": [-1, 2.5, "5", None],
    "decay_start": [-0.1, 1.1, float("nan"), "0", None],
    "decay_end": [-0.1, 1.1, float("nan"), "0", None],
    "affine": ["no", 1, None],
    "stages": [5, [5], [None]],
    "hidden_channels": [3, None, ["a"], [0], [2.5], [True]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_refused(name, value):
    refusal({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("factor", 0),
        ("factor", float("nan")),
        ("factor", "1"),
        ("learning_rate", -1),
        ("spacing", 0),
        ("spacing", "8"),
        ("iterations", -1),
        ("iterations", 1.5),
        ("iterations", True),
        ("iterations", None),
    ],
)
def test_bad_values_of_a_stage_are_refused_by_name(name, value):
    assert name in refusal({"stages": [{"factor": 1, "iterations": 2, name: value}]})


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_basis", 2.5), ("squarings", 2.5), ("hidden_channels", ["a"]), ("hidden_channels", [0]), ("affine", "no"),
     ("derivative", "no"), ("bending_weight", float("inf")), ("damping", -1), ("decay_start", 2), ("decay_end", -1),
     ("form", "lin"), ("basis", "spline"), ("initialization", "nowhere"), ("quantile", 0.5), ("ridge", 0),
     ("composition", "both"), ("region", "mask"), ("undo_worse", 1), ("derivative_unit", "mm")],
)  # fmt: skip
def test_bad_values_are_refused_by_name(name, value):
    assert name in refusal({name: value})


def test_the_setting_of_earlier_versions_is_refused():
    message = refusal({"derivative_channel": True})
    assert "derivative_channel" in message and "derivative," in message


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "derivative": ["none", "basis", "both"],
        "derivative_unit": ["sample", "voxel"],
        "composition": ["single", "stages"],
        "region": ["foreground", "image"],
        "undo_worse": [True, False],
        "damping": [0, 0.5, 10],
        "warmup": [0, 3],
        "decay_start": [0, 0.5, 1],
        "decay_end": [0, 0.02, 1],
        "bending_weight": [0, 1, None],
        "affine": [True, False],
        "hidden_channels": [[], [8, 8, 8]],
    }.items(),
)
def test_what_is_accepted(name, values):
    for value in values:
        config = RegistrationConfig.of({name: value})
        assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)


def test_a_stage_needs_no_learning_rate():
    (stage,) = RegistrationConfig.of({"stages": [{"factor": 1, "iterations": 2, "learning_rate": None}]}).stages
    assert stage.learning_rate is None and Stage(1, 2).learning_rate is None


class TestNamesWithDots:
    CHANGES = {"stages.5.iterations": 3, "stages.0.learning_rate": 0.5, "similarity_options.num_bins": 8}
    OTHER = {"preset": "fast", "similarity": "mutual_information", "stride": 2}

    def test_they_change_a_part_of_what_the_rest_says(self):
        found = RegistrationConfig.of({**self.CHANGES, **self.OTHER})
        first, *between, last = PRESETS["fast"].stages
        stages = (dataclasses.replace(first, learning_rate=0.5), *between, dataclasses.replace(last, iterations=3))
        assert found.stages == stages and found.similarity_options == {"num_bins": 8} and found.stride == 2

    def test_a_file_a_mapping_and_the_bundles_preset_mean_the_same(self, tmp_path):
        (tmp_path / "settings.json").write_text(json.dumps({**self.CHANGES, **self.OTHER}))
        found = RegistrationConfig.of({**self.CHANGES, **self.OTHER})
        assert RegistrationConfig.of(tmp_path / "settings.json") == found
        assert InstanceOptimizationInferer(preset={**self.CHANGES, **self.OTHER}).config == found

    @pytest.mark.parametrize(
        "key", ["stages.6.iterations", "stages.x.factor", "stages.0.nonsense", "stride.a", "no.a", "stages."]
    )
    def test_what_leads_nowhere_is_refused(self, key):
        assert key.split(".")[0] in refusal({key: 1}) or "nonsense" in refusal({key: 1})


def test_the_tables_without_torch_agree_with_the_classes():
    for name, known in SIMILARITIES.items():
        taken = {"spatial_dims", "in_channels", "reduction", "generator", *known.fixed, *known.settings}
        parameters = inspect.signature(known.loss).parameters
        assert set(known.names) == set(parameters) - taken, name
        assert {*known.settings, *known.fixed, *known.options} <= set(parameters), name
    assert CHOICES["composition"] == tuple(COMPOSITIONS)


class TestPresets:
    def test_names(self):
        assert set(PRESETS) == {"default", "fast", "draft", "intersubject", "paper"}

    @pytest.mark.parametrize("name", list(PRESETS))
    def test_coarse_to_fine_and_affine_first(self, name):
        stages = PRESETS[name].stages
        affine, spacings = [s for s in stages if s.spacing is None], [s.spacing for s in stages if s.spacing is not None]
        for factors in ([s.factor for s in affine], [s.factor for s in stages[len(affine) :]]):
            assert factors and factors == sorted(factors, reverse=True)
        assert spacings == sorted(spacings, reverse=True) and list(stages[: len(affine)]) == affine

    def test_intersubject_is_fast_in_the_robust_form_with_wider_windows(self):
        fast, between = PRESETS["fast"], PRESETS["intersubject"]
        assert between == dataclasses.replace(fast, form="robust", kernel_sigma=1.3, eps=between.eps, intersubject="always")

    @pytest.mark.parametrize(("less", "more"), [("fast", "default"), ("draft", "fast")])
    def test_fewer_steps_and_no_other_difference(self, less, more):
        fast, default = PRESETS[less], PRESETS[more]
        assert dataclasses.replace(fast, stages=default.stages) == default
        assert len(fast.stages) == len(default.stages)
        assert all(a.iterations <= b.iterations for a, b in zip(fast.stages, default.stages))
        assert sum(s.iterations for s in fast.stages) < sum(s.iterations for s in default.stages)
