# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The verdict of registrations of pairs that are in trouble: false PASS, false FAIL, and whether the reasons name the cause.

    python benchmarks/trouble.py DATA --lines trouble.jsonl --runs 2000         # resumable; 15 s a run on one core
    python benchmarks/trouble.py DATA --lines trouble.jsonl --runs 2000 --part 1/2    # every second run, in another process
    python benchmarks/trouble.py --lines benchmarks/results/trouble.jsonl.gz --table --plot trouble.png
    python benchmarks/trouble.py --lines trouble.jsonl --table --threshold mirror_lead=-1.5,4    # what another limit would do

Run N has kind N modulo the number of kinds (`_trouble_pairs.py`) and the random numbers of seed N: a pair of aligned images,
averaged to 4 mm, the fixed one deformed at random, then changed. It is registered and judged. A result is right if its mean
error is at most 2 mm, and wrong from 4 mm on or if the pair has no true answer. The lines hold the measures, and statuses are
computed anew from the present thresholds. Thresholds may be chosen on the even rounds of the kinds; the odd ones are for
reporting.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _runs import commit_of
from _trouble_curves import by_measure, plot
from _trouble_pairs import GIVEN, KINDS, Pair, mapped, troubled, wrong_map
from _trouble_tables import by_kind, confusion
from loss import machine
from verdict import Case, rejudged, verdict_of

from monai_locor import RegistrationResult, register
from monai_locor.errors import InputError
from monai_locor.geometry import Grid
from monai_locor.quality import Thresholds, Verdict

PRESET = "fast"
ROUNDS = ("Even rounds", "Odd rounds")


def result_of(pair: Pair, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, Verdict, dict[str, Any]]:
    """Mapped positions of the fixed voxels, ``(*fixed, 3)`` mm, the verdict on them, and other findings of the registration."""
    grid = Grid.of(pair.fixed)
    if kind in GIVEN:
        assert pair.truth is not None
        ends = wrong_map(pair, kind, rng)
        case = Case(pair.name, pair.fixed, grid, pair.moving, grid.points(), pair.truth, pair.mask)
        return ends, verdict_of(case, ends, pair.moving), {}
    result = register(pair.fixed, pair.moving, preset=PRESET, initial=pair.start, device="cpu", progress=False)
    assert result.verdict is not None
    return mapped(result, grid), result.verdict, _recorded(result)


def _recorded(result: RegistrationResult) -> dict[str, Any]:
    """Whether the pair was taken for one of two subjects, by what share, and the error that is expected."""
    assert result.error_mm is not None
    share = None if result.unexplained is None else round(result.unexplained, 4)
    return {"intersubject": result.intersubject, "unexplained": share, "expected_mm": result.error_mm.summary()}


def run(folder: Path, number: int) -> dict[str, Any]:
    """The record of a run."""
    kind, rng = KINDS[number % len(KINDS)], np.random.default_rng(number)
    pair = troubled(folder, kind, rng)
    record: dict[str, Any] = {"run": number, "transform": kind, "case": pair.name, "changes": dict(pair.changes)}
    begin = time.process_time()
    try:
        ends, verdict, recorded = result_of(pair, kind, rng)
    except InputError as refusal:
        return {**record, "error_mm": np.inf, "status": "FAIL", "checks": {"refused": "FAIL"}, "refusal": str(refusal)}
    errors = pair.error(ends)
    checks = {reason.check: reason.status for reason in verdict.reasons if reason.status in ("WARN", "FAIL")}
    measures = {name: round(v, 4) if isinstance(v, float) else v for name, v in verdict.measures.items()}
    found = {"error_mm": round(float(errors.mean()), 3), "error_p95_mm": round(float(np.percentile(errors, 95)), 3)}
    seconds = round(time.process_time() - begin, 1)
    return {**record, **found, **recorded, "status": verdict.status, "checks": checks, "measures": measures, "seconds": seconds}


def read_lines(path: Path, limits: Thresholds | None = None) -> list[dict[str, Any]]:
    """The records so far, with the statuses of thresholds, by default the present ones; a line that was cut off is left out."""
    opened = gzip.open if path.suffix == ".gz" else open
    texts = opened(path, "rt", encoding="utf-8").read().splitlines() if path.exists() else []
    lines = [json.loads(text) for text in texts if text.endswith("}")]
    return [rejudged(line, line["transform"] not in GIVEN, limits) if line.get("measures") else line for line in lines]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder with the images")
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines; runs in it are not repeated")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--part", default="0/1", metavar="I/N", help="only the runs whose number is I modulo N")
    parser.add_argument("--table", action="store_true", help="print the tables only")
    parser.add_argument(
        "--threshold", action="append", default=[], type=_threshold, metavar="NAME=WARN[,FAIL]", help="instead of the default"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the ROC curves of the measures")
    parser.set_defaults(device="cpu", threads=1, repeats=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not args.table and (args.data is None or args.lines.suffix == ".gz"):
        parser.error("DATA is missing" if args.data is None else "lines are not added to a compressed file: gunzip it")
    limits = Thresholds.of(dict(args.threshold))
    lines, commit = read_lines(args.lines, limits), commit_of(Path(__file__).parent)
    own, parts = map(int, args.part.split("/"))
    done = {line["run"] for line in lines}
    missing = [] if args.table else [n for n in range(args.runs) if n % parts == own and n not in done]
    for number in missing:
        lines.append(run(args.data, number) | {"commit": commit})
        with args.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(number, *(lines[-1][key] for key in ("transform", "case", "error_mm", "status")), file=sys.stderr)
    halves = {name: [line for line in lines if line["run"] // len(KINDS) % 2 == n] for n, name in enumerate(ROUNDS)}
    print(
        machine(args), *(f"## {name}: {len(mine)} runs\n\n{tables(mine, limits)}" for name, mine in halves.items()), sep="\n\n"
    )
    if args.plot is not None:
        plot(halves, limits, args.plot)


def tables(lines: Sequence[Mapping[str, Any]], limits: Thresholds) -> str:
    """All tables of some runs."""
    return f"{confusion(lines)}\n\n{by_kind(lines)}\n\n{by_measure(lines, limits)}"


def _threshold(text: str) -> tuple[str, tuple[float, float | None]]:
    """A name and a pair of limits from ``NAME=WARN[,FAIL]``."""
    name, _, values = text.partition("=")
    warn, *fail = map(float, values.split(","))
    return name, (warn, fail[0] if fail else None)


if __name__ == "__main__":
    main()
