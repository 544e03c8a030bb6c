# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Surfaces beside the images: distances of inter-subject pairs, of the surfaces that drive the registration and of the others.

The largest labels that both images have are divided in turn into driving and other ones, and meshed (ITK's
BinaryMask3DMeshSource). Prints the mean distance of both before and after,
without (weight 0) and with the driving surfaces.

    python benchmarks/surfaces.py CASES subjects_flair01_t1_02 --preset fast --count 16 --weights 0 0.3
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _guided import options_of, run
from labels import divided

COLUMNS = (
    "case",
    "surfaces",
    "weight",
    "driving",
    "driving before",
    "others",
    "others before",
    "folding %",
    "verdict",
    "seconds",
)


def meshed(labels: Any, value: int) -> Any:
    """The surface of a label of a label map, without what lies at the border of the image.

    Args:
        labels: MetaTensor, ``(1, *grid)``.
        value: the label.
    """
    import itk

    from monai_locor.geometry import Grid, apply_affine
    from monai_locor.io.meshes import SurfaceMesh

    mask = np.pad((labels.as_tensor()[0] == value).numpy().astype(np.uint8), 1)
    image = itk.image_from_array(np.ascontiguousarray(mask.transpose(2, 1, 0)))  # positions are then indices
    source = itk.BinaryMask3DMeshSource[type(image), itk.Mesh[itk.D, 3]].New(image, ObjectValue=1)
    source.Update()
    mesh = source.GetOutput()
    points = itk.array_from_vector_container(mesh.GetPoints()) - 1
    faces = itk.array_from_vector_container(mesh.GetCellsArray()).reshape(-1, 5)[:, 2:].astype(np.int64)
    inside = ((points > 0) & (points < np.array(labels.shape[1:]) - 1)).all(1)
    vertices = apply_affine(Grid.of(labels).affine, points)
    return SurfaceMesh(vertices, faces[inside[faces].all(1)], f"label {value}")


def rows(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each weight."""
    from monai_locor import register
    from monai_locor.io.images import read_labels
    from monai_locor.metrics import common_labels
    from monai_locor.registration.surfaces import Surfaces

    maps = [read_labels(folder / f"{role}_labels.nii.gz", role) for role in ("fixed", "moving")]
    common = common_labels(*(each.as_tensor() for each in maps))
    largest = sorted(common, key=lambda label: -int((maps[0] == label).sum()))[: options.count]
    driving, others = ([[meshed(x, label) for x in maps] for label in part] for part in divided(maps[0].as_tensor(), largest))
    for weight in options.weights:
        result = register(
            *(str(folder / f"{role}.nii.gz") for role in ("fixed", "moving")),
            preset={"preset": options.preset, "surface_weight": weight},
            surfaces=driving,
            device="cpu",
            progress=False,
            seed=options.seed,
        )
        rest = Surfaces.of(others, result.fixed_grid, result.moving_grid).distances(result.initial, result.transform)
        yield {
            **{"case": folder.name, "surfaces": f"{len(driving)} + {len(others)}", "weight": weight},
            **{
                "driving": round(result.surface_mm["after"]["mean"], 2),
                "driving before": round(result.surface_mm["before"]["mean"], 2),
            },
            **{"others": round(rest["after"]["mean"], 2), "others before": round(rest["before"]["mean"], 2)},
            "folding %": round(result.jacobian["folding_percent"], 4),
            "verdict": result.verdict.status,
            "seconds": round(result.seconds, 1),
        }


def main() -> None:
    """Run the cases and print the table."""
    parser = options_of(__doc__)
    parser.add_argument("--count", type=int, default=16, help="number of labels, the largest that both images have")
    run(parser, rows, COLUMNS)


if __name__ == "__main__":
    main()
