# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The Optuna study in its SQLite file. Only one search at a time can open it, and only with the same inputs."""

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

STUDY_NAME = "monai_locor"
IDENTITY_KEY = "identity"  # user attribute of the study
OTHER_INPUTS_REMEDY = "choose another output folder, or use the inputs that the study was started with"


def distributions(space: SearchSpace) -> dict[str, Any]:
    """The parameters as Optuna distributions."""
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
    """Open a study, or create it. Trials left unfinished by an earlier search are queued again.

    Args:
        path: path of the SQLite file.
        identity: plain values, by name, that must be the same for all searches on this study.

    Raises:
        InputError: if the file is not a study of this package or has another identity (the file is not modified), and if
            another search is using it.
    """
    optuna = import_optuna()
    with _locked(path):
        if path.exists():
            _check_file(path)
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="minimize", load_if_exists=True)
        except Exception as error:  # database errors, or a file from another version of Optuna
            raise InputError(f"study {path}: cannot be opened ({one_line(error)}); {OTHER_INPUTS_REMEDY}") from error
        try:
            _check_identity(path, study, json.loads(json.dumps(identity)))
            _requeue(study)
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the operating system releases it if the process dies."""
    lock = path.with_name(path.name + ".lock")
    with closing(sqlite3.connect(lock, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise InputError(f"study {path}: in use by another search ({error}); wait until it ends") from error
        yield  # the lock file is not deleted: otherwise two searches could hold locks on different files


def _check_file(path: Path) -> None:
    """Refuse a file that is not a study before writing to it."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            names = [row[0] for row in connection.execute("SELECT study_name FROM studies")]
    except sqlite3.Error as error:
        raise InputError(f"study {path}: not an Optuna study ({error}); choose another output folder") from error
    if names and names != [STUDY_NAME]:
        raise InputError(f"study {path}: holds other studies, {', '.join(map(str, names))}; choose another output folder")


def _check_identity(path: Path, study: optuna.Study, identity: dict[str, Any]) -> None:
    found = study.user_attrs.get(IDENTITY_KEY)
    if found is None:
        if study.trials:
            raise InputError(f"study {path}: was not created by this package; choose another output folder")
        study.set_user_attr(IDENTITY_KEY, identity)
        return
    other = [f"{name} ({_difference(found.get(name), value)})" for name, value in identity.items() if found.get(name) != value]
    if other:
        raise InputError(f"study {path}: was started with another {', another '.join(other)}; {OTHER_INPUTS_REMEDY}")


def _difference(found: Any, wanted: Any) -> str:
    """The differences between two values, in a few words."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return f"{found} instead of {wanted}"
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(names)


def _requeue(study: optuna.Study) -> None:
    """Queue trials again that an earlier search left running."""
    optuna = import_optuna()
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        requeue(study, trial.number, trial.params, trial.user_attrs)


def requeue(study: optuna.Study, number: int, values: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Mark a trial as failed and queue its values again."""
    optuna = import_optuna()
    study.tell(number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(dict(values), user_attrs={k: v for k, v in attributes.items() if k == "base"})
