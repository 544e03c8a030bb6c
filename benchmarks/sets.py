# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Templates of twelve heads that alternate between T1 and FLAIR: dependence on the start, label agreement, cost.

Registers everything in this process, one after another, so that the CPU time of each registration is known. Prints Markdown
tables: CPU seconds of a round per head, and of a direct registration of two heads; mean Dice of two heads in the template's
space and after a direct registration of the same two; and the distance of two templates whose only difference is which head the
others are first registered to. (The order of the list itself has no effect, which the tests check to the byte.)

    python benchmarks/sets.py DATA -o out --block 2 --preset draft --rounds 2    # DATA has nichart/SubjNN_T1.nii.gz ...
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from monai_locor.cohort import CohortPair, run_cohort
from monai_locor.cohort.child import answer
from monai_locor.geometry import Grid, warp
from monai_locor.io import read_image, write_image
from monai_locor.io.images import read_labels
from monai_locor.metrics.overlap import dice_per_label, mean_over_labels
from monai_locor.registration import RegistrationResult
from monai_locor.sets import Subject, Template, template
from monai_locor.sets.api import prepared, running
from monai_locor.sets.rounds import Rounds, Space
from monai_locor.sets.subjects import reference_contrast
from monai_locor.tensors import lengths, plain

CONTRASTS = ("T1", "FLAIR")
LABELS = {"T1": "labels", "FLAIR": "labels_on_flair"}
SAME_HEAD = {"09", "10"}  # these two subjects are one head
HEAD_SHARE = 0.2  # of the largest intensity, above which a voxel of a template belongs to the head
MIN_LABEL_MM3 = 3000.0  # smaller structures have few voxels at 4 mm
OPTIONS = {"device": "cpu", "threads": 1, "workers": 1, "progress": False}


@contextmanager
def in_this_process(seconds: list[float]) -> Iterator[None]:
    """Run registrations one after another in this process; ``seconds`` receives the CPU time of each."""

    class Child:
        def __init__(self, owner: str) -> None:
            pass

        def ask(self, question: dict, limit: float | None = None) -> dict:
            begin = time.process_time()
            found = answer(question["words"])
            seconds.append(time.process_time() - begin)
            return found

    @contextmanager
    def connected(scheduler: str | None, workers: int) -> Iterator[None]:
        yield None

    def run_jobs(client, jobs, work, done) -> None:  # noqa: ANN001 (as the function it replaces)
        for job in jobs:
            done(job, work(job))

    with (
        mock.patch("monai_locor.cohort.work._child", Child),
        mock.patch("monai_locor.cohort.api.run_jobs", run_jobs),
        mock.patch("monai_locor.cohort.api.connected", connected),
        mock.patch("monai_locor.sets.api.connected", connected),
    ):
        yield


def prepare(data: Path, folder: Path, block: int, heads: int) -> list[Subject]:
    """The heads, averaged over blocks of voxels, and their labels on the same grids; contrasts alternate."""
    found = []
    for number in range(1, heads + 1):
        name, contrast = f"{number:02d}", CONTRASTS[(number - 1) % 2]
        files = {kind: folder / f"{name}_{kind}.nii.gz" for kind in ("image", "labels")}
        if not files["labels"].exists():
            folder.mkdir(parents=True, exist_ok=True)
            image = read_image(data / f"Subj{name}_{contrast}.nii.gz")[0]
            means = torch.nn.functional.avg_pool3d(plain(image)[None], block)[0]
            change = np.diag([block, block, block, 1.0])
            change[:3, 3] = (block - 1) / 2  # the center of the first block
            coarse = Grid(tuple(means.shape[1:]), Grid.of(image).affine @ change)
            labels = read_labels(data / f"Subj{name}_{LABELS[contrast]}.nii.gz")
            write_image(files["image"], means, coarse)
            write_image(files["labels"], warp(plain(labels), Grid.of(labels), None, coarse, "smooth"), coarse)
        found.append(Subject(name, str(files["image"]), contrast, labels=str(files["labels"])))
    return found


def renamed(subjects: Sequence[Subject]) -> list[Subject]:
    """The same images with ids in the opposite order, so that the first registrations have another target."""
    return [Subject(f"{len(subjects) + 1 - int(s.id):02d}", s.image, s.contrast, labels=s.labels) for s in subjects]


def start_elsewhere(subjects: Sequence[Subject], folder: Path, preset: str, rounds: int) -> list[Space]:
    """The first rounds of a template of the same images with other ids, without the final registrations."""
    listed, config = prepared(renamed(subjects), max(rounds, 1), preset)
    with running(folder, len(listed), config, ["affine"], OPTIONS) as (root, of_cohort):
        work = Rounds(root, listed, reference_contrast(listed), config, options=of_cohort)
        spaces = [work.first()]
        for number in range(1, rounds + 1):
            spaces.append(work.next(number, spaces[-1]))
    return spaces


def distance(template: Path, maps: tuple[Path, Path], count: int) -> float:
    """Mean distance of corresponding points of two templates in the head, mm.

    Args:
        template: image of the first one.
        maps: folders with the registrations of all images to both; ids run in opposite order.
        count: number of images.
    """
    image = read_image(str(template))[0]
    grid, inside = Grid.of(image), plain(image)[0] > HEAD_SHARE * float(image.max())
    one, other = (Template(folder, {}, "", []) for folder in maps)
    moved = []
    for number in range(1, count + 1):
        back = other.transform(f"{count + 1 - number:02d}").inverse()
        moved.append(one.transform(f"{number:02d}").then(back).displacement(grid))
    median = torch.stack(moved).median(0).values  # of all images, so that one that fits badly does not count
    return float(lengths(median)[inside].mean())


def pairs_of(subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """Neighbors (different contrasts) and second neighbors (equal contrasts) in the ring of heads."""
    count = len(subjects)
    pairs = [(subjects[i], subjects[(i + step) % count]) for step in (1, 2) for i in range(count)]
    return [pair for pair in pairs if {s.id for s in pair} != SAME_HEAD]


def overlap(first: torch.Tensor, second: torch.Tensor, labels: Sequence[int]) -> float:
    """Mean Dice over the labels."""
    return mean_over_labels(dice_per_label(first, second, labels))


def agreement(found: Template, subjects: Sequence[Subject], direct: Path) -> dict[str, list[float]]:
    """Mean Dice in the template's space, and after direct registrations, for pairs of different and of equal contrasts."""
    own = {s.id: read_labels(s.labels) for s in subjects}
    grid = Grid.of(found.image())
    carried = {s.id: found.transform(s.id).warp(own[s.id], Grid.of(own[s.id]), grid, "smooth") for s in subjects}
    labels = large_labels(own.values())
    rows: dict[str, list[tuple[float, float]]] = {}
    for fixed, moving in pairs_of(subjects):
        moved = RegistrationResult.load(direct / "pairs" / pair_id(fixed, moving)).warp_moving(own[moving.id], "smooth")
        kind = "different contrasts" if fixed.contrast != moving.contrast else "equal contrasts"
        values = overlap(carried[fixed.id], carried[moving.id], labels), overlap(own[fixed.id], moved, labels)
        rows.setdefault(kind, []).append(values)
    return {kind: [*np.mean(values, 0).tolist(), len(values)] for kind, values in rows.items()}


def pair_id(fixed: Subject, moving: Subject) -> str:
    """Name of a direct registration."""
    return f"{moving.id}_to_{fixed.id}"


def large_labels(maps: Iterable[torch.Tensor]) -> list[int]:
    """The labels that are large enough in every head."""
    counts = []
    for labels in maps:
        values, voxels = plain(labels).unique(return_counts=True)
        volume = float(np.prod(Grid.of(labels).spacing))
        counts.append({int(v) for v, n in zip(values, voxels, strict=True) if v > 0 and float(n) * volume >= MIN_LABEL_MM3})
    return sorted(set.intersection(*counts))


def cost(found: Template, seconds: Sequence[float], count: int) -> dict[str, float]:
    """CPU seconds per head: of the start, of each round (registrations and average), and of the final registrations."""
    start, rest = sum(seconds[: count - 1]), seconds[count - 1 :]
    parts = [sum(rest[count * k : count * (k + 1)]) for k in range(len(found.rounds))]
    averages = [each["average_seconds"] for each in found.rounds]
    names = ["start", *(f"round {k}" for k in range(1, len(found.rounds)))]
    sums = dict(zip(names, (a + b for a, b in zip([start, *parts], averages)), strict=False))
    return {name: value / count for name, value in {**sums, "final": parts[-1]}.items()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build both templates and register the pairs."""
    subjects, out = prepare(options.data / "nichart", options.output / "images", options.block, options.heads), options.output
    settings = {**OPTIONS, "preset": options.preset, "outputs": ["affine", "forward", "inverse"]}
    seconds: dict[str, list[float]] = {"template": [], "elsewhere": [], "direct": []}
    with in_this_process(seconds["template"]):
        one = template(subjects, out / "template", rounds=options.rounds, **settings)
    values: dict[str, Any] = {"counts": one.counts, "rounds": one.rounds, "cost": cost(one, seconds["template"], len(subjects))}
    print(json.dumps(values), flush=True)
    with in_this_process(seconds["direct"]):
        pairs = [CohortPair(pair_id(f, m), f.image, m.image) for f, m in pairs_of(subjects)]
        run_cohort(pairs, out / "direct", **settings)
    values["cost"]["direct"] = sum(seconds["direct"]) / max(len(seconds["direct"]), 1)
    values["agreement"] = agreement(one, subjects, out / "direct")
    print(json.dumps(values), flush=True)
    with in_this_process(seconds["elsewhere"]):
        others = start_elsewhere(subjects, out / "renamed", options.preset, options.other_rounds)
    for number in range(len(others) - 1):  # the registrations to a template are those of the next round
        images = out / "template" / "rounds" / str(number) / "template.nii.gz"
        maps = [out / name / "rounds" / str(number + 1) for name in ("template", "renamed")]
        values.setdefault("between_mm", []).append(distance(images, (maps[0], maps[1]), len(subjects)))
    (out / "sets.json").write_text(json.dumps(values, indent=1))
    return values


def table(values: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = ["| part | CPU s per image | relative to a direct registration |", "| --- | --- | --- |"]
    direct = values["cost"]["direct"]
    lines += [f"| {name} | {value:.2f} | {value / direct:.2f} |" for name, value in values["cost"].items()]
    lines += [
        "",
        "| pairs | number | Dice in the template's space | Dice after direct registration |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {kind} | {n} | {a:.3f} | {b:.3f} |" for kind, (a, b, n) in values["agreement"].items()]
    shifts = ", ".join(f"{each['shift_mm']:.2f}" for each in values["rounds"][1:])
    between = ", ".join(f"{value:.3f}" for value in values["between_mm"])
    lines += ["", f"Distance from a template with another start, before each round: {between} mm."]
    lines += [f"Mean shift of the template in each round: {shifts} mm. Verdicts: {values['counts']}."]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for images and results")
    parser.add_argument("--block", type=int, default=2, help="average over blocks of so many voxels (2: 4 mm)")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--rounds", type=int, default=2)
    text = "rounds of the template with another start"
    parser.add_argument("--other-rounds", type=int, default=2, metavar="N", help=text)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table(measure(options)))


if __name__ == "__main__":
    main()
