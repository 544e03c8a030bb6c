# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tune in one call."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import InputError
from ..io import atomic_path, check_output_dir
from ..registration import RegistrationConfig
from ..registration.pair import select_device
from .cases import Case, find_cases
from .pool import Pool
from .report import write_report
from .results import PRESET, Finalist, Objective, Tuning, candidates, fitted_surrogate
from .samplers import check_sampler, import_optuna, make_sampler
from .scores import choose_score
from .search import Search
from .space import SearchSpace, search_space
from .study import open_study

__all__ = ["STUDY", "tune"]

logger = logging.getLogger(__name__)

STUDY = "study.db"


def tune(
    cases: str | PathLike[str] | Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    base: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
    parameters: Sequence[str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    score: str = "auto",
    trials: int = 100,
    minutes: float | None = None,
    finalists: int = 5,
    repeats: int = 5,
    workers: int = 1,
    threads: int | None = None,
    device: str | Sequence[str] | None = None,
    limit: float | None = None,
    sampler: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Tuning:
    """Search the parameters of a registration on validation cases.

    As in the paper: trials on all cases, proposed by Bayesian optimization; a Gaussian process, fitted anew fifty times,
    says which of the trials are to be expected to be best; these are run again with other seeds, and the one of the best mean
    wins. A run that fails counts as no displacement. Unlike the paper, the first trial has the parameters of the base settings.

    The search can be interrupted at any time; the same call goes on with it.

    Args:
        cases: folder whose folders are cases, or folders of single cases; see :class:`Case`.
        output: folder for ``study.db`` (SQLite, by Optuna), ``preset.json`` (if something better was found),
            ``tuning.json`` (numbers, seeds, versions),
            ``report.md`` and its pictures.
        base: settings to start from, the measure among them: as ``preset`` of :func:`monai_locor.register`.
        parameters: only these of the measure's, see :func:`search_space`.
        ranges: other bounds than the paper's.
        score: see :func:`choose_score`.
        trials: so many are made in all, those of earlier calls included.
        minutes: of this call, after which no more trials begin; the repetitions come on top.
        finalists: how many of the best are run again.
        repeats: how often.
        workers: processes that register at the same time; 0 does it in this one, which ends with what it crashes on.
        threads: of each process; by default torch's number shared out among them.
        device: of the registrations; several are shared out among the workers.
        limit: seconds after which a registration counts as failed; none with no workers.
        sampler: one of :data:`SAMPLERS`, see :func:`make_sampler`.
        seed: of everything: on a CPU the same seed finds the same, with one worker and any sampler but HEBO.
        progress: show a progress bar.

    Returns:
        what was found.

    Raises:
        InputError: for cases, names and numbers that cannot be, and for a study in ``output`` of another question: other
            cases, parameters, bounds, base settings, score or seed. It is left as it is.
        ImportError: without Optuna or scikit-learn, naming the extra that brings them.
    """
    optuna, start = import_optuna(), time.perf_counter()
    _check(trials=trials, finalists=finalists, repeats=repeats, workers=workers)
    check_sampler(sampler)
    chosen = _cases(cases)
    dims = _dims(chosen)
    space = search_space(RegistrationConfig.of(base), dims, parameters, ranges)
    objective = Objective(choose_score(chosen, score), {case.name: case.measure(None) for case in chosen})
    folder = check_output_dir(output)
    identity = _identity(space, chosen, objective, seed)
    devices = [str(select_device(d)) for d in ([device] if device is None or isinstance(device, str) else device)]
    with _quiet(optuna), open_study(folder / STUDY, identity) as study, Pool(workers, threads, limit, devices) as pool:
        name, study.sampler = make_sampler(sampler, seed, len(study.trials), parallel=pool.size > 1)
        search = Search(study, space, chosen, objective, pool, seed, name, progress)
        search.search(trials, None if minutes is None else 60 * minutes)
        made = search.trials()
        surrogate = fitted_surrogate(space, made, seed)
        best = _best(search, candidates(space, made, surrogate, finalists), repeats)
        about = {**_about(workers, devices), "seconds": round(time.perf_counter() - start, 1)}
        found = Tuning(folder, space, objective, made, seed, best, surrogate, about)
        _write(found, identity)
        write_report(found, study)
    return found


def _best(search: Search, chosen: Sequence[Finalist], repeats: int) -> tuple[Finalist, ...]:
    """The finalists, the best first; in doubt with the base settings among them, so that they are compared fairly."""
    best = search.repeat(chosen, repeats)
    base = next((trial for trial in search.trials() if trial.base), None)
    if base is None or any(f.trial.base for f in best) or best[0].mean < base.value:
        return best
    return search.repeat([*chosen, Finalist(base, base.value)], repeats)


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        least = 0 if name == "workers" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} must be a whole number, {least} or more, got {value!r}")


def _identity(space: SearchSpace, cases: Sequence[Case], objective: Objective, seed: int) -> dict[str, Any]:
    """What a study is about: none of it may change while it goes on."""
    return {
        "base settings": space.base.to_dict(),
        "search space": space.to_dict(),
        "set of cases": {case.name: case.digest() for case in cases},
        "score": objective.score.name,
        "seed": seed,
    }


def _cases(cases: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[Case]:
    if isinstance(cases, (str, PathLike)):
        return find_cases(cases)
    paths = [Path(path).expanduser() for path in cases]
    found = [case for path in paths for case in find_cases(path.parent, [path.name])]
    if not found or len({case.name for case in found}) < len(found):
        raise InputError(f"cases {', '.join(map(str, paths)) or '(none)'}: give one or more folders of different names")
    return found


def _dims(cases: Sequence[Case]) -> int:
    dims = {case.name: case.grid.dims for case in cases}
    if len(set(dims.values())) > 1:
        told = ", ".join(f"{name} {n}-D" for name, n in dims.items())
        raise InputError(f"the cases differ in their dimensions, {told}; tune on those of one kind")
    return next(iter(dims.values()))


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's own lines; this package logs what is to be said."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _about(workers: int, devices: Sequence[str]) -> dict[str, Any]:
    """When, where, with what."""
    packages = ("torch", "monai", "numpy", "optuna", "scikit-learn")
    return {
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "devices": list(devices),
        "workers": workers,
        "versions": {"monai_locor": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def _write(found: Tuning, identity: Mapping[str, Any]) -> None:
    """The preset, and what is needed to find it again."""
    told = {
        **identity,
        "objective": found.objective.score.what,
        "without registration": found.objective.before,
        "to beat": found.start,
        "found": {"trial": found.best.trial.number, "parameters": found.best.trial.values, "mean": found.best.mean},
        "finalists": [_finalist(f) for f in found.finalists],
        "trials": [
            {
                "number": t.number,
                "parameters": t.values,
                "score": t.value,
                "sampler": t.sampler,
                "runs": [r.to_dict() for r in t.runs],
            }
            for t in found.trials
        ],
        **found.about,
    }
    files = {found.folder / "tuning.json": told}
    if found.preset is None:
        (found.folder / PRESET).unlink(missing_ok=True)  # of an earlier call, which had found something worse
        logger.warning("nothing better than the settings to start from was found: no preset is written")
    else:
        files[found.preset] = found.config.to_dict()
    for path, content in files.items():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _finalist(finalist: Any) -> dict[str, Any]:
    return {
        "trial": finalist.trial.number,
        "expected": finalist.expected,
        "scores": list(finalist.scores),
        "mean": finalist.mean,
        "runs": [[run.to_dict() for run in group] for group in finalist.repeats],
    }
