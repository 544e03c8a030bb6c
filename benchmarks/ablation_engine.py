# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Effect of each choice of the engine: the default settings with one change, on cases with a known answer.

Every variant is registered in a fresh process and scored as `registration.py` does it. Prints a Markdown table: error and
time, and both relative to the default settings on the same case; `--json FILE` keeps the numbers of every run.

    python benchmarks/ablation_engine.py CASES brain_t2_t1_2mm head_pd_t2_2mm --seeds 0
    python benchmarks/ablation_engine.py CASES --variants default eps-1e-6 plain-adam
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _tables import cells, markdown, medians
from registration import Job, about, attempt, find_cases

from monai_locor.registration import RegistrationConfig
from monai_locor.registration.config import PRESETS

DEFAULT = "default"  # the variant that changes nothing, whatever the preset
Stages = Sequence[Mapping[str, Any]]


def _iterations(stages: Stages, factor: float) -> list[dict[str, Any]]:
    return [{**stage, "iterations": round(factor * stage["iterations"])} for stage in stages]


def _rates(stages: Stages, factor: float) -> list[dict[str, Any]]:
    return [
        {**stage, "learning_rate": factor * stage["learning_rate"]} if stage["spacing"] else dict(stage) for stage in stages
    ]


def _alternating(stages: Stages, coarsest: float) -> list[dict[str, Any]]:
    return [{**stage, "directions": "alternating"} if stage["factor"] <= coarsest else dict(stage) for stage in stages]


def variants(stages: Stages) -> dict[str, dict[str, Any]]:
    """Changes to a preset with these stages, by name."""
    return {
        DEFAULT: {},
        # what the loss sees
        "no-derivative": {"derivative": "none"},
        "derivative-modeled-too": {"derivative": "both"},
        "polynomial-basis": {"basis": "polynomial"},
        "normalized-form": {"form": "normalized"},
        "eps-1e-4": {"eps": 1e-4},
        "eps-1e-6": {"eps": 1e-6},
        "ridge-1e-3": {"ridge": 1e-3},
        "ridge-1e-5": {"ridge": 1e-5},
        "ridge-and-eps-1e-6": {"ridge": 1e-6, "eps": 1e-6},
        "num-basis-3": {"num_basis": 3},
        "num-basis-4": {"num_basis": 4},
        "num-basis-8": {"num_basis": 8},
        "hidden-8-8": {"hidden_channels": [8, 8]},
        "window-0.6": {"kernel_sigma": 0.6},
        "window-1.2": {"kernel_sigma": 1.2},
        "stride-2": {"stride": 2.0},
        "stride-4": {"stride": 4.0},
        "quantile-0.01": {"quantile": 0.01},
        # how smooth the deformation is
        "bending-20": {"bending_weight": 20.0},
        "bending-200": {"bending_weight": 200.0},
        "squarings-4": {"squarings": 4},
        "squarings-7": {"squarings": 7},
        # how it is optimized
        "plain-adam": {"damping": 0.0},
        "damping-5": {"damping": 5.0},
        "rates-halved": {"stages": _rates(stages, 0.5)},
        "rates-doubled": {"stages": _rates(stages, 2.0)},
        "no-warmup": {"warmup": 0},
        "warmup-10": {"warmup": 10},
        "rates-do-not-fall": {"decay_end": 1.0},
        "no-warmup-rates-do-not-fall": {"warmup": 0, "decay_end": 1.0},
        "iterations-halved": {"stages": _iterations(stages, 0.5)},
        "iterations-doubled": {"stages": _iterations(stages, 2.0)},
        "no-coarse-affine": {"stages": stages[1:]},
        "affine-held-when-deforming": {
            "learning_rate_affine": 1e-9,
            "stages": [stages[0], {**stages[1], "learning_rate": RegistrationConfig().learning_rate_affine}, *stages[2:]],
        },
        "no-32-voxel-splines": {"stages": [*stages[:2], *stages[3:]]},
        "4-voxel-splines-at-2x-too": {
            "stages": [*stages[:5], {"factor": 2, "iterations": 40, "spacing": 4, "learning_rate": 0.08}, stages[5]]
        },
        "no-full-resolution": {"stages": stages[:5]},
        "finest-1.5": {"stages": [*stages[:5], {**stages[5], "factor": 1.5}]},
        "alternating": {"stages": _alternating(stages, 8)},
        "alternating-at-2x-and-1x": {"stages": _alternating(stages, 2)},
        "alternating-at-1x": {"stages": _alternating(stages, 1)},
        **_of_the_paper(stages),
    }


def _of_the_paper(stages: Stages) -> dict[str, dict[str, Any]]:
    """Further choices of the paper, and all of them together; see docs/guide/paper.md."""
    paper = PRESETS["paper"].to_dict()
    return {
        # each velocity enters the map twice, so half the rate moves it as far
        "velocity-per-stage": {"composition": "stages", "stages": _rates(stages, 0.5)},
        "paper-schedule": {"stages": _rates(paper["stages"], 2.0)},
        "paper-optimizer": {name: paper[name] for name in ("damping", "warmup", "decay_end")},
        "paper-bending": {"bending_weight": paper["bending_weight"]},
        "paper-window": {"truncated": paper["truncated"]},
        "derivative-per-voxel": {"derivative_unit": "voxel"},
        "paper-derivative": {"derivative": "both", "derivative_unit": "voxel"},
        "minimum-and-maximum": {"quantile": 0.0},
        "whole-image": {"region": "image"},
        "no-multistart": {"multistart": "never"},
        "nothing-undone": {"undo_worse": False},
        "paper": paper,
    }


def relative(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with error, 95th percentile and time divided by those of the default settings on the same case."""
    base = {row["case"]: row for row in rows if row["preset"] == DEFAULT and not row["problem"]}
    found = []
    for row in rows:
        own = base.get(row["case"])
        keys = [key for key in ("tre_mm", "tre_p95_mm", "dice", "processor_seconds") if own and key in row and key in own]
        found.append({**row, **{f"{key}_ratio": row[key] / own[key] for key in keys if own and own[key]}})
    return found


COLUMNS = (
    ("TRE mean, mm", "tre_mm", ".3f"),
    ("TRE 95 %, mm", "tre_p95_mm", ".3f"),
    ("Dice", "dice", ".3f"),
    ("TRE / unchanged", "tre_mm_ratio", ".2f"),
    ("95 % / unchanged", "tre_p95_mm_ratio", ".2f"),
    ("folding, voxels", "folding_voxels", "g"),
    ("CPU seconds / unchanged", "processor_seconds_ratio", ".2f"),
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; a variant's error below 1 times the default's is better."""
    head = ["case", "variant", "seeds", *(heading for heading, _, _ in COLUMNS)]
    names = ([row["case"], row["preset"], " ".join(map(str, row["seeds"]))] for row in rows)
    return markdown(head, ([*name, *cells(row, COLUMNS)] for name, row in zip(names, relative(rows))))


def figures(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table's numbers for `current.py`, a row for each case and variant."""
    kept = ("tre_mm", "tre_p95_mm", "dice", "processor_seconds_ratio", "problem")
    return [
        {"case": row["case"], "variant": row["preset"], **{key: row[key] for key in kept if key in row}}
        for row in relative(medians(runs))
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line; `cases` become folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="cases as in registration.py")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, by default all")
    names = list(variants(RegistrationConfig().to_dict()["stages"]))
    parser.add_argument("--preset", default="default", choices=PRESETS, help="base settings")
    parser.add_argument("--variants", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="time limit of a run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    find_cases(parser, options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    known = variants(RegistrationConfig.of(options.preset).to_dict()["stages"])
    settings = {name: {"preset": options.preset, **known[name]} for name in options.variants}
    content: dict[str, Any] = {"machine": about(options), "variants": settings, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.variants:
            (Path(folder) / f"{name}.json").write_text(json.dumps(settings[name]), encoding="utf-8")
        for case in options.cases:
            for seed in options.seeds:
                for name in options.variants:
                    job = Job(case, str(Path(folder) / f"{name}.json"), seed)
                    content["runs"].append(attempt(job, Path(folder) / case.name / name / str(seed), options))
                    print(table(medians(content["runs"][-1:])).splitlines()[-1], file=sys.stderr)
                    if options.json:
                        content["figures"] = figures(content["runs"])
                        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in content["machine"].items()) + "\n")
    print(table(medians(content["runs"])))


if __name__ == "__main__":
    main()
