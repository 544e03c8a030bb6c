# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Options of a bundle, one-line errors, and what a training reports of its loss."""

from __future__ import annotations

import copy
import os
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser

from monai_locor.bundle.known_options import KnownOptions, _ids, _references
from monai_locor.bundle.one_line import causes, one_line_errors
from monai_locor.bundle.options import flag, path_in, resumed_checkpoint
from monai_locor.bundle.progress import LazyWriter, loss_parts
from monai_locor.bundle.runs import OPTIONAL_NUMBERS, POSITIVE_NUMBERS, WHOLE_NUMBERS, _check_number, set_seed
from monai_locor.errors import InputError


class TestFlag:
    @pytest.mark.parametrize("value", [True, 1, "true", "True", " YES ", "on", "1"])
    def test_on(self, value):
        assert flag(value) is True

    @pytest.mark.parametrize("value", [False, 0, None, "false", "No", "off", "", "null", "None"])
    def test_off(self, value):
        assert flag(value) is False

    @pytest.mark.parametrize("value", ["maybe", 2, 0.5, "truee", [True]])
    def test_neither_is_refused_by_value(self, value):
        with pytest.raises(InputError, match=re.escape(f"an option must be true or false, got {value!r}")):
            flag(value)


class TestPaths:
    @pytest.mark.parametrize("word", [None, "None", "null", "", "False", False])
    def test_no_folder_no_path(self, word):
        assert path_in(word, "a.pt") is None and resumed_checkpoint(word, True) is None

    def test_only_the_first_process_writes(self):
        assert path_in("out", "a.pt") == os.path.join("out", "a.pt")
        assert path_in("out", "a.pt", rank=1) is None

    def test_the_home_folder_is_expanded(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/someone")
        assert path_in("~/out") == "/home/someone/out"

    def test_training_resumes_only_on_request(self):
        assert resumed_checkpoint("out", "true") == os.path.join("out", "last.pt")
        assert resumed_checkpoint("out", "false") is None


class TestOneLine:
    def fail(self, depth: int, error: Exception) -> None:
        """Raise an error wrapped ``depth`` times, explicitly and implicitly in turn."""
        if depth == 0:
            raise error
        try:
            self.fail(depth - 1, error)
        except Exception as inner:
            if depth % 2:
                raise RuntimeError(f"wrapped {depth}") from inner
            raise RuntimeError(f"wrapped {depth}")  # noqa: B904  # the implicit context

    @pytest.mark.parametrize("depth", [0, 1, 2, 5])
    def test_bad_input_exits_with_code_2_and_one_line(self, depth, capsys):
        with pytest.raises(SystemExit) as stop, one_line_errors():
            self.fail(depth, InputError("a.nii:\n  no such file"))
        assert stop.value.code == 2 and capsys.readouterr().err == "error: a.nii: no such file\n"

    def test_other_errors_pass(self, capsys):
        with pytest.raises(RuntimeError, match="wrapped 2"), one_line_errors():
            self.fail(2, KeyError("x"))
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("depth", [0, 3])
    def test_causes_are_listed_from_the_last_to_the_first(self, depth):
        first = KeyError("x")
        with pytest.raises((RuntimeError, KeyError)) as caught:
            self.fail(depth, first)
        found = list(causes(caught.value))
        assert len(found) == depth + 1 and found[0] is caught.value and found[-1] is first


class TestNumbers:
    @pytest.mark.parametrize("name", [*WHOLE_NUMBERS, *POSITIVE_NUMBERS])
    def test_limits(self, name):
        least = WHOLE_NUMBERS.get(name, 1e-9)
        _check_number(name, least)
        _check_number(name, least + 1)
        for value in (least - 1, float("inf"), float("nan"), True, "1", *([1.5] if name in WHOLE_NUMBERS else [])):
            with pytest.raises(InputError, match=f"{name} must be a"):
                _check_number(name, value)

    @pytest.mark.parametrize("name", [*WHOLE_NUMBERS, *POSITIVE_NUMBERS])
    def test_none(self, name):
        if name in OPTIONAL_NUMBERS:
            _check_number(name, None)
            return
        with pytest.raises(InputError, match=f"{name} must be .* got None"):
            _check_number(name, None)

    def test_a_bad_seed_ends_the_run_in_one_line(self, capsys):
        with pytest.raises(SystemExit):
            set_seed(-1)
        assert capsys.readouterr().err == "error: seed must be a whole number, 0 or more, got -1\n"


class TestProgress:
    def test_the_loss_and_its_parts_are_numbers_with_a_prefix(self):
        loss = SimpleNamespace(last={"similarity": torch.tensor(-2.0), "bending": 0.5})
        output = {"loss": torch.tensor(-1.5, requires_grad=True)}
        assert loss_parts(loss)(output) == {"train_loss_step": -1.5, "train_similarity": -2.0, "train_bending": 0.5}
        assert loss_parts(object(), "")(output) == {"loss_step": -1.5}

    def test_a_writer_leaves_no_files_before_its_first_event(self, tmp_path):
        writer = LazyWriter(tmp_path / "events")
        for other in (copy.deepcopy(writer), pickle.loads(pickle.dumps(writer))):
            assert isinstance(other, LazyWriter)
        assert not (tmp_path / "events").exists()


CONFIG = {
    "imports": ["$import torch"],
    "used": 3,
    "nested": {"inside": 1, "unused": 2},
    "tensor": {"_target_": "torch.nn.Linear", "in_features": "@used", "out_features": "@nested::inside"},
    "network_def": "@tensor",
    "initialize": [],
}


class TestKnownOptions:
    def found(self, **changes) -> KnownOptions:
        return KnownOptions(ConfigParser({**CONFIG, "nested": {"inside": 1}, **changes}))

    def test_all_are_known_that_something_refers_to(self):
        found = self.found()
        assert found.unknown == [] and found.message() == ""
        assert {"used", "nested", "nested::inside", "tensor", "tensor::bias"} <= set(found.known)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"usedd": 1}, "unknown option --usedd, the closest known one is --used"),
            ({"nested": {"inside": 1, "insid": 2}}, "unknown option --nested#insid, the closest known one is --nested#inside"),
            (
                {"tensor": {**CONFIG["tensor"], "out_featurs": 2}},
                "unknown option --tensor#out_featurs, the closest known one is --tensor#out_features",
            ),
        ],
    )
    def test_a_mistyped_option_is_named_with_the_closest_one(self, changes, message):
        assert self.found(**changes).message() == message

    def test_others_may_be_declared_as_known(self):
        parser = ConfigParser({**CONFIG, "nested": {"inside": 1}, "mine": 1})
        assert KnownOptions(parser).unknown == ["mine"] and KnownOptions(parser, others=["mine"]).unknown == []

    def test_of_two_with_the_same_name_the_one_beside_it_is_closer(self):
        for typed, meant in (("insid", "inside"), ("nested#insid", "nested#inside")):
            nested = {"inside": 1, **({"insid": 2} if "#" in typed else {})}
            config = {**CONFIG, "inside": 1, "nested": nested, **({} if "#" in typed else {"insid": 2})}
            found = KnownOptions(ConfigParser(config), others=["inside"])
            assert found.message() == f"unknown option --{typed}, the closest known one is --{meant}"

    def test_targets_that_take_any_argument_know_all(self):
        assert self.found(tensor={"_target_": "builtins.dict", "whatever": "@used", "inside": "@nested::inside"}).unknown == []

    def test_ids_and_references(self):
        assert list(_ids({"a": {"b": 1}, "+c": 2})) == ["a", "a::b", "c"]
        assert set(_references({"x": ["@a::b", "$@c + 1", 3], "y": "plain"})) == {"a::b", "c"}
