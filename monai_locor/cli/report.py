# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor report``: the page that shows a registration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..roles import ROLES
from .console import console_of
from .inputs import check_image
from .output_files import check_outputs
from .parser import CommandHelp, add_command, add_output
from .recorded import is_unchanged, recorded_mask
from .result_text import verdict_lines, warning_lines

__all__ = ["add_parser", "check", "run"]

TEXT = """\
Write report.html for an output folder of `register`: one file that opens offline, with images, transform and verdict.
Label maps given to `register` are shown with their Dice."""

EXAMPLE = """\
monai-locor report out
monai-locor report out -o elsewhere/report.html --fixed moved/fixed.nii.gz --moving moved/moving.nii.gz
monai-locor report out --force --fixed-labels fixed_seg.nii.gz --moving-labels moving_seg.nii.gz"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "report",
        run,
        check,
        CommandHelp(usage="OUT", summary="write the HTML report of a registration", text=TEXT, example=EXAMPLE),
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="output folder of register")
    add_output(parser, "HTML file (default: OUT/report.html)", required=False)
    parser.add_argument("--fixed", type=Path, metavar="IMAGE", help="the fixed image, if its file has moved")
    parser.add_argument("--moving", type=Path, metavar="IMAGE", help="the moving image, likewise")
    for role in ROLES:
        text = f"label map in {role} space (default: those given to register); may be given several times"
        parser.add_argument(f"--{role}-labels", action="append", default=[], metavar="IMAGE", type=Path, help=text)


def check(args: argparse.Namespace) -> None:
    """Check that the folder holds a registration, the images exist and the report can be written."""
    from ..registration.manifest import RunManifest

    folder = args.folder.expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the output folder of register")
    RunManifest.load(folder)
    check_image(args.fixed, "fixed image")
    check_image(args.moving, "moving image")
    for role in ROLES:
        for path in getattr(args, f"{role}_labels"):
            check_image(path, f"{role} labels")
    check_outputs([_page(args)], args.force, [args.fixed, args.moving, *args.fixed_labels, *args.moving_labels])


def _page(args: argparse.Namespace) -> Path:
    folder, output = args.folder, args.output
    page: Path = folder / "report.html" if output is None else output
    return page.expanduser()


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    from ..registration import RegistrationResult
    from ..report.html import write_report

    console, folder, page = console_of(args), args.folder.expanduser(), _page(args)
    result = RegistrationResult.load(folder, args.fixed, args.moving, need_images=True)
    masks: dict[str, Any] = {f"{role}_mask": recorded_mask(result.arguments, f"{role}_mask") for role in ROLES}
    labels: dict[str, Any] = {
        f"{role}_labels": getattr(args, f"{role}_labels") or _carried_labels(folder, role) for role in ROLES
    }
    write_report(page, result, **masks, **labels)
    if result.verdict is not None:
        for line in verdict_lines(result.verdict):
            console.say(line)
    for line in warning_lines(result.warnings, result.doubts):
        console.say(line)
    console.say(f"report: {page}")
    return console.answer({"output": page, "verdict": None if result.verdict is None else result.verdict.to_dict()})


def _carried_labels(folder: Path, role: str) -> list[str]:
    """Label maps that ``register`` transformed with an image, if they are unchanged."""
    from ..registration.manifest import RunManifest

    carried = RunManifest.load(folder).content.get("carried", [])
    of_role = [each for each in carried if each["kind"] == "labels" and each["space"] == role]
    return [each["input"] for each in of_role if is_unchanged(each["input"], each["sha256"], f"{role} labels")]
