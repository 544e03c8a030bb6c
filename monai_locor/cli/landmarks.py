# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``--landmarks`` of ``register``: corresponding points that drive the registration beside the images."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .inputs import check_file

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["add_landmarks", "read_landmarks", "with_landmark_options"]


def add_landmarks(group: argparse._ActionsContainer) -> None:
    """``--landmarks`` and ``--landmark-weight``."""
    group.add_argument(
        "--landmarks",
        nargs=2,
        metavar=("FIXED_POINTS", "MOVING_POINTS"),
        help="corresponding points of both images (.csv, .fcsv, .json), paired by label or order; their distances are part of "
        "the loss, beside the similarity of the images",
    )
    group.add_argument(
        "--landmark-weight",
        type=float,
        metavar="W",
        help="weight of the landmarks relative to the similarity; 0 only reports their distances (default: 1)",
    )


def with_landmark_options(args: argparse.Namespace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a registration with the files and the weight of the landmarks.

    Raises:
        InputError: if a file does not exist, the weight is invalid, or there is a weight without landmarks.
    """
    out, weight = dict(arguments), args.landmark_weight
    if args.landmarks is not None:
        for role, path in zip(("fixed", "moving"), args.landmarks, strict=True):
            check_file(path, f"{role} landmarks")
        out["landmarks"] = tuple(args.landmarks)
    if weight is None:
        return out
    if out.get("landmarks") is None:
        raise InputError(f"--landmark-weight {weight:g}: there are no landmarks; name them with --landmarks")
    try:
        out["preset"] = dataclasses.replace(out["preset"], landmark_weight=weight)
    except InputError as error:
        raise InputError(f"--landmark-weight {weight:g}: {error}") from error
    return out


def read_landmarks(paths: tuple[str, str], pixels_of: tuple[Grid, Grid]) -> tuple[Any, Any]:
    """Read landmarks whose .csv files hold pixels of the fixed and the moving image."""
    from ..io.points import read_points

    fixed, moving = (
        read_points(path, what=f"{role} landmarks", pixels_of=grid)
        for path, role, grid in zip(paths, ("fixed", "moving"), pixels_of, strict=True)
    )
    return fixed, moving
