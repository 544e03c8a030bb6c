# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor demo``: a registration with a known answer, or of two files, with a picture."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError
from .console import console_of
from .inputs import check_device, check_image
from .output_files import check_outputs
from .parser import CommandHelp, add_command

__all__ = ["add_parser", "check", "run"]

PICTURE, REPORT = "before_after.png", "report.html"
WRITTEN = ("fixed.nii.gz", "moving.nii.gz", "mask.nii.gz", "warped.nii.gz", "forward_field.nii.gz", "inverse_field.nii.gz",
           "affine.tfm", "run.json", PICTURE, REPORT)  # fmt: skip

TEXT = """\
Register two images and see how well it went.

Without arguments it makes a pair with a known answer, from brain images that the nilearn package ships, and reports the
target registration error. With --fixed and --moving it registers two files. It writes what register does, report.html
with the verdict, and a picture."""

EXAMPLE = """\
monai-locor demo --preset fast --output-dir demo_output"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "demo",
        run,
        check,
        CommandHelp(usage="", summary="try it on a pair with a known answer", text=TEXT, example=EXAMPLE),
    )
    parser.add_argument("--fixed", type=Path, help="image file; by default a pair with a known answer is made")
    parser.add_argument("--moving", type=Path, help="image file of any other modality")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("demo_output"), help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="overwrite files that are no earlier demonstration")
    parser.add_argument(
        "--preset", choices=("default", "fast", "draft", "paper"), default="default", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the made pair and of the registration")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size of the made pair, mm, 1 to 8")
    parser.add_argument("--device", help="such as cpu or cuda; by default chosen by the package")


def check(args: argparse.Namespace) -> None:
    """Refuse what can be wrong before the long work starts; the folder for the outputs is made."""
    if (args.fixed is None) != (args.moving is None):
        raise InputError("--fixed and --moving belong together: give both, or neither for the built-in pair")
    if args.seed < 0:
        raise InputError(f"--seed must not be negative, got {args.seed}")
    check_device(args.device)
    check_image(args.fixed, "fixed image")
    check_image(args.moving, "moving image")
    from ..io.paths import check_output_dir

    missing = [n for n in ("matplotlib", *(() if args.fixed else ("nilearn",))) if find_spec(n) is None]
    if missing:
        raise InputError(f"the demonstration needs {' and '.join(missing)}: pip install 'monai-locor[demo]'")
    args.output_dir = check_output_dir(args.output_dir)
    again = args.force or (args.output_dir / PICTURE).exists()  # an earlier demonstration may be replaced, nothing else
    check_outputs([args.output_dir / name for name in WRITTEN], again, [args.fixed, args.moving])


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    from .demonstration import demonstrate

    console = console_of(args)
    found = demonstrate(args, console.say, PICTURE, REPORT, progress=console.progress)
    verdict = found.get("verdict")
    return console.answer(found, int(verdict is not None and verdict["status"] == "FAIL"))
