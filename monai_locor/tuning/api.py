# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parameter tuning in one call."""

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
from ..registration.numbers import whole_seed
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
    """Search for the best registration parameters on validation cases.

    The procedure follows the paper. Bayesian optimization proposes trials, and each trial registers all cases. A Gaussian
    process, refitted fifty times, predicts which trials are best. Those finalists are repeated with other seeds, and the one
    with the best mean score wins. A failed run scores as zero displacement. Unlike the paper, the first trial uses the
    parameters of the base settings.

    The search can be interrupted at any time. Calling it again with the same arguments resumes it.

    Args:
        cases: folder with one subfolder per case, or a list of case folders; see :class:`Case`.
        output: folder for ``study.db`` (Optuna's SQLite database), ``preset.json`` (if the search improves on the base
            settings), ``tuning.json`` (numbers, seeds, versions), ``report.md`` and its figures.
        base: base settings, including the similarity measure; same values as ``preset`` of :func:`monai_locor.register`.
        parameters: names of the parameters to search; by default all parameters of the measure, see :func:`search_space`.
        ranges: bounds that replace those of the paper.
        score: see :func:`choose_score`.
        trials: total number of trials, including those of earlier calls.
        minutes: time budget of this call. No trial starts after it; the repetitions run in addition.
        finalists: number of trials to repeat.
        repeats: repetitions of each finalist.
        workers: number of worker processes. With 0, registrations run in this process, and a crash ends the search.
        threads: threads per process; by default torch's thread count divided by the number of workers.
        device: device of the registrations; several devices are distributed over the workers.
        limit: time limit of one registration, seconds. Ignored with 0 workers.
        sampler: one of :data:`.samplers.SAMPLERS`, see :func:`make_sampler`.
        seed: random seed. On the CPU, results are reproducible with one worker and any sampler except HEBO.
        progress: show a progress bar.

    Returns:
        The result of the search.

    Raises:
        InputError: for invalid cases, names or numbers, and if ``output`` holds a study with other cases, parameters,
            bounds, base settings, score or seed. That study is not modified.
        ImportError: if Optuna or scikit-learn is missing; the message names the extra to install.
    """
    optuna, start = import_optuna(), time.perf_counter()
    _check(trials=trials, finalists=finalists, repeats=repeats, workers=workers)
    check_sampler(sampler)
    seed = whole_seed(seed)
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
    """The finalists, best first. The base settings are repeated too if they may have won, for a fair comparison."""
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
    """Everything that must stay the same when a study is resumed."""
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
        listed = ", ".join(f"{name} {n}-D" for name, n in dims.items())
        raise InputError(f"the cases have different dimensions, {listed}; use cases of one dimension")
    return next(iter(dims.values()))


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Silence Optuna's logging; this package logs the progress itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _about(workers: int, devices: Sequence[str]) -> dict[str, Any]:
    """Date, machine and versions."""
    packages = ("torch", "monai", "numpy", "optuna", "scikit-learn")
    return {
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "devices": list(devices),
        "workers": workers,
        "versions": {"monai_locor": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def _write(found: Tuning, identity: Mapping[str, Any]) -> None:
    """Write the preset, and everything needed to reproduce it."""
    record = {
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
    files = {found.folder / "tuning.json": record}
    if found.preset is None:
        (found.folder / PRESET).unlink(missing_ok=True)  # written by an earlier call
        logger.warning("no settings better than the base settings were found; no preset is written")
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
