# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Transform outputs of ``invert``, ``compose`` and ``convert``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .console import Console, console_of
from .inputs import check_image, check_transforms
from .output_files import check_outputs, suffix_of
from .parser import add_other_image, add_output, add_transform_list
from .transforms import files_of, load_transforms

if TYPE_CHECKING:
    from ..geometry import Grid, SpatialTransform

__all__ = [
    "add_one_transform",
    "check_one_transform",
    "check_transform_output",
    "needs_headers",
    "report_written",
    "write_on",
    "write_one_transform",
]

FIELD_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")  # hold one displacement field


def add_one_transform(parser: argparse._ActionsContainer, reference: str, other: str) -> None:
    """The arguments of ``compose`` and ``invert``, which read transforms and write one.

    Args:
        reference: help text of ``-r``.
        other: ``"fixed"`` or ``"moving"``, the image at the other end of the output.
    """
    add_transform_list(parser)
    add_output(parser, "transform file; its name says the format, see convert --list-formats")
    parser.add_argument("-r", "--reference", type=Path, metavar="IMAGE", help=reference)
    add_other_image(parser, other)
    parser.add_argument("--format", metavar="NAME", help="of the output (default: by its name; see convert --list-formats)")


def check_one_transform(args: argparse.Namespace, other: str) -> None:
    """Check that the inputs exist and the output can be written, see :func:`add_one_transform`.

    Raises:
        InputError: if not.
    """
    images = {"reference": args.reference, other: getattr(args, other)}
    check_transforms(args.transforms, args.formats)
    for role, path in images.items():
        check_image(path, f"{role} image")
    check_transform_output(args, [*images.values(), *files_of(args.transforms)])


def write_one_transform(args: argparse.Namespace, other: str, inverse: bool) -> int:
    """Read the transforms and write their composition or its inverse, see :func:`add_one_transform`."""
    from ..io.grids import read_grid

    path = getattr(args, other)
    reference = None if args.reference is None else read_grid(args.reference)
    far = None if path is None else read_grid(path, f"{other} image")
    transform = load_transforms(args.transforms, inverse=inverse, fixed=reference, moving=far, formats=args.formats)
    start, end = (args.reference, path) if needs_headers(args.output, args.format) else (reference, far)
    written = write_on(args.output, transform, start, end, args.format)
    return report_written(console_of(args), written, transform, args.transforms)


def check_transform_output(args: argparse.Namespace, inputs: Iterable[Path | None]) -> None:
    """Refuse an output that cannot be written, before anything is computed.

    Raises:
        InputError: for an unknown format or a name without one; and as :func:`.output_files.check_outputs`.
    """
    from ..io.transforms import planned_files

    check_outputs(planned_files(args.output.expanduser(), args.format), args.force, inputs)


def needs_headers(path: Path, format: str | None) -> bool:
    """Whether an output of this name and format refers to the images themselves, not only to their grids."""
    from ..io.transforms import FORMATS
    from ..io.transforms.detect import format_of_name

    return FORMATS[format or format_of_name(path)].header_writer is not None


def write_on(
    path: Path, transform: SpatialTransform, fixed: Grid | Path | None, moving: Grid | Path | None, format: str | None
) -> list[Path]:
    """Write a transform; without a fixed grid, on the grid of its first deformation."""
    from ..io.transforms import write_transform

    return write_transform(path.expanduser(), transform, format=format, fixed=fixed or transform.domain, moving=moving)


def report_written(console: Console, written: list[Path], transform: SpatialTransform, sources: list[str]) -> int:
    """Print one line, or the JSON object, about a transform that was written."""
    from .describe import kind_of

    kind = kind_of(transform)
    if len(transform.steps) > 1 and not transform.is_affine and suffix_of(written[0]) in FIELD_SUFFIXES and len(written) == 1:
        kind += ", as one displacement field"
    console.say(f"{', '.join(map(str, written))}: {kind}")
    return console.answer({"outputs": written, "kind": kind, "transforms": sources})
