# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor jacobian``: Jacobian determinant of a transform."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .carried_checks import check_target
from .console import console_of
from .inputs import check_image, check_transforms
from .output_files import check_outputs
from .parser import TRANSFORM_ORDER, CommandHelp, add_command, add_other_image, add_output, add_transform_list
from .transforms import files_of, load_transforms

if TYPE_CHECKING:
    import torch

    from ..geometry import Grid

__all__ = ["add_parser", "check", "folding_line", "run"]

TEXT = f"""\
Jacobian determinant of a transform: statistics and, with -o, an image.

The determinant is 1 where the volume is preserved, 2 where it doubles from fixed to moving, and 0 or less where the
transform folds. With --log the image holds the natural logarithm; folded voxels get log(1e-9).

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor jacobian out -o jacobian.nii.gz
monai-locor jacobian 1Warp.nii.gz 0GenericAffine.mat -r fixed.nii.gz --mask brain.nii.gz --json"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "jacobian",
        run,
        check,
        CommandHelp(
            usage="TRANSFORM...", summary="Jacobian determinant and folding of a transform", text=TEXT, example=EXAMPLE
        ),
    )
    add_transform_list(parser)
    add_other_image(parser, "moving")
    add_output(parser, "image of the determinant (.nii.gz, .nii, .nrrd, .mha)", required=False)
    parser.add_argument(
        "-r", "--reference", type=Path, metavar="IMAGE", help="grid to evaluate on (default: that of the first field)"
    )
    parser.add_argument("--mask", type=Path, metavar="IMAGE", help="mask in fixed space for the statistics")
    parser.add_argument("--inverse", action="store_true", help="use the inverse transform")
    parser.add_argument("--log", action="store_true", help="write the natural logarithm")


def check(args: argparse.Namespace) -> None:
    """Check that the inputs exist and the output can be written."""
    if args.log and args.output is None:
        raise InputError("--log: applies to the output image; name one with -o")
    check_transforms(args.transforms, args.formats)
    check_image(args.reference, "reference image")
    check_image(args.moving, "moving image")
    check_image(args.mask, "mask")
    if args.output is not None:
        check_target(args.output, "image")
        check_outputs([args.output], args.force, [args.reference, args.moving, args.mask, *files_of(args.transforms)])


def run(args: argparse.Namespace) -> int:
    """Compute the statistics and write the image."""
    from ..io.grids import read_grid
    from ..io.images import write_image
    from ..metrics import jacobian_determinant, jacobian_statistics

    console = console_of(args)
    grid = None if args.reference is None else read_grid(args.reference)
    moving = None if args.moving is None else read_grid(args.moving, "moving image")
    grids = {"fixed": moving or grid, "moving": None} if args.inverse else {"fixed": grid, "moving": moving}
    transform = load_transforms(args.transforms, inverse=args.inverse, **grids, formats=args.formats)
    grid = grid or transform.domain
    if grid is None:
        raise InputError("an affine transform has no grid of its own: name an image with -r")
    field = transform.displacement(grid)
    found = jacobian_statistics(field, grid, mask_on(args.mask, grid))
    console.say(folding_line(found))
    if args.output is not None:
        values = jacobian_determinant(field, grid)
        write_image(args.output.expanduser(), values.clamp(min=1e-9).log() if args.log else values, grid)
        console.say(f"{args.output}: {'log ' if args.log else ''}Jacobian determinant")
    return console.answer({"jacobian": found, "output": args.output, "transforms": args.transforms})


def mask_on(path: Path | None, grid: Grid) -> torch.Tensor | None:
    """A mask on a grid, resampled if necessary, ``(1, *grid.shape)``.

    Raises:
        InputError: see :func:`monai_locor.io.masks.mask_on_grid`.
    """
    if path is None:
        return None
    from ..io.masks import mask_on_grid

    return mask_on_grid(path, "fixed", grid, "nearest")


def folding_line(found: dict[str, Any]) -> str:
    """Jacobian statistics as a line of text."""
    ndv = "not measured" if found["ndv"] is None else f"{found['ndv']:.2g} %"
    return (
        f"Jacobian determinant {found['min']:.3g} to {found['max']:.3g}, 1 % below {found['p01']:.3g} and above "
        f"{found['p99']:.3g}; folding {found['folding_percent']:.2g} % of voxels, non-diffeomorphic volume {ndv}"
    )
