# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The paper's data sets as cases of `registration.py`, and the paper's measures of the results.

    python benchmarks/paper.py prepare abdomen DATA CASES --split test --masks roi
    python benchmarks/paper.py prepare cermep DATA CASES --pseudo-ct PSEUDO
    python benchmarks/registration.py CASES --tools all --seeds 0 1 2 3 4 --output RESULTS
    python benchmarks/paper.py score CASES RESULTS --json paper.json
    python benchmarks/paper.py public DATA --output DIR

`prepare` reads a data set as published and writes a folder for every complete case; it lists the other cases and their missing
files. `score` prints the measures of the paper: the median over the seeds of each case, mean and standard deviation over the
cases. A failed registration counts as zero displacement. `public` registers and scores all public pairs of the abdomen in both
directions as frozen in `paper_public.json`, and compares them with published figures (see `_paper_public.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import _paper_public
import torch
from studies import CERMEP, STUDIES, AbdomenMRCT, Study

from monai_locor import InputError
from monai_locor.data.study_case import StudyCase, read_case, write_case
from monai_locor.geometry import same_grid
from monai_locor.io import read_displacement_field

FORWARD = "forward_field.nii.gz"  # as in `_score.py`
BEFORE = "(nothing)"  # the row of no displacement at all


def study_of(options: argparse.Namespace) -> Study:
    """The selected data set.

    Raises:
        InputError: when its folder does not exist, or for an option of another data set.
    """
    others = {name: getattr(options, name) for name in ("masks", "pseudo_ct") if getattr(options, name) is not None}
    allowed = {AbdomenMRCT.name: "masks", CERMEP.name: "pseudo_ct"}.get(options.study)
    wrong = [name for name in others if name != allowed]
    if wrong:
        raise InputError(f"--{wrong[0].replace('_', '-')} does not belong to {options.study}; leave it out")
    return STUDIES[options.study](options.folder, **others)


def prepare(options: argparse.Namespace) -> int:
    """Write case folders; the exit status is 1 when some could not be."""
    study = study_of(options)
    failed = 0
    names = options.cases or study.names(options.split or next(iter(study.splits)))
    for name in names:
        try:
            write_case(options.output / f"{study.name}_{name}", study.load(name))
            print(f"{study.name}_{name}")
        except InputError as error:
            failed += 1
            print(error, file=sys.stderr)
    if failed:
        print(f"{failed} of {len(names)} cases are not prepared; {study.source}", file=sys.stderr)
    return 1 if failed else 0


def results(folder: Path, case: str) -> Iterator[tuple[str, list[Path]]]:
    """Tools or presets that a case was registered with, and the folders of their runs, one for each seed."""
    for tool in sorted(path for path in (folder / case).glob("*") if path.is_dir()):
        runs = sorted(path for path in tool.iterdir() if path.is_dir())
        if runs:
            yield tool.name, runs


def displacement(run: Path, case: StudyCase) -> torch.Tensor | None:
    """Displacement found by a run, ``(3, *S)`` mm; None if it failed."""
    if not (run / FORWARD).is_file():
        return None
    try:
        field, grid = read_displacement_field(run / FORWARD)
    except InputError:
        return None
    return field if same_grid(grid, case.grid) else None


def score_case(folder: Path, result: Path) -> dict[str, dict[str, Any]]:
    """Tool to measures (medians over its runs) and number of runs that failed, of one case."""
    case = read_case(folder)
    study = STUDIES[case.study]
    found: dict[str, dict[str, Any]] = {BEFORE: {"runs": 1, "failed": 0, **study.score(case, None)}}
    for tool, runs in results(result, folder.name):
        fields = [displacement(run, case) for run in runs]
        scores = [found[BEFORE] if field is None else study.score(case, field) for field in fields]
        keys = [key for key in scores[0] if key not in ("runs", "failed") and all(key in score for score in scores)]
        middle = {key: statistics.median(score[key] for score in scores) for key in keys}
        found[tool] = {"runs": len(runs), "failed": sum(field is None for field in fields), **middle}
    return found


def table(cases: Mapping[str, Mapping[str, Any]], study: str) -> str:
    """Markdown: a row for each tool, mean ± standard deviation over the cases of a study."""
    measures = STUDIES[study].measures
    lines = [["tool", "cases", "failed runs", *measures], ["---"] * (3 + len(measures))]
    tools = dict.fromkeys(tool for case in cases.values() for tool in case["tools"])
    for tool in tools:
        scores = [case["tools"][tool] for case in cases.values() if tool in case["tools"]]
        failed = f"{sum(score['failed'] for score in scores)}/{sum(score['runs'] for score in scores)}"
        values = [[score[measure] for score in scores if measure in score] for measure in measures]
        lines.append([tool, f"{len(scores)}/{len(cases)}", failed, *map(mean_and_spread, values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation``, of one value only itself; an empty cell without any."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


def score(options: argparse.Namespace) -> int:
    """Print the measures of all cases."""
    folders = sorted(path.parent for path in options.cases.glob("*/case.json"))
    ours = [folder for folder in folders if json.loads((folder / "case.json").read_text()).get("study") in STUDIES]
    if not ours:
        raise InputError(f"{options.cases}: holds no case of {', '.join(STUDIES)}; prepare some first")
    found: dict[str, dict[str, Any]] = {}
    for folder in ours:
        study = json.loads((folder / "case.json").read_text())["study"]
        found[folder.name] = {"study": study, "tools": score_case(folder, options.results)}
        if options.json:  # after every case: there may be hundreds of fields
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for study in dict.fromkeys(case["study"] for case in found.values()):
        print(f"{study}\n\n{table({name: case for name, case in found.items() if case['study'] == study}, study)}\n")
    return 0


def public(options: argparse.Namespace) -> int:
    """Print the table of all public abdomen pairs; without data, that they are not run."""
    configuration, settings = _paper_public.read_configuration()
    print(f"{configuration['about']} ({_paper_public.CONFIGURATION.name}, hash {settings})\n")
    if options.folder is None:
        print(f"{_paper_public.table(configuration, [])}\n\n{_paper_public.NOT_RUN}")
    else:
        print(_paper_public.run(options.folder, options.output))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("prepare", help="write case folders of a data set")
    first.add_argument("study", choices=list(STUDIES))
    first.add_argument("folder", type=Path, help="the data as published")
    first.add_argument("output", type=Path, help="for the case folders")
    first.add_argument("--split", help="of the data set, by default its first: validation, of learn2reg one that it lists")
    first.add_argument("--cases", nargs="+", metavar="NAME", help="only these")
    first.add_argument("--masks", help="abdomen: foreground (default), roi or none")
    first.add_argument("--pseudo-ct", type=Path, metavar="FOLDER", help="cermep: the synthesised CTs, by default in its folder")
    second = commands.add_parser("score", help="the paper's measures of registered cases")
    second.add_argument("cases", type=Path, help="folder that cases were prepared in")
    second.add_argument("results", type=Path, help="`--output` of registration.py: RESULTS/CASE/TOOL/SEED/forward_field.nii.gz")
    second.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    third = commands.add_parser("public", help="all public abdomen pairs in both directions, frozen; against published figures")
    third.add_argument("folder", type=Path, nargs="?", help="the data as published; without it, prints what is not run")
    third.add_argument("--output", type=Path, default=Path("abdomen_public"), metavar="DIR", help="cases, fields, stored runs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 for invalid arguments."""
    options = parse(arguments)
    try:
        return {"prepare": prepare, "score": score, "public": public}[options.command](options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
