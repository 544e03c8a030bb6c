# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor compose``: several transforms as one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .console import console_of
from .inputs import check_image, check_transforms
from .parser import TRANSFORM_ORDER, add_command, add_from, add_other_image, add_output
from .transforms import files_of, load_transforms
from .writing import add_format, check_transform_output, say_written, write_on

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Write several transforms as one: an affine if all are affine, a composite if the format holds one, else one displacement
field on the grid of the reference.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor compose 1Warp.nii.gz 0GenericAffine.mat -r fixed.nii.gz -o whole_field.nii.gz
monai-locor compose subject_to_template template_to_mni -r subject.nii.gz -o subject_to_mni.h5"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "compose",
        run,
        check,
        usage="TRANSFORM... -o FILE",
        summary="several transforms as one",
        text=TEXT,
        example=EXAMPLE,
    )
    parser.add_argument("transforms", nargs="+", metavar="TRANSFORM", help="one or more, in the order above")
    add_from(parser)
    add_output(parser, "transform file; its name says the format, see convert --list-formats")
    parser.add_argument(
        "-r", "--reference", type=Path, metavar="IMAGE", help="grid of a field (the fixed image's; default: the first field's)"
    )
    add_other_image(parser, "moving")
    add_format(parser)


def check(args: argparse.Namespace) -> None:
    """Refuse inputs that are not there, and outputs that cannot be."""
    check_transforms(args.transforms, args.formats)
    check_image(args.reference, "reference image")
    check_image(args.moving, "moving image")
    check_transform_output(args, [args.reference, args.moving, *files_of(args.transforms)])


def run(args: argparse.Namespace) -> int:
    """Compose."""
    from ..io.grids import read_grid

    grid = None if args.reference is None else read_grid(args.reference)
    moving = None if args.moving is None else read_grid(args.moving, "moving image")
    whole = load_transforms(args.transforms, fixed=grid, moving=moving, formats=args.formats)
    written = write_on(args.output, whole, grid, moving, args.format)
    return say_written(console_of(args), written, whole, args.transforms)
