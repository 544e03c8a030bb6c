# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor longitudinal``: build the midpoint of the visits of one subject."""

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
Build the midpoint of two or more visits of one subject, and register all visits to it. It starts at the mean of the rigid
poses, for two visits halfway between them, and moves to the mean pose and shape in each round. No visit is favored: each is
interpolated once, and the order of the visits has no effect.

VISIT is an image. A single CSV or JSON file is a list as for template, with ids, contrasts and masks. Without a list, visits
are named by their files, and by their folders if the names of the files are equal.

The folder OUT receives the files of template. jacobian.nii.gz of each visit is its volume relative to the midpoint: the ratio
of two visits is the change from one to the other. With --transform rigid, only the poses are aligned.

{CONTINUE}"""

EXAMPLE = """\
monai-locor longitudinal ses-1/t1.nii.gz ses-2/t1.nii.gz ses-3/t1.nii.gz -o out
monai-locor longitudinal visits.csv -o out --preset fast
monai-locor longitudinal before.nii.gz after.nii.gz -o out --transform rigid"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "longitudinal",
        run,
        check,
        CommandHelp(
            usage="VISIT VISIT ... -o OUT",
            summary="build the midpoint of the visits of one subject",
            text=TEXT,
            example=EXAMPLE,
            codes=CODES,
        ),
    )
    parser.add_argument("visits", nargs="+", metavar="VISIT", help="images, or one list")
    add_template_options(parser)
    add_options(parser, rounds=2)


def check(args: argparse.Namespace) -> None:
    """Check the visits and the options; files are checked by :func:`monai_locor.sets.longitudinal`."""
    from ..sets.subjects import checked_subjects, named_visits, read_subjects, reference_contrast

    is_list = len(args.visits) == 1 and Path(args.visits[0]).suffix.lower() in (".csv", ".json", ".tsv")
    args.subjects = checked_subjects(read_subjects(args.visits[0]) if is_list else named_visits(args.visits))
    reference_contrast(args.subjects, args.reference)
    check_options(args, settings_of(args))


def run(args: argparse.Namespace) -> int:
    """Build the midpoint."""
    from .. import sets

    return run_set(args, partial(sets.longitudinal, args.subjects, args.output, **args.options, **template_options(args)))
