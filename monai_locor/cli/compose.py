# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor compose``: compose several transforms into one."""

from __future__ import annotations

import argparse
from typing import Any

from .parser import TRANSFORM_ORDER, CommandHelp, add_command
from .transform_output import add_one_transform, check_one_transform, write_one_transform

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Compose several transforms into one: an affine if all are affine, a composite if the format supports it, otherwise a
displacement field on the grid of the reference.

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
        CommandHelp(usage="TRANSFORM... -o FILE", summary="compose several transforms into one", text=TEXT, example=EXAMPLE),
    )
    add_one_transform(parser, "grid of a field (the fixed image's; default: the first field's)", "moving")


def check(args: argparse.Namespace) -> None:
    """Check that the inputs exist and the output can be written."""
    check_one_transform(args, "moving")


def run(args: argparse.Namespace) -> int:
    """Compose."""
    return write_one_transform(args, "moving", inverse=False)
