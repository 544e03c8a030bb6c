# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Benefit of a basis learned on another pair: error against the number of deformable iterations.

The basis is learned on the first case with the whole schedule, or read from a file. The other cases must have the same
contrasts and a known answer. They are registered with proportionally shortened deformable stages, with a new basis and with the
reused one; the affine stages keep their steps. Errors are those of `_score.py`. Prints a Markdown
table of medians over the seeds; `--json FILE` keeps the numbers of every run.

    python benchmarks/basis_reuse.py CASES brain_oblique_aniso brain_flair_t1_1mm_bias --seeds 0 1 2
    python benchmarks/basis_reuse.py CASES brain_flair_t1_1mm_bias --basis flair_t1.safetensors --iterations 20 40 80
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _score import score
from registration import about, find_cases, medians

from monai_locor import InputError, RegistrationConfig, register
from monai_locor.registration.basis_pair import BasisPair

FRESH, REUSED = "fresh", "reused"


def learn(case: Path, options: argparse.Namespace) -> BasisPair:
    """The basis of a whole registration of a case, with the first seed."""
    images = (case / f"{role}.nii.gz" for role in ("fixed", "moving"))
    result = register(*images, preset=options.preset, device=options.device, seed=options.seeds[0], progress=False)
    if result.basis is None:
        raise InputError(f"settings {options.preset}: their basis is not learned; name others")
    return result.basis


def attempt(case: Path, iterations: int, seed: int, basis: BasisPair | None, options: argparse.Namespace) -> dict[str, Any]:
    """Register and score once; a failure is described in `problem`."""
    run: dict[str, Any] = {"case": case.name, "tool": REUSED if basis else FRESH, "preset": iterations, "seed": seed}
    config = options.config.with_iterations(iterations)
    start, processor_start = time.perf_counter(), time.process_time()
    try:
        images = (case / f"{role}.nii.gz" for role in ("fixed", "moving"))
        result = register(*images, preset=config, device=options.device, seed=seed, initial_basis=basis, progress=False)
        cost = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor_start}
        with tempfile.TemporaryDirectory() as folder:
            result.save(folder)
            losses = [stage["loss"][-1] for stage in result.history]
            return run | {"problem": "", "losses": losses} | cost | score(case, Path(folder))
    except (OSError, RuntimeError, ValueError) as error:
        return run | {"problem": " ".join(str(error).split())}


def runs(bases: Mapping[str, BasisPair | None], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The runs; new and reused basis alternate."""
    for case in options.cases:
        for seed in options.seeds:
            for iterations in options.iterations:
                for basis in bases.values():
                    yield attempt(case, iterations, seed, basis, options)


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, Mapping[str, Any]]]]:
    """Rows of medians by case, by new or reused basis, by iterations, without failed runs."""
    found: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for row in rows:
        if not row["problem"] and "tre_mm" in row:
            found.setdefault(row["case"], {FRESH: {}, REUSED: {}})[row["tool"]][row["preset"]] = row
    return found


def needed(curve: Mapping[int, float], error: float) -> float | None:
    """Iterations after which a curve of errors first is as low as `error`, interpolated along the iterations' logarithm.

    None if it never is; the smallest measured number if it already is there.
    """
    points = sorted(curve.items())
    for number, (iterations, value) in enumerate(points):
        if value <= error:
            if number == 0:
                return float(iterations)
            before, above = points[number - 1]
            share = (above - error) / (above - value)
            return math.exp(math.log(before) + share * (math.log(iterations) - math.log(before)))
    return None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; "reused needs" is the number of iterations with which the reused basis is as good as the fresh one."""
    head = ("case", "iterations", "TRE before, mm", "fresh, mm", "reused, mm", "reused / fresh", "reused needs")
    lines: list[Sequence[str]] = [head, ["---"] * len(head)]
    for case, both in curves(rows).items():
        reused = {n: row["tre_mm"] for n, row in both[REUSED].items()}
        for n in sorted({*both[FRESH], *both[REUSED]}):
            first, second = both[FRESH].get(n), both[REUSED].get(n)
            before = (first or second or {})["tre_before_mm"]
            cells = [case, str(n), f"{before:.2f}", *(f"{row['tre_mm']:.3f}" if row else "" for row in (first, second))]
            cells.append(f"{second['tre_mm'] / first['tre_mm']:.2f}" if first and second else "")
            lines.append([*cells, _told(needed(reused, first["tre_mm"]), reused) if first and reused else ""])
    lines += [
        [r["case"], str(r["preset"]), "", f"{r['tool']} failed: {r['problem']}", "", "", ""] for r in rows if r["problem"]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table's errors for `current.py`; a row of a failed run has its ``problem``."""
    found = [{"case": r["case"], "iterations": r["preset"], "problem": r["problem"]} for r in rows if r["problem"]]
    for case, both in curves(rows).items():
        for n in sorted({*both[FRESH]} & {*both[REUSED]}):
            fresh, reused = both[FRESH][n]["tre_mm"], both[REUSED][n]["tre_mm"]
            found.append({"case": case, "iterations": n, "fresh_mm": fresh, "reused_mm": reused, "ratio": reused / fresh})
    return found


def _told(iterations: float | None, curve: Mapping[int, float]) -> str:
    if iterations is None:
        return f"more than {max(curve)}"
    return f"{min(curve)} or fewer" if iterations <= min(curve) else f"{iterations:.0f}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line; `cases` become folders, without the one to learn from, which is `learned_on`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="cases as in registration.py")
    parser.add_argument("cases", nargs="+", metavar="CASE", help="the first one to learn from, unless --basis; the others")
    parser.add_argument("--basis", type=Path, metavar="FILE", help="a saved basis instead of that of the first case")
    parser.add_argument("--swapped", action="store_true", help="with fixed and moving exchanged")
    parser.add_argument(
        "--iterations", type=int, nargs="+", default=[20, 40, 80, 160, 210], metavar="N", help="of the deformable stages"
    )
    parser.add_argument("--preset", default="default", help="name or file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-basis", type=Path, metavar="FILE", help="save the learned basis")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    find_cases(parser, options)
    options.learned_on = options.cases.pop(0) if options.basis is None else options.basis
    without = [case.name for case in options.cases if not (case / "truth.nii.gz").is_file()]
    if not options.cases or without or min(options.iterations) < 1:
        parser.error(f"no case to measure, or none of a known answer ({' '.join(without)}), or iterations below 1")
    options.config = RegistrationConfig.of(options.preset)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    basis = learn(options.learned_on, options) if options.basis is None else BasisPair.load(options.basis)
    if options.save_basis:
        basis.save(options.save_basis)
    basis = basis.swapped() if options.swapped else basis
    content: dict[str, Any] = {
        "machine": about(options),
        "settings": options.config.to_dict(),
        "basis": {"learned_on": options.learned_on.name, **basis.description()},
        "runs": [],
    }
    for run in runs({FRESH: None, REUSED: basis}, options):
        content["runs"].append(run)
        told = run["problem"] or f"{run.get('tre_mm', math.nan):.3f} mm, {run['seconds']:.1f} s"
        print(run["case"], run["tool"], run["preset"], run["seed"], told, file=sys.stderr)
        if options.json:  # after every run: there may be hours of them
            content["rows"] = medians(content["runs"])
            content["figures"] = figures(content["rows"])
            options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in content["machine"].items()))
    print(f"basis learned on {options.learned_on.name}; iterations are those of the deformable stages\n")
    print(table(medians(content["runs"])))


if __name__ == "__main__":
    main()
