# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""All public AbdomenMRCT pairs in both directions with a frozen configuration, compared with published figures.

The configuration is `paper_public.json`. Every run is stored with its hash, so that runs of different configurations are not
mixed. Dice is the mean over the four organs on the whole fixed image, as in Learn2Reg. A failed run counts as zero
displacement.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _arena_records import Runs, hash_of
from _measure import Spec, measure
from _ours import OURS
from _runs import source_hash
from _score import FORWARD
from _tables import markdown
from studies import AbdomenMRCT

import monai_locor
from monai_locor import InputError
from monai_locor.data.study_case import StudyCase, read_case, write_case
from monai_locor.data.study_scores import ABDOMEN_LABELS
from monai_locor.io import read_displacement_field
from monai_locor.metrics import dice_per_label, mean_over_labels

CONFIGURATION = Path(__file__).parent / "paper_public.json"
NOT_RUN = "not run: needs the AbdomenMRCT data; python benchmarks/paper.py public DATA --output DIR"


def read_configuration(path: Path = CONFIGURATION) -> tuple[dict[str, Any], str]:
    """The configuration and its hash."""
    configuration = json.loads(path.read_text(encoding="utf-8"))
    return configuration, hash_of(configuration)


def pairs(configuration: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Direction, case of the data set, and name of the folder of all pairs."""
    for direction, told in configuration["directions"].items():
        for case in configuration["cases"]:
            yield direction, case, f"abdomen_{case}_{told['fixed'].lower()}_fixed"


def run(data: Path, output: Path) -> str:
    """Prepare, register and score what is missing; return the table.

    Args:
        data: folder with the data as published.
        output: for cases, fields and ``public.jsonl``, the stored runs.

    Raises:
        InputError: if the data are not complete.
    """
    configuration, settings = read_configuration()
    studies = {
        direction: AbdomenMRCT(data, configuration["masks"], told["fixed"])
        for direction, told in configuration["directions"].items()
    }
    for direction, case, _ in pairs(configuration):  # before hours of registrations
        missing = studies[direction].missing(case)
        if missing:
            raise InputError(f"abdomen case {case}: {missing[0]} is missing; all of {studies[direction].source}")
    output.mkdir(parents=True, exist_ok=True)
    runs = Runs(output / "public.jsonl", settings)
    source = source_hash(Path(monai_locor.__file__).parent)
    for direction, case, name in pairs(configuration):
        for seed in configuration["seeds"]:
            old = runs.by_key.get((name, OURS, configuration["preset"], seed))
            if old is None or old["source"] != source:
                folder = output / "cases" / name
                if not (folder / "case.json").exists():
                    write_case(folder, studies[direction].load(case))
                found = one(folder, output / "fields" / name / str(seed), configuration, seed)
                runs.add({"direction": direction, "source": source, **found})
    return table(configuration, runs)


def one(case: Path, out: Path, configuration: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Register and score one pair."""
    out.mkdir(parents=True, exist_ok=True)
    (out / FORWARD).unlink(missing_ok=True)
    told = {"preset": configuration["preset"], "seed": seed, "masks": configuration["masks"] != "none"}
    arguments = {"tool": OURS, "case": str(case), "out": str(out), "options": told | {"threads": configuration["threads"]}}
    limit = configuration["limit_seconds"]
    found = measure(Spec("_ours", "prepare", arguments, {"case": ""}, 0, configuration["threads"], "cpu", limit))
    named = {"case": case.name, "tool": OURS, "preset": configuration["preset"], "seed": seed}
    return named | {"problem": found.problem} | score(read_case(case), out / FORWARD, found.problem)


def score(case: StudyCase, field: Path, problem: str = "") -> dict[str, float]:
    """Dice with and without the displacement in a file; after a problem both are without."""
    zero = case.displacement(None)
    u = zero if problem else case.displacement(read_displacement_field(field)[0])
    before, after = (_dice(case, displacement) for displacement in (zero, u))
    return {"dice_before": before, "dice": after}


def _dice(case: StudyCase, displacement_mm: Any) -> float:
    fixed, moving = case.need("fixed_labels", "moving_labels")
    return mean_over_labels(dice_per_label(fixed.as_tensor(), case.moved(moving, displacement_mm, "nearest"), ABDOMEN_LABELS))


def table(configuration: Mapping[str, Any], runs: Runs | Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each direction, with the pass mark if others have published one."""
    head = ["direction", "pairs", "failed runs", "Dice before", "mean Dice", "median Dice", "mean and median to beat", "result"]
    lines = []
    for direction in configuration["directions"]:
        own = [run for run in runs if run["direction"] == direction]
        if not own:
            lines.append([direction, f"0/{len(configuration['cases'])}", *[""] * 4, _mark(configuration, direction), "not run"])
            continue
        values = {key: list(_of_cases(own, key).values()) for key in ("dice_before", "dice")}
        mean, median = statistics.fmean(values["dice"]), statistics.median(values["dice"])
        cells = [direction, f"{len(values['dice'])}/{len(configuration['cases'])}", f"{sum(bool(r['problem']) for r in own)}"]
        cells += [f"{statistics.fmean(values['dice_before']):.3f}", f"{mean:.3f}", f"{median:.3f}"]
        lines.append([*cells, _mark(configuration, direction), verdict(configuration, direction, values["dice"])])
    return markdown(head, lines)


def _of_cases(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Median over the seeds of each pair."""
    cases = dict.fromkeys(run["case"] for run in runs)
    return {case: statistics.median(run[key] for run in runs if run["case"] == case) for case in cases}


def _mark(configuration: Mapping[str, Any], direction: str) -> str:
    mark = configuration["pass_marks"].get(direction)
    return f"{mark['mean_dice']:.3f}, {mark['median_dice']:.3f} ({mark['by']})" if mark else "none published"


def verdict(configuration: Mapping[str, Any], direction: str, dice: Sequence[float]) -> str:
    """Whether all pairs have run and mean and median are at least those of others."""
    mark = configuration["pass_marks"].get(direction)
    if mark is None:
        return ""
    if len(dice) < len(configuration["cases"]):
        return "not complete"
    reached = statistics.fmean(dice) >= mark["mean_dice"] and statistics.median(dice) >= mark["median_dice"]
    return "reached" if reached else "not reached"
