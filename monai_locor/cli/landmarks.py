# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``--landmarks``, ``--labels`` and ``--surfaces`` of ``register``, which drive the registration beside the images."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..roles import ROLES
from .inputs import check_file, check_image

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["add_landmarks", "read_landmarks", "with_landmark_options"]


def add_landmarks(group: argparse._ActionsContainer) -> None:
    """``--landmarks``, ``--labels``, ``--surfaces`` and their weights."""
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
    group.add_argument(
        "--labels",
        nargs=2,
        metavar=("FIXED_LABELS", "MOVING_LABELS"),
        help="label maps of both images, on any grid; the distances of the surfaces of the labels that both have are part of "
        "the loss, beside the similarity of the images",
    )
    group.add_argument(
        "--label-weight",
        type=float,
        metavar="W",
        help="weight of the labels relative to the similarity; 0 only reports their overlap (default: 0.3)",
    )
    group.add_argument(
        "--surfaces",
        nargs=2,
        action="append",
        metavar=("FIXED_MESH", "MOVING_MESH"),
        help="meshes of the same surface of both images (.vtk, .obj, .ply, .stl, .gii, FreeSurfer); their distances are "
        "part of the loss, beside the similarity of the images; may be given several times",
    )
    group.add_argument(
        "--surface-weight",
        type=float,
        metavar="W",
        help="weight of the surfaces relative to the similarity; 0 only reports their distances (default: 0.3)",
    )
    group.add_argument(
        "--surface-space",
        choices=("ras", "lps"),
        help="coordinates of the surfaces, except GIFTI and FreeSurfer, which are RAS (default: as a comment SPACE=RAS in the "
        "file says, otherwise LPS)",
    )


def with_landmark_options(args: argparse.Namespace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a registration with the files and the weights of the landmarks, labels and surfaces.

    Raises:
        InputError: if a file does not exist, a weight is invalid, or there is a weight without what it is for.
    """
    from ..io.meshes import check_mesh_name

    out = dict(arguments)
    for name, check in (("landmarks", check_file), ("labels", check_image), ("surfaces", check_mesh_name)):
        given = getattr(args, name)
        if given is not None:
            for paths in given if name == "surfaces" else [given]:
                for role, path in zip(ROLES, paths, strict=True):
                    check(path, f"{role} {name}")
            out[name] = [tuple(paths) for paths in given] if name == "surfaces" else tuple(given)
        weight, option = getattr(args, f"{name[:-1]}_weight"), f"--{name[:-1]}-weight"
        if weight is None:
            continue
        if out.get(name) is None:
            raise InputError(f"{option} {weight:g}: there are no {name}; name them with --{name}")
        try:
            out["preset"] = dataclasses.replace(out["preset"], **{f"{name[:-1]}_weight": weight})
        except InputError as error:
            raise InputError(f"{option} {weight:g}: {error}") from error
    if args.surface_space is not None:
        if out.get("surfaces") is None:
            raise InputError(f"--surface-space {args.surface_space}: there are no surfaces; name them with --surfaces")
        out["preset"] = dataclasses.replace(out["preset"], surface_space=args.surface_space)
    return out


def read_landmarks(paths: tuple[str, str], pixels_of: tuple[Grid, Grid]) -> tuple[Any, Any]:
    """Read landmarks whose .csv files hold pixels of the fixed and the moving image."""
    from ..io.points import read_points

    fixed, moving = (
        read_points(path, what=f"{role} landmarks", pixels_of=grid)
        for path, role, grid in zip(paths, ROLES, pixels_of, strict=True)
    )
    return fixed, moving
