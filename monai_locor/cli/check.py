# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor check``: the verdict on a transform from any tool."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..roles import ROLES
from .arguments import add_channels, add_masks, add_thresholds, check_inputs, thresholds_of, with_channels
from .console import console_of, write_json
from .inputs import check_transforms
from .output_files import check_outputs
from .parser import TRANSFORM_ORDER, CommandHelp, add_command, add_from
from .recorded import recorded_mask
from .result_text import result_values, transform_lines, warning_lines
from .transforms import check_formats, files_of, load_transforms

if TYPE_CHECKING:
    from ..registration import RegistrationResult

__all__ = ["add_parser", "check", "run"]


TEXT = f"""\
Judge a transform from any tool without registering: the verdict of register (PASS, WARN or FAIL, with reasons), and its
report. The transform maps points of FIXED to points of MOVING; its inverse is computed unless it is given or stored with it.

For the output folder of register the verdict is that of the registration if the images are the same; its masks and
channels are used unless others are given. For other transforms, the course of the optimization is unknown and not judged.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor check flair.nii.gz t1.nii.gz out
monai-locor check flair.nii.gz t1.nii.gz ants1Warp.nii.gz ants0GenericAffine.mat --report check.html
monai-locor check fixed.nii.gz moving.nii.gz affine.lta --fixed-mask brain.nii.gz -o check.json"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "check",
        run,
        check,
        CommandHelp(
            usage="FIXED MOVING TRANSFORM...",
            summary="judge a transform from any tool",
            text=TEXT,
            example=EXAMPLE,
            codes="0 verdict PASS or WARN, 1 verdict FAIL",
        ),
    )
    parser.add_argument("fixed", metavar="FIXED", help="fixed image: a file, a DICOM folder, or FOLDER/UID of one series in it")
    parser.add_argument("moving", metavar="MOVING", help="moving image, likewise")
    parser.add_argument("transforms", nargs="+", metavar="TRANSFORM", help="one or more, in the order above")
    add_from(parser)
    text = "transform from moving to fixed points; repeat for several, as TRANSFORM, with its --from after those of TRANSFORM"
    parser.add_argument("--inverse-transform", action="append", metavar="FILE", help=text)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSON file of the check, as run.json of register")
    parser.add_argument("--report", type=Path, metavar="FILE", help="HTML report with images and the verdict")
    text = "expected registration error of every fixed voxel, lower and upper bound (.nii.gz, 3 channels, mm)"
    parser.add_argument("--error-map", type=Path, metavar="FILE", help=text)
    parser.add_argument("--force", action="store_true", help="overwrite existing outputs")
    add_masks(parser)
    add_channels(parser)
    add_thresholds(parser)


def check(args: argparse.Namespace) -> None:
    """Check that the inputs exist and the outputs can be written."""
    items = [*args.transforms, *(args.inverse_transform or ())]
    check_inputs(_images(args))
    check_transforms(items, args.formats)
    thresholds_of(args.thresholds)
    outputs = [path for path in (args.output, args.report, args.error_map) if path is not None]
    inputs = [args.fixed, args.moving, args.fixed_mask, args.moving_mask, args.thresholds, *files_of(items)]
    check_outputs(outputs, args.force, inputs)


def run(args: argparse.Namespace) -> int:
    """Judge, write and print."""
    from ..run_log import collecting

    console = console_of(args)
    with collecting():  # warnings about the inputs are part of the result
        result = _checked(args)
    values = result_values(result)
    written = {}
    if args.output is not None:
        written["output"] = write_json(args.output.expanduser(), result.summary())
    if args.report is not None:
        from ..report.html import write_report

        written["report"] = write_report(args.report, result, **_shown_masks(args, result))
    if args.error_map is not None and result.error_mm is not None:
        from ..registration.error_files import write_error_map

        written["error map"] = write_error_map(args.error_map.expanduser(), result.error_mm)[0]
    for line in [*transform_lines(values, result.verdict), *warning_lines(result.warnings, result.doubts)]:
        console.say(line)
    for name, path in written.items():
        console.say(f"{name}: {path}")
    failed = result.verdict is not None and result.verdict.status == "FAIL"
    return console.answer({**values, "outputs": written}, int(failed))


def _shown_masks(args: argparse.Namespace, result: RegistrationResult) -> dict[str, Any]:
    """The masks that the verdict used: those of the options, or those of the registration."""
    recorded = result.arguments if result.registered else {}
    names = ("fixed_mask", "moving_mask")
    return {name: getattr(args, name) or recorded_mask(recorded, name) for name in names}


def _images(args: argparse.Namespace) -> dict[str, Any]:
    """Images and masks by name."""
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    return with_channels(args, {name: getattr(args, name) for name in names if getattr(args, name) is not None})


def _checked(args: argparse.Namespace) -> RegistrationResult:
    from .. import check as judged
    from ..registration.described import described_inputs

    images = _images(args)
    given = {"transform": args.transforms, "inverse": args.inverse_transform}
    result = judged(**images, **_transforms(args, images), thresholds=thresholds_of(args.thresholds))
    if args.formats is None or result.registered:
        return result
    return dataclasses.replace(result, arguments={**result.arguments, **described_inputs(given)})


def _transforms(args: argparse.Namespace, images: dict[str, Any]) -> dict[str, Any]:
    """Transform and inverse, read here if their formats are given."""
    first, second = args.transforms, args.inverse_transform or []
    if args.formats is None:
        return {"transform": _one_or_list(first), "inverse": _one_or_list(second) if second else None}
    from ..io.grids import as_grid

    fixed, moving = (as_grid(images[role], f"{role} image") for role in ROLES)
    formats = [name or "auto" for name in check_formats(args.formats, len(first) + len(second))]
    forward = load_transforms(first, fixed=fixed, moving=moving, formats=formats[: len(first)])
    if not second:
        return {"transform": forward}
    return {
        "transform": forward,
        "inverse": load_transforms(second, fixed=moving, moving=fixed, formats=formats[len(first) :]),
    }


def _one_or_list(items: Sequence[str]) -> str | list[str]:
    return items[0] if len(items) == 1 else list(items)
