# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Which study files a search takes, and that it spoils none."""

from __future__ import annotations

import sqlite3

import pytest

from monai_locor import InputError, RegistrationConfig
from monai_locor.tuning import search_space
from monai_locor.tuning.study import distributions, open_study

optuna = pytest.importorskip("optuna")
pytest.importorskip("sklearn")

IDENTITY = {"search space": {"a": {"low": 1}}, "set of cases": {"x": "1f"}, "seed": 0}


@pytest.fixture
def path(tmp_path):
    with open_study(tmp_path / "study.db", IDENTITY) as study:
        study.add_trial(optuna.trial.create_trial(value=1.0))
    return tmp_path / "study.db"


def test_the_same_search_continues(path):
    with open_study(path, IDENTITY) as study:
        assert len(study.trials) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search space": {"b": {"low": 1}}}, r"another search space \(a, b\)"),
        ({"set of cases": {"x": "2f", "y": "0"}, "seed": 1}, r"another set of cases \(x, y\), another seed \(0 instead of 1\)"),
    ],
)
def test_another_search_is_refused_and_the_file_unchanged(path, change, message):
    before = path.read_bytes()
    with pytest.raises(InputError, match=message), open_study(path, {**IDENTITY, **change}):
        pass
    assert path.read_bytes() == before


def test_other_files_are_refused_and_unchanged(tmp_path):
    path = tmp_path / "study.db"
    path.write_text("a shopping list, long enough to be looked at: " * 9)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not an Optuna study"), open_study(path, IDENTITY):
        pass
    assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE studies (study_name TEXT)")
        connection.execute("INSERT INTO studies VALUES ('kitchen')")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="holds other studies, kitchen"), open_study(path, IDENTITY):
        pass
    assert path.read_bytes() == before


def test_one_search_at_a_time(path):
    first, second = open_study(path, IDENTITY), open_study(path, IDENTITY)
    with first, pytest.raises(InputError, match="in use by another search"), second:
        pass
    with open_study(path, IDENTITY):  # the lock is released
        pass


def test_unfinished_trials_are_queued_again(path):
    space = distributions(search_space(RegistrationConfig(), parameters=["kernel_sigma", "num_basis"]))
    with open_study(path, IDENTITY) as study:
        left = study.ask(space).params  # and the process is killed
    with open_study(path, IDENTITY) as study:
        again = study.ask(space)
        assert again.params == left and again.number == 2
        assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "RUNNING"]
