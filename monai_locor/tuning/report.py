# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Report of a search: Markdown with figures."""

from __future__ import annotations

import logging
import statistics
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..io import atomic_path
from ..registration import RegistrationConfig
from .figures import finalists_figure, history_figure, importance_figure, slices_figure
from .results import Finalist, Trial, Tuning
from .samplers import import_optuna
from .search import REPEAT_SEED
from .surrogate import NUM_REFITS

if TYPE_CHECKING:
    import optuna

__all__ = ["importances", "write_report"]

logger = logging.getLogger(__name__)

MAX_LISTED_TRIALS = 10
PICTURES = ("history", "importance", "slices", "finalists")


def write_report(tuning: Tuning, study: optuna.Study) -> None:
    """Write ``report.md`` and its figures to the folder of the search; only the text if matplotlib is missing.

    Args:
        tuning: result of the search.
        study: Optuna's study, for the parameter importances.
    """
    weights = importances(study, tuning.seed)
    pictures = _draw(tuning, weights)
    with atomic_path(tuning.folder / "report.md") as temporary:
        temporary.write_text("\n".join(_lines(tuning, weights, pictures)) + "\n", encoding="utf-8")


def importances(study: optuna.Study, seed: int = 0) -> dict[str, float]:
    """Share of each parameter in the variance of the scores, largest first (fANOVA, Hutter et al. 2014).

    Empty if there are too few trials or all scores are equal.
    """
    optuna = import_optuna()
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError):
        return {}
    return found if sum(found.values()) > 0 else {}


def _draw(tuning: Tuning, weights: dict[str, float]) -> list[str]:
    """Draw the figures and return the names of those that were written."""
    for name in PICTURES:
        (tuning.folder / f"{name}.png").unlink(missing_ok=True)  # from an earlier report
    try:
        history_figure(tuning.folder / "history.png", tuning)
    except ImportError as error:
        logger.warning("the report has no figures: %s", error)
        return []
    if weights:
        importance_figure(tuning.folder / "importance.png", weights)
    slices_figure(tuning.folder / "slices.png", tuning)
    finalists_figure(tuning.folder / "finalists.png", tuning)
    return [name for name in PICTURES if (tuning.folder / f"{name}.png").is_file()]


def _lines(tuning: Tuning, weights: dict[str, float], pictures: Sequence[str]) -> Iterator[str]:
    config, about = tuning.space.base, tuning.about
    yield f"# Tuning of {config.similarity}"
    yield ""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    workers = f"{about['workers']} worker{'s' if about['workers'] != 1 else ''}" if about["workers"] else "one process"
    yield f"{about['date']}; {about['machine']}, {workers}, device {', '.join(about['devices'])}; {versions}"
    yield ""
    yield f"Base settings: {_described(config)}."
    yield ""
    yield from _summary(tuning)
    yield from _preset(tuning)
    yield from _finalists(tuning)
    yield from _picture("finalists", pictures)
    yield from _cases(tuning)
    yield from _search(tuning, pictures)
    if weights:
        yield "## Parameter importance"
        yield ""
        yield from _table(["parameter", "importance"], [[name, f"{value:.2f}"] for name, value in weights.items()])
        yield from _picture("importance", pictures)
    yield from _picture("slices", pictures)
    yield from _again(tuning)


def _described(config: RegistrationConfig) -> str:
    """Measure and schedule of the settings, in words."""
    kind = f"{config.form} form, {config.basis} basis, derivative {config.derivative}; " if config.similarity == "locor" else ""
    options = "".join(f"{name} {value}; " for name, value in config.similarity_options.items())
    stages = ", ".join(
        f"{s.iterations} at {s.factor:g}x" + ("" if s.spacing is None else f"/{s.spacing:g}") for s in config.stages
    )
    return f"{config.similarity}; {kind}{options}iterations {stages} (sample distance / control points)"


def _summary(tuning: Tuning) -> Iterator[str]:
    best, base = tuning.best, tuning.base
    rows = [["without registration", _number(tuning.objective.nothing), ""]]
    if base is not None:
        rows.append([f"base settings (trial {base.number}, one run)", _number(base.value), ""])
    found = f"{_number(best.mean)} ± {_number(best.deviation)}"
    rows.append([f"best (trial {best.trial.number}, {len(best.scores)} repetitions)", found, _number(best.trial.value)])
    yield f"Minimized: {tuning.objective.score.what}. {len(tuning.trials)} trials, {_failures(tuning)}."
    yield ""
    yield from _table(["", tuning.objective.score.short, "score of the trial"], rows)


def _failures(tuning: Tuning) -> str:
    runs = [run for trial in tuning.trials for run in trial.runs]
    failed = sum(1 for run in runs if run.problem)
    return f"{failed} of {len(runs)} runs failed and score as zero displacement" if failed else "no run failed"


def _preset(tuning: Tuning) -> Iterator[str]:
    yield "## Best parameters"
    yield ""
    if tuning.preset is None:
        yield "The search did not improve on the base settings, so no preset is written. Its best parameters were:"
    else:
        yield f'Saved as `{tuning.preset.name}`, for `monai_locor.register(..., preset="{tuning.preset.name}")`:'
    yield ""
    base = tuning.space.of_base()
    rows = []
    for name, p in tuning.space.parameters.items():
        value = p.rounded(tuning.best.trial.values[name])
        scale = ", log" if p.log else f", step {p.step}" if p.step > 1 else ""
        rows.append(
            [name, p.paper, f"{p.low:g} to {p.high:g}{scale}", f"{base[name]:g}" if name in base else "", f"**{value:g}**"]
        )
    yield from _table(["parameter", "name in the paper", "search range", "base settings", "best"], rows)


def _finalists(tuning: Tuning) -> Iterator[str]:
    first = tuning.finalists[0]
    yield "## Finalists"
    yield ""
    yield (
        f"The {len(tuning.finalists)} trials with the lowest predicted score (mean posterior of {NUM_REFITS} Gaussian process "
        f"fits), each repeated {len(first.scores)} times with other seeds. The lowest mean wins."
    )
    yield ""
    names = list(tuning.space.parameters)
    rows = []
    for f in tuning.finalists:
        values = [f"{tuning.space.parameters[name].rounded(f.trial.values[name]):g}" for name in names]
        scores = [_number(f.trial.value), _number(f.expected), _number(f.mean), _number(f.deviation)]
        rows.append([str(f.trial.number), *values, *scores])
    yield from _table(["trial", *names, "score of the trial", "predicted", "mean", "standard deviation"], rows)


def _cases(tuning: Tuning) -> Iterator[str]:
    """Table of all available measures of each case."""
    yield "## Results by case"
    yield ""
    base = tuning.base
    rows = []
    for case, before in tuning.objective.before.items():
        for measure, start in before.items():
            rows.append(
                [case, measure, _number(start), _of_trial(base, case, measure), _of_finalist(tuning.best, case, measure)]
            )
    yield from _table(["case", "measure", "without registration", "base settings", "best (mean)"], rows)


def _of_trial(trial: Trial | None, case: str, measure: str) -> str:
    runs = [] if trial is None else [run for run in trial.runs if run.case == case]
    return "" if not runs else "failed" if runs[0].problem else _number(runs[0].measures[measure])


def _of_finalist(finalist: Finalist, case: str, measure: str) -> str:
    runs = [run for group in finalist.repeats for run in group if run.case == case]
    values = [run.measures[measure] for run in runs if not run.problem]
    lost = f", {len(runs) - len(values)} failed" if len(values) < len(runs) else ""
    return f"{_number(statistics.fmean(values))}{lost}" if values else "failed"


def _search(tuning: Tuning, pictures: Sequence[str]) -> Iterator[str]:
    yield "## Search"
    yield ""
    yield from _picture("history", pictures)
    names = list(tuning.space.parameters)
    rows = []
    for t in sorted(tuning.trials, key=lambda t: t.value)[:MAX_LISTED_TRIALS]:
        values = [f"{tuning.space.parameters[name].rounded(t.values[name]):g}" for name in names]
        rows.append([str(t.number), _number(t.value), *values, "yes" if t.failed else ""])
    yield f"The best {len(rows)} of {len(tuning.trials)} trials:"
    yield ""
    yield from _table(["trial", tuning.objective.score.short, *names, "failed runs"], rows)


def _again(tuning: Tuning) -> Iterator[str]:
    samplers = ", ".join(dict.fromkeys(t.sampler for t in tuning.trials))
    yield "## Reproducing this search"
    yield ""
    yield (
        f"Seed {tuning.seed}, sampler {samplers}. Trial i registers with seed {tuning.seed} + i, repetition r with seed "
        f"{tuning.seed + REPEAT_SEED} + r. `tuning.json` holds the base settings, the hashes of the cases and every run. "
        "`study.db` is the Optuna study; the same command resumes it. Parameters are rounded to four significant digits "
        "before each trial."
    )


def _picture(name: str, pictures: Sequence[str]) -> Iterator[str]:
    if name in pictures:
        yield f"![{name}]({name}.png)"
        yield ""


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    for row in (heading, ["---"] * len(heading), *rows):
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def _number(value: float) -> str:
    return f"{value:.4g}"
