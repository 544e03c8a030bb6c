# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Benefit of a trained network: Dice and time of its prediction, of prediction and a few iterations, of iterations alone.

Trains the bundle's network across subjects, once with each measure and with equally many steps (a quarter of the subjects
selects the weights by the loss), then registers all pairs of unseen subjects. The data are a folder
of `SubjNN_T1.nii.gz`, `SubjNN_FLAIR.nii.gz` and `SubjNN_labels.nii.gz` (of the T1 image), as in NiChart: T1 is registered to
FLAIR. The labels of the fixed subject are first warped from T1 to FLAIR by a deformable registration with normalized mutual
information, which, if anything, favors MI. (An affine is not enough: the two scans of one head differ by another 1.5 mm, on
which several measures agree, and labels warped by an affine penalize methods that find it.)

    python benchmarks/learning.py DATA --output out                        # learned basis, MI and LNCC
    python benchmarks/learning.py DATA --output out --measures locor --option epochs=20
    python benchmarks/learning.py DATA --output out --evaluate-only        # existing weights
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _score import score
from monai.bundle import ConfigParser
from registration import about

from monai_locor.inferers import InstanceOptimizationInferer
from monai_locor.io import read_image, write_image
from monai_locor.registration import register

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "locor_registration"
CONTRASTS = {"fixed": "FLAIR", "moving": "T1"}
OURS = "locor"
TRAINING = "training.json"
CARRIER = "normalized_mutual_information"
# training options for each measure; the weights of the bending energy suit the scales of the measures
MEASURES: dict[str, dict[str, Any]] = {
    OURS: {"similarity": OURS, "bending_weight": 20.0},
    "mi": {"similarity": {"_target_": "GlobalMutualInformationLoss"}, "bending_weight": 1.0},
    "lncc": {"similarity": {"_target_": "LocalNormalizedCrossCorrelationLoss", "kernel_size": 9}, "bending_weight": 1.0},
}


@dataclass(frozen=True)
class Method:
    """One way to register: a network's weights or none, and deformable iterations (None: the preset's)."""

    name: str
    measure: str | None
    iterations: int | None


def methods(measures: Sequence[str], iterations: Sequence[int]) -> list[Method]:
    """The methods in the order of the table."""
    found = [Method("affine", None, 0)]
    found += [Method(f"network ({m})", m, 0) for m in measures]
    if OURS in measures:
        found += [Method(f"network ({OURS}) + {n}", OURS, n) for n in iterations]
    return (
        found + [Method(f"{n} iterations alone", None, n) for n in iterations] + [Method("instance optimization", None, None)]
    )


def write_datalist(options: argparse.Namespace) -> Path:
    """Training and test subjects for the bundle; only the latter have labels, on the grids of both images."""
    items: dict[str, list[dict[str, str]]] = {"training": [], "testing": []}
    for number in options.train + options.test:
        name = f"Subj{number:02d}"
        item = {"name": name} | {r: str((options.data / f"{name}_{c}.nii.gz").resolve()) for r, c in CONTRASTS.items()}
        if number in options.test:
            item |= {"moving_label": str((options.data / f"{name}_labels.nii.gz").resolve())}
            item |= {"fixed_label": str(carried_labels(item, options.output.resolve() / "labels"))}
        items["testing" if number in options.test else "training"].append(item)
    path = options.output / "datalist.json"
    path.write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")
    return path


def carried_labels(item: Mapping[str, str], folder: Path) -> Path:
    """The labels of a subject's moving image on the grid of its fixed one."""
    path = folder / f"{item['name']}.nii.gz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        result = register(item["fixed"], item["moving"], preset="fast", similarity=CARRIER, device="cpu", progress=False)
        labels = result.warp_moving(read_image(item["moving_label"], "labels")[0], "nearest")
        write_image(path, labels, result.fixed_grid, "int16")
    return path


def train(measure: str, datalist: Path, options: argparse.Namespace) -> None:
    """Train the bundle's network. Its output goes to `train.log`, the time to `training.json`."""
    folder = (options.output / measure).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    told = {"datalist": datalist.resolve(), "pairing": "across", "ckpt_dir": folder, "output_dir": folder, "seed": options.seed}
    told |= (
        {
            "validation_fraction": 0.25,
            "spacing": options.spacing,
            "downsampling": options.downsampling,
            "stride": options.stride,
            "guided": options.guided,
            "spatial_size": options.spatial_size,
            "batch_size": options.batch_size,
            "device": options.device,
        }
        | MEASURES[measure]
        | dict(o.split("=", 1) for o in options.option)
    )
    config = str(BUNDLE / "configs" / "train.json")
    words = [word for key, value in told.items() for word in (f"--{key}", value if isinstance(value, str) else json_of(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    start = time.perf_counter()
    with (folder / "train.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *words]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)
    content = {"seconds": time.perf_counter() - start, **about(options), **{k: str(v) for k, v in told.items()}}
    (folder / TRAINING).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def seconds_of_training(measure: str, options: argparse.Namespace) -> float:
    """Training time of the existing weights."""
    path = options.output / measure / TRAINING
    return json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else math.nan


def json_of(value: Any) -> str:
    """Format a value for the command line."""
    return str(value) if isinstance(value, Path) else json.dumps(value)


def network_of(measure: str, options: argparse.Namespace) -> dict[str, Any]:
    """Network and its loss as in `inference.json`, with trained weights."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    parser.read_meta(str(BUNDLE / "configs" / "metadata.json"))
    saved = torch.load(options.output / measure / "model.pt", map_location="cpu", weights_only=True)
    if not options.guided:
        parser["network_def"]["in_channels"] = 2
    parser["network_similarity"] = MEASURES[measure]["similarity"]
    network, loss = (parser.get_parsed_content(name) for name in ("network_def", "loss"))
    network.load_state_dict(saved["model"])
    loss.load_state_dict(saved["loss"])
    return {"network": network, "loss": loss}


def cases(datalist: Path, options: argparse.Namespace) -> Iterator[Path]:
    """A folder for `_score.py` for each ordered pair of different test subjects."""
    subjects = json.loads(datalist.read_text(encoding="utf-8"))["testing"]
    for fixed in subjects:
        for moving in subjects:
            if fixed is not moving:
                case = options.output / "pairs" / f"{moving['name']}_to_{fixed['name']}"
                case.mkdir(parents=True, exist_ok=True)
                files = {"fixed": fixed["fixed"], "fixed_labels": fixed["fixed_label"]}
                files |= {"moving": moving["moving"], "moving_labels": moving["moving_label"]}
                for name, path in files.items():
                    link = case / f"{name}.nii.gz"
                    link.unlink(missing_ok=True)
                    link.symlink_to(path)
                yield case


def attempt(case: Path, method: Method, trained: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Register and score one pair."""
    inferer = InstanceOptimizationInferer(
        options.preset,
        num_iterations=method.iterations,
        use_network=method.measure is not None,
        loss=trained.get("loss"),
        network_spacing=options.spacing,
        downsampling=options.downsampling,
        stride=options.stride,
        guided=options.guided and method.measure is not None,
        divisible=8,
        seed=options.seed,
        progress=False,
    )
    fixed, moving = (read_image(case / f"{role}.nii.gz", role)[0][None].to(options.device) for role in ("fixed", "moving"))
    start = time.perf_counter()
    result = inferer(fixed, trained.get("network"), moving=moving)[0]
    seconds = time.perf_counter() - start
    out = case / method.name.replace(" ", "_")
    result.save(out)
    return {"case": case.name, "method": method.name, "seconds": seconds, **score(case, out)}


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method, over all pairs; the first is that before registration."""
    affine = {run["case"]: run["dice"] for run in runs if run["method"] == "affine"}
    before = {run["case"]: run["dice_before"] for run in runs}
    rows: list[dict[str, Any]] = []
    if before:
        rows.append({"method": "before", "dice": statistics.mean(before.values()), "dice_sd": _sd(before.values())})
    for name in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == name]
        dice = [run["dice"] for run in own]
        gain = [run["dice"] - affine[run["case"]] for run in own if run["case"] in affine]
        row = {"method": name, "dice": statistics.mean(dice), "dice_sd": _sd(dice), "least_gain": min(gain, default=math.nan)}
        row |= {"better": sum(g > 0 for g in gain), "pairs": len(gain)}
        row |= {"folding_voxels": sum(run["folding_voxels"] for run in own)}
        rows.append(row | {"seconds": statistics.mean(run["seconds"] for run in own)})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`summary` as Markdown."""
    lines = ["| method | Dice, mean | sd | least gain over affine | pairs better than affine | folding, voxels | seconds |"]
    lines.append("| --- " * 7 + "|")
    for row in rows:
        cells = [row["method"], f"{row['dice']:.4f}", f"{row['dice_sd']:.4f}"]
        if "seconds" in row:
            cells += [f"{row['least_gain']:+.4f}", f"{row['better']} of {row['pairs']}", str(row["folding_voxels"])]
            lines.append(f"| {' | '.join(cells)} | {row['seconds']:.1f} |")
        else:
            lines.append(f"| {' | '.join(cells)} | | | | |")
    return "\n".join(lines)


def _sd(values: Any) -> float:
    values = list(values)
    return statistics.stdev(values) if len(values) > 1 else 0.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with SubjNN_T1.nii.gz, SubjNN_FLAIR.nii.gz, SubjNN_labels.nii.gz")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="weights, logs, labels and fields")
    parser.add_argument("--train", type=int, nargs="+", default=list(range(1, 9)), metavar="N", help="subjects")
    parser.add_argument("--test", type=int, nargs="+", default=list(range(9, 13)), metavar="N", help="subjects")
    parser.add_argument("--measures", nargs="+", default=list(MEASURES), choices=MEASURES, metavar="NAME")
    parser.add_argument("--iterations", type=int, nargs="+", default=[10, 25, 50], metavar="N", help="after the network")
    parser.add_argument("--preset", default="default", metavar="NAME or FILE", help="of the registrations that are compared")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of train.json, may be repeated")
    parser.add_argument("--spacing", type=float, default=3.0, metavar="MM", help="voxel size of the training images")
    parser.add_argument("--downsampling", type=int, default=2, metavar="N", help="the network's voxels are N times larger")
    parser.add_argument("--stride", type=int, default=2, metavar="N", help="the loss uses every N-th voxel")
    parser.add_argument("--unguided", dest="guided", action="store_false", help="without the gradient of the loss as input")
    parser.add_argument("--spatial-size", type=int, nargs=3, default=[64, 80, 64], metavar="N", help="voxels to train on")
    parser.add_argument("--batch-size", type=int, default=2, metavar="N")
    parser.add_argument("--evaluate-only", action="store_true", help="use the weights in DIR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    missing = [n for n in options.train + options.test if not (options.data / f"Subj{n:02d}_T1.nii.gz").exists()]
    if missing:
        parser.error(f"{options.data}: no Subj{missing[0]:02d}_T1.nii.gz there")
    if set(options.train) & set(options.test):
        parser.error("a subject must not be trained and tested on")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    datalist = write_datalist(options)
    content: dict[str, Any] = {"machine": about(options), "training_seconds": {}, "runs": []}
    for measure in [] if options.evaluate_only else options.measures:
        train(measure, datalist, options)
    for measure in options.measures:
        content["training_seconds"][measure] = seconds_of_training(measure, options)
        print(f"trained with {measure} in {content['training_seconds'][measure]:.0f} s", file=sys.stderr)
    trained: dict[str | None, dict[str, Any]] = {m: network_of(m, options) for m in options.measures}
    for case in cases(datalist, options):
        for method in methods(options.measures, options.iterations):
            content["runs"].append(attempt(case, method, trained.get(method.measure, {}), options))
            print(f"{case.name} {method.name}: {content['runs'][-1]['dice']:.4f}", file=sys.stderr)
            if options.json:
                content["rows"] = summary(content["runs"])
                options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in content["machine"].items()) + "\n")
    for measure, seconds in content["training_seconds"].items():
        print(f"trained with {measure} in {seconds / 60:.1f} minutes")
    print("\n" + table(summary(content["runs"])))


if __name__ == "__main__":
    main()
