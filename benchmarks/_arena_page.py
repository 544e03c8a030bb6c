# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The arena's page and its summary in the README, both computed from the stored runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _arena_records import NOTHING, Runs, cases_of, kind_of, names_of_methods
from _arena_statistics import MEASURES, SPREADS, Bootstrap, errors_left, geometric_mean, holm, medians, paired
from _compare import Measure, Method, name_of, values
from _score import INNER_MM
from _tables import markdown

README_BLOCK = re.compile(r"^<!-- arena -->\n.*?^<!-- end arena -->$", re.MULTILINE | re.DOTALL)
INNER = Measure("tre_inner_mm", "mean, mm", True, ".2f"), Measure("tre_inner_p95_mm", "95 %, mm", True, ".2f")
Settings = Mapping[str, Any]


def reference_of(settings: Settings, runs: Runs) -> Method | None:
    """The method that the others are compared with: the first one listed that has runs."""
    return next(((tool, preset) for tool, preset in map(tuple, settings["references"]) if runs.of(tool, preset)), None)


def overall(settings: Settings, runs: Runs) -> list[dict[str, Any]]:
    """One row for each method with runs, over all cases, smallest error left first."""
    left: dict[Method, dict[str, Any]] = {}
    for kind in settings["kinds"].values():
        for method, numbers in errors_left(runs, runs.nothing, kind["cases"], kind["measure"]).items():
            left.setdefault(method, {}).update(numbers)
    left.pop((NOTHING, ""), None)
    reference, bootstrap = reference_of(settings, runs), Bootstrap(**settings["bootstrap"])
    rows = []
    for method, numbers in left.items():
        own = [run for run in runs.of(*method) if run["case"] in numbers]
        row = {"method": name_of(method), "cases": len(numbers), "left": geometric_mean(list(medians(numbers).values()))}
        row |= {"interval": bootstrap.interval(numbers, geometric=True), "runs": len(own)}
        row |= {"failed": sum(bool(run["problem"]) for run in own), "seconds": _seconds(own)}
        if reference in left and method != reference:
            row["paired"] = paired(numbers, left[reference], bootstrap)
        rows.append(row)
    tested = [row["paired"] for row in rows if row.get("paired") and "p" in row["paired"]]
    for comparison, p in zip(tested, holm([comparison["p"] for comparison in tested])):
        comparison["p"] = p
    return sorted(rows, key=lambda row: row["left"])


def _seconds(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Median CPU seconds of the runs that finished."""
    taken = [run["processor_seconds"] for run in runs if "processor_seconds" in run]
    return statistics.median(taken) if taken else None


def overall_table(settings: Settings, runs: Runs) -> str:
    """Markdown of `overall`."""
    reference = reference_of(settings, runs)
    versus = f"error relative to `{name_of(reference)}` [95 %]" if reference else "relative error"
    head = ["method", "cases", "error left, % [95 %]", versus, "p", "failed runs", "CPU seconds, median"]
    lines = []
    for row in overall(settings, runs):
        compared = row.get("paired") or {}
        ratio = f"{compared['ratio']:.2f}{_interval(compared['interval'], '.2f')}" if compared else ""
        cells = [f"`{row['method']}`", str(row["cases"]), f"{100 * row['left']:.1f}{_interval(row['interval'], '.1f', 100)}"]
        cells += [ratio, f"{compared['p']:.2g}" if "p" in compared else "", f"{row['failed']}/{row['runs']}"]
        lines.append([*cells, "" if row["seconds"] is None else f"{row['seconds']:.0f}"])
    return markdown(head, lines)


def _interval(found: tuple[float, float] | None, style: str, factor: float = 1) -> str:
    return f" [{factor * found[0]:{style}}, {factor * found[1]:{style}}]" if found else ""


def kind_table(settings: Settings, runs: Runs, kind: str) -> str:
    """Markdown: of one kind of cases the mean, the comparison, and every case; best mean first, best values bold."""
    told = settings["kinds"][kind]
    measure, spread = MEASURES[told["measure"]][0], SPREADS[told["measure"]]
    own = [run for run in runs if run["case"] in told["cases"]]
    found = values(own, runs.nothing, measure)
    shown = [case for case in told["cases"] if any(case in cases for cases in found.values())]
    if not shown:
        return "No runs yet."
    left, wide = errors_left(own, runs.nothing, told["cases"], told["measure"]), values(own, runs.nothing, spread)
    reference, bootstrap = reference_of(settings, runs), Bootstrap(**settings["bootstrap"])
    best, inner = _best(found, shown, measure), [values(own, runs.nothing, inside) for inside in INNER]
    lines = []
    for method, numbers in found.items():
        middle = medians(numbers)
        mean = statistics.fmean(middle.values())
        compared = paired(left[method], left[reference], bootstrap) if reference in left and method != reference else None
        ratio = f"{compared['ratio']:.2f}{_interval(compared['interval'], '.2f')}" if compared else ""
        total = f"{mean:{measure.style}}{_interval(bootstrap.interval(numbers), measure.style)}"
        widths = medians(wide.get(method, {})).values()
        cells = [f"`{name_of(method)}`" if method[0] != NOTHING else "no registration", f"{len(middle)}/{len(shown)}", total]
        cells += [f"{statistics.fmean(widths):{spread.style}}" if widths else "", ratio, *_regularity(own, method)]
        cells += _inner(inner, method) if inner[0] else []
        lines.append((mean, [*cells, *(_cell(middle.get(case), best[case], measure.style) for case in shown)]))
    lines.sort(key=lambda line: line[0], reverse=not measure.lower_is_better)
    head = ["method", "cases", f"{measure.heading}, mean over cases [95 %]", spread.heading, "relative error [95 %]"]
    head += ["folding, %, max", "inverse 95 %, voxels, max"]
    head += [f"deeper than {INNER_MM:.0f} mm: {INNER[0].heading}", INNER[1].heading, "of cases"] if inner[0] else []
    return markdown([*head, *(f"`{case}`" for case in shown)], [cells for _, cells in lines])


def _best(found: Mapping[Method, Mapping[str, Sequence[float]]], cases: Sequence[str], measure: Measure) -> dict[str, float]:
    """Case to the best median of all methods."""
    choose = min if measure.lower_is_better else max
    return {case: choose(statistics.median(own[case]) for own in found.values() if case in own) for case in cases}


def _cell(value: float | None, best: float, style: str) -> str:
    if value is None:
        return ""
    return f"**{value:{style}}**" if format(value, style) == format(best, style) else format(value, style)


def _regularity(runs: Sequence[Mapping[str, Any]], method: Method) -> list[str]:
    """Largest share of folding voxels and largest inverse error of the finished runs of a method."""
    own = [run for run in runs if (run["tool"], run["preset"]) == method and not run["problem"]]
    folding = [100 * run["folding_voxels"] / run["voxels"] for run in own if run.get("voxels")]
    inverse = [run["inverse_p95_vox"] for run in own if "inverse_p95_vox" in run]
    return [f"{max(folding):.2g}" if folding else "", f"{max(inverse):.2f}" if inverse else ""]


def _inner(found: Sequence[Mapping[Method, Mapping[str, Sequence[float]]]], method: Method) -> list[str]:
    """Means over the cases of the error far below the surface and of its 95th percentile, and the number of these cases."""
    columns = [medians(numbers.get(method, {})).values() for numbers in found]
    if not columns[0]:
        return ["", "", ""]
    return [*(f"{statistics.fmean(column):{INNER[0].style}}" for column in columns), str(len(columns[0]))]


def failures(runs: Runs) -> str:
    """Markdown: every failed run."""
    failed = [run for run in runs if run["problem"]]
    if not failed:
        return "No run failed."
    lines = [[run["case"], name_of((run["tool"], run["preset"])), str(run["seed"]), run["problem"]] for run in failed]
    return markdown(["case", "method", "seed", "problem"], lines)


def worst(settings: Settings, runs: Runs) -> dict[Method, dict[str, Any]]:
    """Method to its finished run with the largest error left, which is added as ``left``."""
    found: dict[Method, dict[str, Any]] = {}
    for run in runs:
        if run["tool"] == NOTHING or "left" not in run:
            continue
        method = run["tool"], run["preset"]
        if method not in found or run["left"] > found[method]["left"]:
            found[method] = run
    order = names_of_methods(settings)
    return {method: found[method] for method in order if method in found}


def picture_name(records: Path, method: Method) -> str:
    """File name of the picture of a method's worst case."""
    return f"{records.stem}-{'-'.join(filter(None, method)).replace(':', '-')}.png"


def pictures(settings: Settings, runs: Runs) -> str:
    """Markdown: the worst case of every method, and its picture where there is one."""
    parts = []
    for method, run in worst(settings, runs).items():
        key = settings["kinds"][kind_of(settings, run["case"])]["measure"]
        measure = MEASURES[key][0]
        now, before = run[key], runs.nothing.get(run["case"], {}).get(key, float("nan"))
        told = f"{measure.heading} {now:{measure.style}}, without registration {before:{measure.style}}"
        parts.append(f"### {name_of(method)}\n\n`{run['case']}`, seed {run['seed']}: {told}.")
        name = picture_name(runs.path, method)
        if (runs.path.parent / name).exists():
            parts.append(f"![fixed image, moving image before and after, difference]({name})")
    return "\n\n".join(parts) or "No runs yet."


def provenance(settings: Settings, runs: Runs) -> str:
    """Date, processor, commit, versions, and what has not run."""
    own = [run for run in runs if run["tool"] != NOTHING]
    dates = sorted({run["date"] for run in own})
    about = ["Not run yet at these settings."]
    if own:
        span = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        places = ", ".join(sorted({run["processor"] for run in own}))
        versions = ", ".join(sorted({run["version"] for run in own if run.get("version")}))
        commits = ", ".join(sorted({run["commit"] for run in own if run.get("commit")}))
        how = f"{settings['threads']} thread each, {settings['workers']} at a time"
        about = [f"{len(own)} runs of {span} on {places}, {how}; monai_locor at {commits}; {versions}."]
    absent = [name_of(method) for method in names_of_methods(settings) if not runs.of(*method)]
    unseen = [case for case in cases_of(settings) if not any(run["case"] == case for run in own)]
    about += [f"Methods without runs: {', '.join(absent)}."] if own and absent else []
    about += [f"Cases without runs: {', '.join(unseen)}."] if own and unseen else []
    about += [f"{runs.others} runs of other settings are not used."] if runs.others else []
    return " ".join(about)


PAGE = """# Arena

Written by `benchmarks/arena.py` from `{records}`; do not edit. Settings [`arena_settings.json`](../arena_settings.json), \
hash {hash}, frozen before the runs. {about}

No tool gets a mask. A failed run counts as zero displacement. The error left is the error after registration divided by \
the error without it (for Dice, of one minus Dice): geometric mean over the cases of the medians over the seeds. Intervals \
are 95 % bootstrap intervals over cases and seeds. Relative errors are geometric means over the common cases: \
where methods ran on different cases, compare these. p is \
Wilcoxon's signed-rank test over the cases, two-sided, corrected for the number of methods by Holm; it needs six cases.

## All cases

{overall}

{kinds}

## Failed runs

{failures}

## Worst case of every method

From left to right: fixed image, moving image without registration, after registration, and the error inside the mask (black \
0 to white, the largest displacement of the truth; where the truth is not known everywhere, the difference of the two images' \
edges). Failed runs are listed above.

{pictures}
"""


def page(settings: Settings, runs: Runs) -> str:
    """The page."""
    kinds = [f"## {name}\n\n{told['about']}\n\n{kind_table(settings, runs, name)}" for name, told in settings["kinds"].items()]
    return PAGE.format(
        records=runs.path.name,
        hash=runs.settings,
        about=provenance(settings, runs),
        overall=overall_table(settings, runs) if any(run["tool"] != NOTHING for run in runs) else "No runs yet.",
        kinds="\n\n".join(kinds),
        failures=failures(runs),
        pictures=pictures(settings, runs),
    )


def summary(settings: Settings, runs: Runs) -> str:
    """The block of the README."""
    rows = overall(settings, runs)
    if not rows:
        return "The arena has not run yet at the settings in `benchmarks/arena_settings.json`."
    reference = reference_of(settings, runs)
    cases = len({run["case"] for run in runs if run["tool"] != NOTHING})
    kinds = len({kind_of(settings, run["case"]) for run in runs})
    versus = f"relative to `{name_of(reference)}`" if reference else "relative"
    head = ["method", "cases", "failed runs", "error left, % [95 %]", versus, "p"]
    lines = []
    for row in rows:
        compared = row.get("paired") or {}
        ratio = f"{compared['ratio']:.2f}" if compared else ""
        p = f"{compared['p']:.2g}" if "p" in compared else ""
        left = f"{100 * row['left']:.1f}{_interval(row['interval'], '.1f', 100)}"
        failed = f"{row['failed']}/{row['runs']}"
        lines.append([f"`{row['method']}`", str(row["cases"]), failed, left, ratio, p])
    told = f"{cases} cases of {kinds} kinds. {provenance(settings, runs)}"
    return f"{told}\n\n{markdown(head, lines)}\n\n[Definitions, every kind, every case, pictures](benchmarks/results/arena.md)"


def with_summary(readme: str, settings: Settings, runs: Runs) -> str:
    """The text of the README with the block brought up to date.

    Raises:
        ValueError: when it has no such block.
    """
    if not README_BLOCK.search(readme):
        raise ValueError("README.md: has no block between <!-- arena --> and <!-- end arena -->; add the two lines")
    block = f"<!-- arena -->\n\n{summary(settings, runs)}\n\n<!-- end arena -->"
    return README_BLOCK.sub(lambda _: block, readme)
