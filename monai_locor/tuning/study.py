# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The study in its SQLite file: opened by one search at a time, and only by one that asks the same question."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import InputError, one_line
from .samplers import import_optuna
from .space import SearchSpace

if TYPE_CHECKING:
    import optuna

__all__ = ["distributions", "open_study"]

NAME = "monai_locor"
IDENTITY = "identity"  # user attribute
REMEDY = "name another output folder, or ask for what it was begun with"


def distributions(space: SearchSpace) -> dict[str, Any]:
    """The parameters as Optuna has them."""
    optuna = import_optuna()
    found: dict[str, Any] = {}
    for name, p in space.parameters.items():
        if p.step:
            found[name] = optuna.distributions.IntDistribution(int(p.low), int(p.high), step=p.step)
        else:
            found[name] = optuna.distributions.FloatDistribution(p.low, p.high, log=p.log)
    return found


@contextmanager
def open_study(path: Path, identity: Mapping[str, Any]) -> Iterator[optuna.Study]:
    """The study in a file, begun if there is none; trials that a search left undone are waiting again.

    Args:
        path: of the SQLite file.
        identity: what must not differ from one search to the next: plain values by what they are.

    Raises:
        InputError: when the file is no such study, or one with another identity: it is left as it is. And when another
            search is at work on it.
    """
    optuna = import_optuna()
    with _locked(path):
        if path.exists():
            _check_file(path)
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            study = optuna.create_study(study_name=NAME, storage=storage, direction="minimize", load_if_exists=True)
        except Exception as error:  # of the database, or of a file by another version of Optuna
            raise InputError(f"study {path}: cannot be opened ({one_line(error)}); {REMEDY}") from error
        try:
            _check_identity(path, study, json.loads(json.dumps(identity)))
            _requeue(study)
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other searches away; a process that ends, however it does, lets go."""
    lock = path.with_name(path.name + ".lock")
    with closing(sqlite3.connect(lock, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise InputError(f"study {path}: another search is at work on it ({error}); wait for it to end") from error
        yield  # the file stays: without it, two searches that come at the same time could both hold a lock


def _check_file(path: Path) -> None:
    """Refuse what is no study before anything is written to it."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            names = [row[0] for row in connection.execute("SELECT study_name FROM studies")]
    except sqlite3.Error as error:
        raise InputError(f"study {path}: is no study of a search ({error}); name another output folder") from error
    if names and names != [NAME]:
        raise InputError(f"study {path}: is of something else, {', '.join(map(str, names))}; name another output folder")


def _check_identity(path: Path, study: optuna.Study, identity: dict[str, Any]) -> None:
    found = study.user_attrs.get(IDENTITY)
    if found is None:
        if study.trials:
            raise InputError(f"study {path}: was not begun by this package; name another output folder")
        study.set_user_attr(IDENTITY, identity)
        return
    other = [f"{name} ({_difference(found.get(name), value)})" for name, value in identity.items() if found.get(name) != value]
    if other:
        raise InputError(f"study {path}: was begun with another {', another '.join(other)}; {REMEDY}")


def _difference(found: Any, wanted: Any) -> str:
    """What differs between two values, in a few words."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return f"{found} instead of {wanted}"
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(names)


def _requeue(study: optuna.Study) -> None:
    """Trials that an earlier search was at when it ended shall be done again."""
    optuna = import_optuna()
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        requeue(study, trial.number, trial.params, trial.user_attrs)


def requeue(study: optuna.Study, number: int, values: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Give up a trial, and let its values wait to be tried again."""
    optuna = import_optuna()
    study.tell(number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(dict(values), user_attrs={k: v for k, v in attributes.items() if k == "base"})
