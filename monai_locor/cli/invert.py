# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor invert``: the inverse of a transform."""

from __future__ import annotations

import argparse
from typing import Any

from .parser import TRANSFORM_ORDER, CommandHelp, add_command
from .transform_output import add_one_transform, check_one_transform, write_one_transform

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Invert one transform, or the composition of several.

Affine maps are inverted exactly. An inverse stored with the transform (ITK composite, an output folder of `register`) is
used as it is. Other displacement fields are inverted by fixed-point iteration.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor invert out/affine.tfm -o inverse_affine.tfm
monai-locor invert warp.nii.gz -r moving.nii.gz -o inverse_warp.nii.gz"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "invert",
        run,
        check,
        CommandHelp(usage="TRANSFORM... -o FILE", summary="invert a transform", text=TEXT, example=EXAMPLE),
    )
    add_one_transform(parser, "grid of the inverse field (the moving image's; default: derived)", "fixed")


def check(args: argparse.Namespace) -> None:
    """Check that the inputs exist and the output can be written."""
    check_one_transform(args, "fixed")


def run(args: argparse.Namespace) -> int:
    """Invert."""
    return write_one_transform(args, "fixed", inverse=True)
