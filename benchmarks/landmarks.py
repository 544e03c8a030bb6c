# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks beside the images: error of pairs with a known answer, by number, noise and weight of random landmarks.

Landmarks are random voxels of the mask of a case and their true positions in the moving image, with normal noise. Prints the
mean and the 95 % error over the mask, the mean error farther than 20 mm from every landmark, and the distance at the landmarks.

    python benchmarks/landmarks.py CASES head_ct_t1 --preset fast --counts 12 --noise 1 --weights 0 1
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _guided import options_of, run
from _score import read_field
from scipy.spatial import KDTree

FAR_MM = 20.0  # from every landmark
COLUMNS = ("case", "landmarks", "noise", "weight", "error", "95 %", "far", "at landmarks", "verdict", "seconds")


def landmarks_of(
    places: np.ndarray, displacements: np.ndarray, count: int, noise: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random points of the fixed image and their noisy positions in the moving image, ``(N, 3)`` RAS mm.

    Args:
        places: points to choose from, ``(M, 3)`` RAS mm.
        displacements: their true displacements, likewise.
        noise: standard deviation of the distance to the true position, mm.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(places), count, replace=False)
    points = places[chosen]
    return points, points + displacements[chosen] + rng.normal(size=points.shape) * noise / np.sqrt(3)


def rows(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each number, noise and weight; without landmarks, one."""
    from monai_locor import register

    fixed = nib.load(folder / "fixed.nii.gz")
    truth, mask = read_field(folder / "truth.nii.gz", fixed), np.asarray(nib.load(folder / "mask.nii.gz").dataobj)
    mask = mask.reshape(truth.shape[:3]) > 0
    places = nib.affines.apply_affine(fixed.affine, np.argwhere(mask))
    for count, noise, weight in itertools.product(options.counts, options.noise, options.weights):
        points, target = landmarks_of(places, truth[mask], count, noise, options.seed)
        result = register(
            *(str(folder / f"{role}.nii.gz") for role in ("fixed", "moving")),
            preset={"preset": options.preset, "landmark_weight": weight},
            landmarks=(points, target),
            device="cpu",
            progress=False,
            seed=options.seed,
        )
        field = np.moveaxis(np.asarray(result.forward_mm, dtype=np.float64), 0, -1).reshape(truth.shape)
        error = np.linalg.norm(field - truth, axis=-1)[mask]
        far = error[KDTree(points).query(places)[0] > FAR_MM]
        left = result.landmarks_mm["after"]["mean"]
        values = error.mean(), np.percentile(error, 95), far.mean() if len(far) else np.nan, left
        yield {
            **{"case": folder.name, "landmarks": count, "noise": noise, "weight": weight},
            **dict(zip(COLUMNS[4:8], (round(float(value), 2) for value in values), strict=True)),
            **{"verdict": result.verdict.status, "seconds": round(result.seconds, 1)},
        }


def main() -> None:
    """Run the cases and print the table."""
    parser = options_of(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[12])
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0], help="mm")
    run(parser, rows, COLUMNS)


if __name__ == "__main__":
    main()
