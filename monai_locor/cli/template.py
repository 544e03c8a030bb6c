# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor template``: build a template of many subjects."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from .parser import CommandHelp, add_command
from .sets import CODES, CONTINUE, add_options, add_template_options, check_options, run_set, template_options
from .settings import settings_of

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Build an unbiased template of images of one or several contrasts, and register all images to it. The order of the images has
no effect. The registrations run on a Dask cluster, see cohort.

All images are registered to one of them without a deformation, and their mean is moved to their mean pose. In each round,
all images are registered to the template, averaged and sharpened, and the template is moved to the mean pose and shape.
At the end, all images are registered to the last template.

LIST is one of
  a CSV file             column image; optional: id, contrast, mask, labels (a label map, transformed to the template)
  a JSON file            a datalist of MONAI with the same names

Relative paths are relative to the folder of the file. With several contrasts, all images are registered to the template of
the reference contrast; those of each other contrast are averaged to a template in the same space.

The folder OUT receives
  template.nii.gz        the template; template_CONTRAST.nii.gz for each other contrast
  template.json          images, contrasts and rounds
  pairs/ID/              outputs of register for each image (moving) and the template (fixed)
  summary.csv            one row for each image
  summary.html           the same with thumbnails
  rounds/N/              the registrations and the template of each round

{CONTINUE}"""

EXAMPLE = """\
monai-locor template heads.csv -o out --preset fast --workers 2
monai-locor template heads.csv -o out --reference T1 --voxel-size 1 --rounds 4
monai-locor apply atlas.nii.gz -t '[out/pairs/sub-01,1]' -r sub-01.nii.gz --labels -o atlas_on_sub-01.nii.gz"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "template",
        run,
        check,
        CommandHelp(usage="LIST -o OUT", summary="build a template of many subjects", text=TEXT, example=EXAMPLE, codes=CODES),
    )
    parser.add_argument("list", type=Path, metavar="LIST", help="CSV or JSON file")
    parser.add_argument("--section", metavar="NAME", help="name of the list in a JSON file (default: the first known one)")
    add_template_options(parser)
    add_options(parser, rounds=3)


def check(args: argparse.Namespace) -> None:
    """Check the list and the options; files are checked by :func:`monai_locor.sets.template`."""
    from ..sets.subjects import checked_subjects, read_subjects, reference_contrast

    args.subjects = checked_subjects(read_subjects(args.list, args.section))
    reference_contrast(args.subjects, args.reference)
    check_options(args, settings_of(args))


def run(args: argparse.Namespace) -> int:
    """Build the template."""
    from .. import sets

    return run_set(args, partial(sets.template, args.subjects, args.output, **args.options, **template_options(args)))
