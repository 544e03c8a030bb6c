# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Labels beside the images: overlap of inter-subject pairs, of the labels that drive the registration and of the others.

The labels that both images have, sorted by size, are divided in turn into driving and other ones. Prints the mean Dice of both
before and after, without (weight 0) and with the driving labels.

    python benchmarks/labels.py CASES subjects_flair01_t1_02 --preset fast --weights 0 1
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _guided import options_of, run

COLUMNS = ("case", "labels", "weight", "driving", "others", "folding %", "sd log J", "verdict", "seconds")


def divided(fixed: torch.Tensor, labels: list[int]) -> tuple[list[int], list[int]]:
    """Labels by size, the first, third ... and the second, fourth ..."""
    by_size = sorted(labels, key=lambda label: -int((fixed == label).sum()))
    return sorted(by_size[::2]), sorted(by_size[1::2])


def rows(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row before the registration and one for each weight."""
    from monai_locor import register
    from monai_locor.geometry import Grid, warp
    from monai_locor.io.images import read_labels
    from monai_locor.metrics import common_labels, dice_per_label, mean_over_labels

    files = {role: str(folder / f"{role}_labels.nii.gz") for role in ("fixed", "moving")}
    maps = {role: read_labels(path, role) for role, path in files.items()}
    fixed, moving = (maps[role].as_tensor() for role in ("fixed", "moving"))
    driving, others = divided(fixed, common_labels(fixed, moving))
    for weight in options.weights:
        result = register(
            *(str(folder / f"{role}.nii.gz") for role in ("fixed", "moving")),
            preset={"preset": options.preset, "label_weight": weight},
            labels=(*files.values(), dict.fromkeys(driving, 1)),
            device="cpu",
            progress=False,
            seed=options.seed,
        )
        warped = warp(moving, Grid.of(maps["moving"]), result.forward_mm, result.fixed_grid, "nearest")
        reference = warp(fixed, Grid.of(maps["fixed"]), None, result.fixed_grid, "nearest")
        dice = (mean_over_labels(dice_per_label(reference, warped, each)) for each in (driving, others))
        yield {
            **{"case": folder.name, "labels": f"{len(driving)} + {len(others)}", "weight": weight},
            **dict(zip(("driving", "others"), (round(value, 3) for value in dice), strict=True)),
            "folding %": round(result.jacobian["folding_percent"], 4),
            "sd log J": round(result.jacobian["std_log"], 3),
            "verdict": result.verdict.status,
            "seconds": round(result.seconds, 1),
        }


def main() -> None:
    """Run the cases and print the table."""
    run(options_of(__doc__), rows, COLUMNS)


if __name__ == "__main__":
    main()
