# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Slices of clinical scans with a known deformation, registered as 2-D images.

DATA holds the scans of two visits, clinical/visitN_FLAIR.nii.gz and T1W or T2W with the rigid transform of the publishers,
clinical/visitN_T1W_to_FLAIR.txt. Two slices of each FLAIR image are rotated, translated and deformed; T1W or T2W,
resampled to the FLAIR grid, is the moving image. Prints the target registration error in the head, mm.

    python benchmarks/slices.py DATA --presets fast default --draws 0 1 2
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from _capture_pairs import turn
from _tables import markdown
from registration import about
from scipy.ndimage import binary_fill_holes, binary_opening, gaussian_filter, map_coordinates

import monai_locor
from monai_locor.geometry import affine_about, apply_affine
from monai_locor.io import read_transform

VISITS, CONTRASTS, HEIGHTS = (1, 2), ("T1W", "T2W"), (0.45, 0.6)  # of the slice, as a share of the stack
ROTATION, TRANSLATION, ELASTIC = 6.0, 6.0, 4.0  # degrees and mm at most; mm, root mean square
SMOOTHNESS = 14.0  # standard deviation of the Gaussian by which white noise becomes a velocity, mm
SQUARINGS = 6
HEAD = 0.15  # smallest intensity, relative to the 98th percentile
COLUMNS = ("slice", "draw", "preset", "before", "TRE mean", "95 %", "affine undone", "verdict")


@dataclass(frozen=True)
class Slice:
    """Two aligned slices on one grid.

    Attributes:
        name: visit, contrasts and number of the slice.
        fixed, moving: intensities, ``(X, Y)``.
        spacing: side of a pixel, mm.
    """

    name: str
    fixed: np.ndarray
    moving: np.ndarray
    spacing: float


def slices(folder: Path) -> Iterator[Slice]:
    """All pairs of slices."""
    for visit, contrast, height in itertools.product(VISITS, CONTRASTS, HEIGHTS):
        flair, other = (nib.load(folder / f"visit{visit}_{name}.nii.gz") for name in ("FLAIR", contrast))
        number = int(flair.shape[2] * height)
        rows, columns = np.meshgrid(*(np.arange(n) for n in flair.shape[:2]), indexing="ij")
        points = apply_affine(flair.affine, np.stack((rows, columns, np.full_like(rows, number)), -1).astype(float))
        rigid = read_transform(folder / f"visit{visit}_{contrast}_to_FLAIR.txt").matrix
        index = apply_affine(np.linalg.inv(other.affine) @ rigid, points)
        moving = map_coordinates(np.asarray(other.dataobj, np.float32), np.moveaxis(index, -1, 0), order=1)
        fixed = np.asarray(flair.dataobj[:, :, number], np.float32)
        yield Slice(f"visit {visit}, FLAIR-{contrast}, {number}", fixed, moving, float(flair.header.get_zooms()[0]))


def deformed(image: np.ndarray, spacing: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image seen through a random map, and its displacement in mm, ``(2, X, Y)``: where a pixel lies in the given image."""
    rng = np.random.default_rng(seed)
    velocity = np.stack([gaussian_filter(rng.normal(size=image.shape), SMOOTHNESS / spacing) for _ in range(2)])
    velocity *= ELASTIC / spacing / np.sqrt((velocity**2).sum(0).mean())
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij")).astype(float)
    elastic = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        elastic = elastic + np.stack([map_coordinates(part, grid + elastic, order=1, mode="nearest") for part in elastic])
    angle = rng.uniform(-ROTATION, ROTATION)
    rotation = affine_about((np.array(image.shape) - 1) / 2, turn(angle, np.array([0, 0, 1.0]))[:2, :2])
    shift = rng.uniform(-TRANSLATION, TRANSLATION, 2)[:, None, None] / spacing
    places = np.moveaxis(apply_affine(rotation, np.moveaxis(grid + elastic, 0, -1)), -1, 0) + shift
    return map_coordinates(image, places, order=1), (places - grid) * spacing


def head(image: np.ndarray) -> np.ndarray:
    """The pixels of the head, bool."""
    bright = gaussian_filter(image, 2) > HEAD * np.percentile(image, 98)
    return binary_fill_holes(binary_opening(bright, iterations=3))


def registered(pair: Slice, seed: int, preset: str) -> dict[str, Any]:
    """Errors of one registration, mm."""
    fixed, truth = deformed(pair.fixed, pair.spacing, seed)
    affine, inside = np.diag([pair.spacing, pair.spacing, 1.0]), head(fixed)
    result = monai_locor.register((fixed, affine), (pair.moving, affine), preset=preset, seed=0, device="cpu", progress=False)
    errors = np.linalg.norm(np.asarray(result.forward_mm) - truth, axis=0)[inside]
    return {
        "before": round(float(np.linalg.norm(truth, axis=0)[inside].mean()), 2),
        "TRE mean": round(float(errors.mean()), 3),
        "95 %": round(float(np.quantile(errors, 0.95)), 2),
        "affine undone": result.history[0]["undone"],
        "verdict": result.verdict.status,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with clinical/")
    parser.add_argument("--presets", nargs="+", default=["fast"], help="names or JSON files")
    parser.add_argument("--draws", nargs="+", type=int, default=[0], help="numbers of the deformations of each slice")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu",))
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    pairs = list(enumerate(slices(options.folder / "clinical")))
    for draw, (number, pair), preset in itertools.product(options.draws, pairs, options.presets):
        found = {"slice": pair.name, "draw": draw, "preset": preset} | registered(pair, 100 * draw + number, preset)
        rows.append(found)
        print(found, flush=True)
        if options.json:
            options.json.write_text(json.dumps({"machine": about(options), "rows": rows}, indent=1), encoding="utf-8")
    print(markdown(COLUMNS, [[str(row[name]) for name in COLUMNS] for row in rows]))
    for preset in options.presets:
        errors = [row["TRE mean"] for row in rows if row["preset"] == preset]
        print(f"{preset}: mean {np.mean(errors):.2f}, median {np.median(errors):.2f}, worst {np.max(errors):.2f} mm")


if __name__ == "__main__":
    main()
