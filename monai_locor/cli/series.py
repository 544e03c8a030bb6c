# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor series``: align the frames of a series."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from .carried import INTERPOLATIONS
from .inputs import check_image
from .parser import CommandHelp, add_command
from .sets import CODES, CONTINUE, add_options, check_options, run_set
from .settings import settings_of

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Align the frames of a series (fMRI, diffusion, dynamic contrast) to their mean. All frames are registered to the mean of the
unaligned frames, and in the next round to the mean of the aligned ones; they are interpolated once. Frames may differ in
contrast. The default is --preset fast --transform rigid, without a search for other orientations.

The folder OUT receives
  corrected.nii.gz       the aligned frames, with the time axis of the series
  mean.nii.gz            their mean
  motion.csv             translation (mm), rotation (degrees), displacement and verdict of each frame
  template.nii.gz        the mean that the frames were registered to
  pairs/NNNN/            the transform of each frame
  summary.csv            one row for each frame; summary.html likewise
  rounds/N/              the registrations and the mean of each round
  rounds/frames/         the frames as files, which the registrations refer to

{CONTINUE}"""

EXAMPLE = """\
monai-locor series fmri.nii.gz -o out --mask brain.nii.gz --workers 2
monai-locor series perfusion.nii.gz -o out --transform deformable -n bspline"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "series",
        run,
        check,
        CommandHelp(usage="SERIES -o OUT", summary="align the frames of a series", text=TEXT, example=EXAMPLE, codes=CODES),
    )
    parser.add_argument("series", metavar="SERIES", help="image with several frames")
    parser.add_argument("--mask", metavar="IMAGE", help="mask of the region to align, on any grid")
    names = [name for name, mode in INTERPOLATIONS.items() if mode in MODES]
    text = f"interpolation of the aligned frames: {', '.join(names)} (default: linear)"
    parser.add_argument("-n", "--interpolation", choices=names, default="linear", metavar="NAME", help=text)
    add_options(parser, rounds=2)


MODES = ("bilinear", "bspline", "lanczos")


def check(args: argparse.Namespace) -> None:
    """Check the images and the options."""
    check_image(args.series, "series")
    check_image(args.mask, "mask")
    args.kind = args.kind or "rigid"
    check_options(args, settings_of(args, {"preset": "fast"}))


def run(args: argparse.Namespace) -> int:
    """Align the frames."""
    from .. import sets

    about = {"mask": args.mask, "transform": args.kind, "interpolation": INTERPOLATIONS[args.interpolation]}
    return run_set(args, partial(sets.series, args.series, args.output, **about, **args.options))
