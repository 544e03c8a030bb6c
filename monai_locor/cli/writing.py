# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""How a transform is written, and what is said of it: shared by ``invert``, ``compose`` and ``convert``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .console import Console
from .outputs import check_outputs, suffix_of

if TYPE_CHECKING:
    from ..geometry import Grid, SpatialTransform

__all__ = ["add_format", "check_format", "check_transform_output", "say_written", "write_on"]

FIELDS = (".nii", ".nii.gz", ".nrrd", ".mha")  # hold one displacement field


def add_format(parser: argparse._ActionsContainer) -> None:
    """``--format``."""
    parser.add_argument("--format", metavar="NAME", help="of the output (default: by its name; see convert --list-formats)")


def check_format(name: str) -> None:
    """Refuse a format of transforms that there is not.

    Raises:
        InputError: it lists those that there are.
    """
    from ..io.transforms import FORMATS

    if name not in FORMATS:
        raise InputError(f"there is no transform format {name!r}; choose one of {', '.join(FORMATS)}")


def check_transform_output(args: argparse.Namespace, inputs: Iterable[Path | None]) -> None:
    """Refuse an output that cannot be, before anything is computed.

    Raises:
        InputError: for an unknown format or a name of none; and as :func:`.outputs.check_outputs`.
    """
    from ..io.transforms import planned_files

    check_outputs(planned_files(args.output.expanduser(), args.format), args.force, inputs)


def write_on(
    path: Path, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None, format: str | None
) -> list[Path]:
    """Write a transform; what has no grid of its own gets that of its first deformation."""
    from ..io.transforms import write_transform

    return write_transform(path.expanduser(), transform, format=format, fixed=fixed or transform.domain, moving=moving)


def say_written(console: Console, written: list[Path], transform: SpatialTransform, sources: list[str]) -> int:
    """One line, or the object, about a transform that was written."""
    from .describe import kind_of

    kind = kind_of(transform)
    if len(transform.steps) > 1 and not transform.is_affine and suffix_of(written[0]) in FIELDS and len(written) == 1:
        kind += ", as one displacement field"
    console.say(f"{', '.join(map(str, written))}: {kind}")
    return console.answer({"outputs": written, "kind": kind, "transforms": sources})
