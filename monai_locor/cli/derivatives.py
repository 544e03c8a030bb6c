# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor derivatives``: results of registrations as a BIDS derivative dataset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bids.files import XFM_ENDINGS, check_ending
from .console import Console, console_of
from .parser import CommandHelp, add_command

if TYPE_CHECKING:
    from ..bids import Derivatives

__all__ = ["add_parser", "add_xfm", "check", "run", "say_derivatives"]

TEXT = """\
Write results of registrations of BIDS images as a BIDS derivative dataset, or add them to one.

RESULTS is the output folder of register, or of cohort for all pairs of its last list that are done. The folder DIR
receives, as far as they are among the outputs of the registration, here of T1w (moving) to T2w (fixed) of sub-01, in
sub-01/anat
  sub-01_space-T2w_desc-registered_T1w.nii.gz    the moving image on the fixed grid, and vice versa
  sub-01_from-T1w_to-T2w_mode-image_xfm.h5       the transform of the moving image; from-T2w_to-T1w: the inverse
  sub-01_from-T1w_to-T2w_mode-image_SUFFIX       its jacobian.nii.gz, error.nii.gz, missing.nii.gz, report.html

Each has a JSON sidecar: sources, spatial reference, verdict, measures, settings. The entities are those of the moving image.
Labels of spaces contain those that only the fixed image has (acq-a_T2w: acqaT2w), or name its template.

A repeated command writes nothing. If files of another registration of the same images are there, it stops; --force
replaces them."""

EXAMPLE = """\
monai-locor cohort bids -o out --fixed T2w --moving T1w
monai-locor derivatives out -o bids/derivatives/monai_locor
monai-locor derivatives out_01 out_02 -o derivatives --xfm x5"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "derivatives",
        run,
        check,
        CommandHelp(
            usage="RESULTS... -o DIR",
            summary="results of BIDS images as a BIDS derivative dataset",
            text=TEXT,
            example=EXAMPLE,
        ),
    )
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="output folders of register or cohort")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="the derivative dataset")
    parser.add_argument("--force", action="store_true", help="replace files of other registrations of the same images")
    add_xfm(parser)


def add_xfm(group: argparse._ActionsContainer) -> None:
    """``--xfm``."""
    text = "format of the transforms: h5 (ITK, default), x5 (nitransforms; needs h5py), nii.gz (ITK displacement field)"
    group.add_argument("--xfm", choices=[ending.removeprefix(".") for ending in XFM_ENDINGS], default="h5", help=text)


def check(args: argparse.Namespace) -> None:
    """Check the options and that there are results; their images are checked before the first file is written."""
    from ..bids.derivatives import result_folders

    check_ending(f".{args.xfm}")
    for path in args.results:
        result_folders(path)


def run(args: argparse.Namespace) -> int:
    """Write the files."""
    from ..bids import write_derivatives

    console = console_of(args)
    found = write_derivatives(args.results, args.output, xfm=f".{args.xfm}", force=args.force)
    say_derivatives(console, found)
    return console.answer({"folder": found.folder, "written": found.written, "kept": found.kept, "left_out": found.left_out})


def say_derivatives(console: Console, found: Derivatives) -> None:
    """One line about what was written, and one about what was left out."""
    before = f"; {found.kept} were there before" if found.kept else ""
    console.say(f"BIDS derivatives in {found.folder}: {len(found.written)} files written{before}")
    if found.left_out:
        names = ", ".join(folder.name for folder in found.left_out)
        console.say(f"  left out, because summary.csv does not have them as done: {names}")
