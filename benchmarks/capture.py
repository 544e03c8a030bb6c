# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Capture range: affine registration of aligned pairs whose headers were disturbed by known amounts.

The moving image is rotated by up to 180 degrees, translated by up to half its field of view, scaled by 0.7 to 1.4, cropped to a
slab of 30 to 100 % of its field of view, or mirrored. Its error is the distance from the registration of the undisturbed pair.
A run succeeds if the mean error is at most 2 mm (histology: 1 % of the diagonal), or if its verdict is FAIL. Runs are appended
to a file of JSON lines; present ones are not repeated.

    python benchmarks/capture.py DATA --json capture.jsonl --plot capture.png
    python benchmarks/capture.py DATA --json capture.jsonl --quick
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _capture_pairs import PAIRS, Case, case_of, disturbed
from _tables import markdown
from loss import machine

from monai_locor import RegistrationConfig, RegistrationResult, register
from monai_locor.registration import Stage

LIMIT_MM, LIMIT_PIXELS = 2.0, 11.0
CONFIG = RegistrationConfig(
    stages=(Stage(4, 50, learning_rate=1.5e-2), Stage(2, 20, learning_rate=7.5e-3), Stage(1, 15, learning_rate=4e-3)),
    transform="affine",
)
PLAIN = {"rotation": 0.0, "translation": 0.0, "scale": 1.0, "view": 1.0, "mirror": None}
SWEEPS = {
    "rotation": (0, 30, 60, 90, 120, 150, 180),
    "scale": (0.7, 0.85, 1.2, 1.4),
    "view": (0.3, 0.5, 0.7),
    "mirror": (0, 1, 2),
}
QUICK = {"rotation": (0, 60, 120, 180), "scale": (0.7, 1.4), "view": (0.3, 0.6), "mirror": (0, 1)}
MAX_TRANSLATION = 0.5  # of the extent, drawn uniformly
OUTCOMES = ("within the limit", "FAIL", "WARN, off", "PASS, off")


def conditions(pair: str, repeats: int, quick: bool) -> Iterator[dict[str, Any]]:
    """The grid of a pair: one quantity has a fixed value, rotation (up to 180 degrees) and translation are drawn."""
    for repeat in range(repeats):
        for sweep, values in (QUICK if quick else SWEEPS).items():
            for value in values:
                if pair == "histology" and (sweep, value) == ("mirror", 2):
                    continue
                seed = repeat * 1000 + list(SWEEPS).index(sweep) * 100 + round(10 * value)
                rng = np.random.default_rng(seed + 1)
                drawn = {"rotation": rng.uniform(0, 180), "translation": rng.uniform(0, MAX_TRANSLATION)}
                if sweep == "mirror":  # as by a wrong header, in place
                    drawn = {}
                yield {"pair": pair, "sweep": sweep, "value": value, "seed": seed} | PLAIN | drawn | {sweep: value}


def registered(case: Case) -> RegistrationResult:
    """Register a pair."""
    return register(case.fixed, case.moving, preset=CONFIG, device="cpu", progress=False)


def run(case: Case, condition: Mapping[str, Any]) -> dict[str, Any]:
    """Register a disturbed pair."""
    moved = disturbed(case, condition)
    begin, used = time.perf_counter(), time.process_time()
    result = registered(moved)
    found = result.transform_points(moved.points)
    verdict = result.verdict
    assert verdict is not None
    reasons = [f"{reason.check}: {reason.text}" for reason in verdict.reasons if reason.status in ("WARN", "FAIL")]
    return {
        **condition,
        "error": float(np.linalg.norm(found - moved.truth, axis=1).mean()),
        "error_before": float(np.linalg.norm(moved.points - moved.truth, axis=1).mean()),
        "verdict": verdict.status,
        "reasons": reasons,
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - used,
    }


def outcome(row: Mapping[str, Any]) -> str:
    """One of :data:`OUTCOMES`. A mirrored image has no right answer without a reflection; it should not end in PASS."""
    limit = LIMIT_PIXELS if row["pair"] == "histology" else LIMIT_MM
    if row["mirror"] is None and row["error"] <= limit:
        return OUTCOMES[0]
    return OUTCOMES[("FAIL", "WARN", "PASS").index(row["verdict"]) + 1]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Counts of outcomes by pair and swept quantity."""
    lines = []
    for pair in PAIRS:
        for sweep in SWEEPS:
            mine = [r for r in rows if (r["pair"], r["sweep"]) == (pair, sweep)]
            if mine:
                counts = [sum(outcome(r) == o for r in mine) for o in OUTCOMES]
                near = [r["error"] for r in mine if outcome(r) == OUTCOMES[0]]
                median = f"{np.median(near):.2f}" if near else ""
                processor = f"{np.median([r['processor_seconds'] for r in mine]):.1f}"
                lines.append([pair, sweep, str(len(mine)), *map(str, counts), median, processor])
    return markdown(["pair", "varied", "runs", *OUTCOMES, "median error within, mm", "CPU seconds"], lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The share of runs that arrive or say FAIL."""
    parts = []
    for pair in PAIRS:
        mine = [r for r in rows if r["pair"] == pair and r["mirror"] is None]
        if mine:
            good = sum(outcome(r) in OUTCOMES[:2] for r in mine)
            parts.append(f"{pair} {good} of {len(mine)} ({100 * good / len(mine):.0f} %)")
    return "within the limit or FAIL: " + ", ".join(parts)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Error against each varied quantity, one panel per pair and quantity, colored by outcome."""
    from matplotlib.figure import Figure

    pairs, sweeps = [p for p in PAIRS if any(r["pair"] == p for r in rows)], list(SWEEPS)[:3]
    figure = Figure(figsize=(9, 2.3 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 3, squeeze=False, sharex="col", sharey="row")
    styles = zip(OUTCOMES, ("#0072b2", "#999999", "#e69f00", "#d55e00"), "os^X", strict=True)
    for name, color, marker in styles:
        for i, pair in enumerate(pairs):
            for j, sweep in enumerate(sweeps):
                mine = [r for r in rows if (r["pair"], r["sweep"]) == (pair, sweep) and outcome(r) == name]
                values, errors = [r["value"] for r in mine], [max(r["error"], 0.1) for r in mine]
                axes[i, j].scatter(values, errors, color=color, marker=marker, s=28, label=name)
    for i, pair in enumerate(pairs):
        axes[i, 0].set_ylabel(f"{pair}\nerror, {'pixels' if pair == 'histology' else 'mm'}")
        for j, sweep in enumerate(sweeps):
            axes[i, j].set_yscale("log")
            axes[i, j].axhline(LIMIT_PIXELS if pair == "histology" else LIMIT_MM, color="black", lw=0.8, ls=":")
            axes[-1, j].set_xlabel({"rotation": "rotation, degrees", "scale": "scale", "view": "share of the view"}[sweep])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the images")
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3, help="draws of every condition (default 3; --quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer conditions")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(device="cpu")
    parser.add_argument("--json", type=Path, required=True, help="file of JSON lines; runs in it are not repeated")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [json.loads(line) for line in options.json.read_text().splitlines()] if options.json.exists() else []
    done = {(r["pair"], r["sweep"], r["value"], r["seed"]) for r in rows}
    for pair in options.pairs:
        case = None
        for condition in conditions(pair, 1 if options.quick else options.repeats, options.quick):
            if tuple(condition[k] for k in ("pair", "sweep", "value", "seed")) in done:
                continue
            if case is None:
                case = case_of(options.data, pair)
                case = replace(case, truth=registered(case).transform_points(case.points))
            rows.append(run(case, condition))
            with options.json.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(
                pair, condition["sweep"], condition["value"], f"{rows[-1]['error']:.2f}", rows[-1]["verdict"], file=sys.stderr
            )
    print(f"{machine(options)}\n\n{table(rows)}\n\n{summary(rows)}")
    if options.plot:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
