# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmark errors of stained sections, registered in all directions.

FOLDER holds pictures NAME.jpg (or .png, .tif) with landmarks NAME_landmarks.csv, columns index, X, Y in pixels times the scale,
and optionally those of another person, NAME_landmarks_second_reader.csv. Every picture is registered to every other one.

    python benchmarks/histology.py FOLDER --presets default fast --seeds 0 1 2 --json histology.json
    python benchmarks/histology.py FOLDER --ants /opt/venvs/peers/bin/python --json histology.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loss import machine

import monai_locor
from monai_locor.geometry import Grid, apply_affine
from monai_locor.io import read_image, read_points
from monai_locor.io.grids import read_grid
from monai_locor.io.paths import is_picture

ANTS_TRANSFORMS = ("SyN", "SyNRA")


def sections(folder: Path) -> dict[str, Path]:
    """The pictures with landmarks, by name."""
    found = {path.stem: path for path in sorted(folder.iterdir()) if is_picture(path)}
    return {name: path for name, path in found.items() if landmarks_file(path).is_file()}


def landmarks_file(path: Path, reader: str = "") -> Path:
    """The landmarks of a picture."""
    return path.with_name(f"{path.stem}_landmarks{reader}.csv")


def landmarks(file: Path, scale: float) -> dict[str, np.ndarray]:
    """Landmarks in pixels, ``(2,)`` each, by label."""
    unit = Grid((2, 2), np.diag([1 / scale, 1 / scale, 1]))
    found = read_points(file, pixels_of=unit)
    return dict(zip(found.labels, found.points.numpy(), strict=True))


def paired(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The landmarks that both have, ``(N, 2)`` each."""
    common = [label for label in first if label in second]
    return np.array([first[label] for label in common]), np.array([second[label] for label in common])


def statistics(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean, median and 95th percentile of the distances, pixels."""
    errors = np.linalg.norm(found - truth, axis=1)
    return {"mean": float(errors.mean()), "median": float(np.median(errors)), "p95": float(np.quantile(errors, 0.95))}


def ours(fixed: Path, moving: Path, points: np.ndarray, preset: str, seed: int) -> np.ndarray:
    """Map pixels of the fixed picture to pixels of the moving one."""
    grids = read_grid(fixed), read_grid(moving)
    result = monai_locor.register(fixed, moving, preset=preset, seed=seed, progress=False, device="cpu")
    moved = result.transform_points(apply_affine(grids[0].affine, points))
    return apply_affine(np.linalg.inv(grids[1].affine), moved)


def ants(fixed: Path, moving: Path, points: np.ndarray, kind: str, python: str) -> np.ndarray:
    """The same by ANTs in another interpreter, of the same intensities at full size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for role, path in (("fixed", fixed), ("moving", moving)):
            np.save(folder / f"{role}.npy", read_image(path, role, max_pixels=2**26)[0].numpy()[0])
        np.save(folder / "points.npy", points)
        worker = Path(__file__).with_name("_histology_ants.py")
        subprocess.run([python, str(worker), kind, name], check=True, stdout=subprocess.DEVNULL)
        return np.load(folder / "moved.npy", allow_pickle=False)


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Register all pairs with all tools; one row each."""
    known = sections(options.folder)
    marks = {name: landmarks(landmarks_file(path), options.scale) for name, path in known.items()}
    for fixed, moving in itertools.permutations(known, 2):
        points, truth = paired(marks[fixed], marks[moving])
        pair = {"fixed": fixed, "moving": moving}
        yield {**pair, "tool": "before", "seed": 0, **statistics(points, truth)}
        paths = known[fixed], known[moving]
        jobs = [(preset, seed) for preset in options.presets for seed in options.seeds]
        jobs += [(f"ants {kind}", 0) for kind in ANTS_TRANSFORMS if options.ants]
        for tool, seed in jobs:
            began = time.perf_counter()
            if tool.startswith("ants "):
                moved = ants(*paths, points, tool.removeprefix("ants "), options.ants)
            else:
                moved = ours(*paths, points, tool, seed)
            yield {**pair, "tool": tool, "seed": seed, **statistics(moved, truth), "seconds": time.perf_counter() - began}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table: median over the seeds of the median and mean errors, one column per pair."""
    pairs = list(dict.fromkeys((row["fixed"], row["moving"]) for row in rows))
    yield "| tool | " + " | ".join(f"{fixed} - {moving}" for fixed, moving in pairs) + " | all |"
    yield "| --- |" + " --- |" * (len(pairs) + 1)
    for tool in dict.fromkeys(row["tool"] for row in rows):
        cells = []
        for pair in pairs:
            mine = [row for row in rows if row["tool"] == tool and (row["fixed"], row["moving"]) == pair]
            cells.append([np.median([row[key] for row in mine]) for key in ("median", "mean")])
        cells.append(np.mean(cells, axis=0).tolist())
        yield f"| {tool} | " + " | ".join(f"{median:.1f} ({mean:.1f})" for median, mean in cells) + " |"


def readers(options: argparse.Namespace) -> Iterator[str]:
    """One line for each picture with two readers."""
    for name, path in sections(options.folder).items():
        second = landmarks_file(path, "_second_reader")
        if second.is_file():
            both = (landmarks(file, options.scale) for file in (landmarks_file(path), second))
            found = statistics(*paired(*both))
            numbers = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
            yield f"two readers of {name}: {numbers} pixels"


def main(arguments: list[str] | None = None) -> int:
    """Run everything and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=10.0, help="landmarks are in pixels times this (default: %(default)s)")
    parser.add_argument("--presets", nargs="*", default=["default", "fast"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ants", metavar="PYTHON", help="interpreter with antspyx")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    about = machine(argparse.Namespace(device="cpu", threads=options.threads, repeats=1))
    print(*(f"{key} {value}" for key, value in about.items()), sep=", ")
    rows = []
    for row in runs(options):
        rows.append(row)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    print("\nmedian (mean) error, pixels:\n", *table(rows), "", *readers(options), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
