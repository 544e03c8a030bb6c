# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images that are padded outside their field of view: the setting `padding`.

Each case is a pair of real images with a known deformation (`_trouble_pairs.py`, 4 mm voxels). The moving image is cut to a
half or to a slab, in a random direction, and filled with its minimum there, as by a resampling to a larger grid. Prints the
mean error in the part of the fixed image that the moving one still shows, and the voxels that were recognized as padding.

    python benchmarks/padding.py DATA --cases 12
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _tables import markdown
from _trouble_pairs import Pair, draw_pair, like, mapped
from loss import machine

from monai_locor import register
from monai_locor.geometry import Grid
from monai_locor.registration.padding import padded_voxels

SEED = 10**6  # other pairs than those of trouble.py
SLAB = (0.25, 0.5)  # of the height of the field of view
WORDS = ("auto", "never")
HEAD = ["pair", "cut", "cut, %", "found, %", "whole image", *(f"padding {word}" for word in WORDS)]


def padded(pair: Pair, rng: np.random.Generator) -> tuple[str, Pair, np.ndarray]:
    """The kind of cut; the pair with a padded moving image, its mask where the rest is seen; and the padding, ``(*moving)``."""
    grid, normal = Grid.of(pair.moving), rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    center, reach = grid.center, float(np.abs(normal) @ grid.extent)
    kind = str(rng.choice(["half", "slab"]))
    low, high = -np.inf, 0.0
    if kind == "slab":
        high = float(rng.uniform(*SLAB)) / 2 * reach
        low = -high

    def inside(points: np.ndarray) -> np.ndarray:
        height = (points - center) @ normal
        return np.minimum(height - low, high - height) / float(grid.spacing.mean())  # voxels

    values = pair.moving[0].numpy()
    share = np.clip(inside(grid.points()) + 0.5, 0, 1)  # a voxel at the edge is interpolated
    moving = like(pair.moving, share * values + (1 - share) * values.min())
    assert pair.truth is not None
    return kind, replace(pair, moving=moving, mask=pair.mask & (inside(pair.truth) > 0)), share == 0


def error_of(pair: Pair, preset: str, padding: str) -> float:
    """The mean error of a registration in the mask of the pair, mm."""
    settings = {"preset": preset, "padding": padding}
    result = register(pair.fixed, pair.moving, preset=settings, device="cpu", progress=False)
    return float(pair.error(mapped(result, Grid.of(pair.fixed))).mean())


def row(folder: Path, number: int, preset: str) -> list[str]:
    """The cells of a case."""
    rng = np.random.default_rng(SEED + number)
    whole = draw_pair(folder, rng)
    kind, cut, padding = padded(whole, rng)
    found = padded_voxels(cut.moving, Grid.of(cut.moving))
    shares = 100 * padding.mean(), 0.0 if found is None else 100 * float(found.float().mean())
    errors = [error_of(replace(whole, mask=cut.mask), preset, "auto"), *(error_of(cut, preset, word) for word in WORDS)]
    return [whole.name, kind, *(f"{x:.0f}" for x in shares), *(f"{x:.2f}" for x in errors)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Register all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the images")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(device="cpu", repeats=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    rows = []
    for number in range(args.cases):
        rows.append(row(args.data, number, args.preset))
        print(*rows[-1], file=sys.stderr)
    medians = [f"{np.median([float(r[k]) for r in rows]):.2f}" for k in range(4, len(HEAD))]
    print(
        machine(args),
        markdown([*HEAD[:4], *(f"{name}, mm" for name in HEAD[4:])], [*rows, ["median", "", "", "", *medians]]),
        sep="\n\n",
    )


if __name__ == "__main__":
    main()
