# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Options and outputs that ``template``, ``longitudinal`` and ``series`` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_thresholds
from .cohort import add_machine, check_machine
from .console import Console, console_of
from .parser import positive_number, whole_number
from .settings import add_settings, read_object

if TYPE_CHECKING:
    from ..registration import RegistrationConfig
    from ..sets import Template

__all__ = ["CODES", "CONTINUE", "add_options", "add_template_options", "check_options", "run_set", "template_options"]

CODES = "0 all images have verdict PASS or WARN, 1 one failed or has verdict FAIL"
CONTINUE = """\
The same command continues after an interruption: finished registrations are skipped, failed ones are tried again. If the
inputs or settings have changed, it stops; --force registers again what they affect."""


def add_options(parser: argparse._ActionsContainer, rounds: int) -> None:
    """``-o``, ``--force``, ``--rounds``, ``--outputs``, settings and machine.

    Args:
        rounds: default number of rounds.
    """
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="folder for the outputs")
    parser.add_argument("--force", action="store_true", help="register again what has changed")
    text = f"number of rounds (default: {rounds})"
    parser.add_argument("--rounds", type=whole_number(1), default=rounds, metavar="N", help=text)
    parser.add_argument("--outputs", metavar="NAME,...", help="outputs of each final registration, see register --help")
    add_thresholds(parser)
    add_settings(parser.add_argument_group("settings"))
    add_machine(parser.add_argument_group("machine"))


def add_template_options(parser: argparse._ActionsContainer) -> None:
    """``--reference``, ``--voxel-size`` and ``--no-sharpening``."""
    text = "contrast that all images are registered to (default: the most frequent one)"
    parser.add_argument("--reference", metavar="CONTRAST", help=text)
    text = "voxel size of the template (default: that of the images)"
    parser.add_argument("--voxel-size", type=positive_number, metavar="MM", help=text)
    parser.add_argument("--no-sharpening", action="store_true", help="do not sharpen the template")


def template_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`monai_locor.sets.template` from the options of :func:`add_template_options`."""
    return {"reference": args.reference, "voxel_size": args.voxel_size, "sharpen": not args.no_sharpening}


def check_options(args: argparse.Namespace, config: RegistrationConfig) -> None:
    """Check the options of :func:`add_options`, and store them in ``args.options`` as arguments.

    Raises:
        InputError: for invalid options.
        ImportError: if an extra is not installed.
    """
    from ..cohort.api import requested
    from ..cohort.scheduling import check_dask

    check_machine(args)
    thresholds = None if args.thresholds is None else read_object(args.thresholds.expanduser(), "--thresholds")
    outputs = None if args.outputs is None else [name.strip() for name in args.outputs.split(",")]
    requested(config, outputs, args.seed, thresholds)
    check_dask()
    names = ("rounds", "seed", "device", "scheduler", "workers", "threads", "timeout", "force")
    args.options = {"preset": config, "outputs": outputs, "thresholds": thresholds, **{n: getattr(args, n) for n in names}}


def run_set(args: argparse.Namespace, build: Callable[..., Template]) -> int:
    """Build a set and print its result."""
    console = console_of(args)
    try:
        found = build(progress=console.progress)
    except KeyboardInterrupt:
        console.say(f"interrupted; run the same command again to continue in {args.output}")
        return console.answer({"error": "interrupted", "folder": args.output}, console.interrupted)
    return _say(console, found)


def _say(console: Console, found: Template) -> int:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.counts.items()))
    shifts = ", ".join(f"{each['shift_mm']:.3g}" for each in found.rounds[1:])
    console.say(f"{len(found.rows)} images: {counts}")
    if shifts:
        console.say(f"mean shift of the template in each round: {shifts} mm")
    for row in [row for row in found.rows if row["state"] == "failed"]:
        console.say(f"  failed {row['id']}: {row['error']}")
    files = [path for path in found.files if path.parent == found.folder]
    console.say(f"in {found.folder}: {', '.join(path.name for path in files)}, summary.html, pairs/")
    values = {"folder": found.folder, "counts": found.counts, "rounds": found.rounds, "files": files, "images": found.rows}
    return console.answer(values, int(bool({"FAIL", "failed"} & found.counts.keys())))
