# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor convert``: convert transforms and points to another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from .carried import is_points, load_carried
from .carried_checks import check_target
from .console import Console, console_of
from .inputs import check_file, check_image, check_transforms
from .output_files import check_outputs, suffix_of
from .parser import TRANSFORM_ORDER, CommandHelp, add_command, add_from, add_output
from .transform_output import check_transform_output, needs_headers, report_written, write_on
from .transforms import files_of, load_transforms

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Convert transforms or lists of points between the formats of ITK, ANTs, NiftyReg, FSL, elastix, FreeSurfer, Learn2Reg
and 3D Slicer. --list-formats shows the name of each format (for --from), how it is recognized and what it needs.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor convert --list-formats
monai-locor convert 1Warp.nii.gz 0GenericAffine.mat -o composite.h5 --fixed fixed.nii.gz
monai-locor convert landmarks.fcsv -o landmarks.csv"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "convert",
        run,
        check,
        CommandHelp(
            usage="INPUT... -o FILE", summary="convert transforms and points to other formats", text=TEXT, example=EXAMPLE
        ),
    )
    parser.add_argument("input", nargs="*", metavar="INPUT", help="transforms, in the order of antsApplyTransforms, or points")
    add_output(parser, "output file; its name determines the format", required=False)
    add_from(parser)
    parser.add_argument("--to", dest="format", metavar="NAME", help="format of the output (default: by its name)")
    text = "the fixed image, for formats that need its grid; of points from ANTs, their image, if all are 3-D with a z of 0"
    parser.add_argument("--fixed", type=Path, metavar="IMAGE", help=text)
    parser.add_argument("--moving", type=Path, metavar="IMAGE", help="the moving image, for formats that need its grid")
    parser.add_argument("--list-formats", action="store_true", help="list the formats of transforms and points, and exit")


def check(args: argparse.Namespace) -> None:
    """Check that the arguments are consistent, the inputs exist and the output can be written."""
    if args.list_formats:
        return
    if not args.input or args.output is None:
        raise InputError("convert: give INPUT and an output with -o, or --list-formats")
    if is_points(args.input[0]):
        _check_points(args)
        return
    check_transforms(args.input, args.formats)
    for role, path in _images(args):
        check_image(path, f"{role} image")
    check_transform_output(args, [args.fixed, args.moving, *files_of(args.input)])


def run(args: argparse.Namespace) -> int:
    """Convert, or list the formats."""
    from ..io.grids import read_grid

    console = console_of(args)
    if args.list_formats:
        return _list(console)
    if is_points(args.input[0]):
        return _points(args, console)
    fixed, moving = (None if p is None else read_grid(p, f"{role} image") for role, p in _images(args))
    transform = load_transforms(args.input, fixed=fixed, moving=moving, formats=args.formats)
    start, end = (args.fixed, args.moving) if needs_headers(args.output, args.format) else (fixed, moving)
    written = write_on(args.output, transform, start, end, args.format)
    return report_written(console, written, transform, args.input)


def _images(args: argparse.Namespace) -> list[tuple[str, Path | None]]:
    return [("fixed", args.fixed), ("moving", args.moving)]


def _check_points(args: argparse.Namespace) -> None:
    if len(args.input) > 1:
        raise InputError(f"{args.input[0]}: only one list of points can be converted at a time; give one INPUT")
    for role, path in _images(args):
        if path is not None and (role == "moving" or args.formats != ["ants"]):
            raise InputError(f"--{role} {path}: is for transforms; leave it out")
    check_image(args.fixed, "fixed image")
    check_file(args.input[0], "fixed points")
    check_target(args.output, "points")
    check_outputs([args.output], args.force, [*args.input, args.fixed])
    for option in (*(args.formats or ()), args.format):
        if option not in (None, "auto", "ants"):
            raise InputError(f"{option}: not a format of points; give ants for a .csv of ANTs, otherwise leave it out")


def _points(args: argparse.Namespace, console: Console) -> int:
    from ..io.points import write_points

    points = load_carried(args.input[0], "points", "fixed", lps=args.formats == ["ants"]).as_flat_as(_point_dims(args)).content
    count, dims = points.points.shape
    write_points(args.output.expanduser(), points, lps=args.format == "ants")
    unsure = dims == 2 and args.formats == ["ants"] and args.fixed is None
    more = "; if they are 3-D and every z is 0, name their image with --fixed" if unsure else ""
    console.say(f"{args.output}: {count} points in {dims}-D{more}")
    return console.answer({"outputs": [args.output], "kind": "points", "count": count, "dims": dims})


def _point_dims(args: argparse.Namespace) -> int:
    """Dimensions of points whose z are all 0 in a CSV file of ANTs, which has a z in 2-D as well."""
    from ..io.grids import read_grid

    if args.fixed is not None:
        return read_grid(args.fixed, "fixed image").dims
    return 2 if suffix_of(args.output) == ".csv" else 3  # those of Slicer have a z


def _list(console: Console) -> int:
    from ..io.transforms import FORMATS, formats_text

    console.say("transforms:")
    for line in formats_text().splitlines():
        console.say(f"  {line}")
    console.say("points: .csv (x,y,z,label; RAS mm), of ANTs with --from or --to ants (LPS); .fcsv and .mrk.json of 3D Slicer")
    shown = (
        "name",
        "suffixes",
        "reads",
        "writes",
        "needs_to_read",
        "needs_to_write",
        "affine_only",
        "description",
        "recognized",
    )
    return console.answer({"formats": [{name: getattr(f, name) for name in (*shown, "recognized")} for f in FORMATS.values()]})
