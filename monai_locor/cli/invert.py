# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor invert``: the inverse of a transform."""

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
Write the inverse of one or more transforms, as one.

Affine maps are inverted exactly; where a file holds its inverse (ITK composite, an output folder of `register`) that is
used; a displacement field is inverted by fixed-point iteration.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor invert out/affine.tfm -o inverse_affine.tfm
monai-locor invert warp.nii.gz -r moving.nii.gz -o inverse_warp.nii.gz"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "invert", run, check, usage="TRANSFORM... -o FILE", summary="invert a transform", text=TEXT, example=EXAMPLE
    )
    parser.add_argument("transforms", nargs="+", metavar="TRANSFORM", help="one or more, in the order above")
    add_from(parser)
    add_output(parser, "transform file; its name says the format, see convert --list-formats")
    parser.add_argument(
        "-r", "--reference", type=Path, metavar="IMAGE", help="grid of the inverse field (the moving image's; default: derived)"
    )
    add_other_image(parser, "fixed")
    add_format(parser)


def check(args: argparse.Namespace) -> None:
    """Refuse inputs that are not there, and outputs that cannot be."""
    check_transforms(args.transforms, args.formats)
    check_image(args.reference, "reference image")
    check_image(args.fixed, "fixed image")
    check_transform_output(args, [args.reference, args.fixed, *files_of(args.transforms)])


def run(args: argparse.Namespace) -> int:
    """Invert."""
    from ..io.grids import read_grid

    grid = None if args.reference is None else read_grid(args.reference)
    fixed = None if args.fixed is None else read_grid(args.fixed, "fixed image")
    inverse = load_transforms(args.transforms, inverse=True, fixed=grid, moving=fixed, formats=args.formats)
    written = write_on(args.output, inverse, grid, fixed, args.format)
    return say_written(console_of(args), written, inverse, args.transforms)
