# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Entry point of the command line."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from .._version import __version__
from ..errors import InputError
from . import (
    apply,
    check,
    cohort,
    compose,
    convert,
    demo,
    derivatives,
    evaluate,
    info,
    invert,
    jacobian,
    longitudinal,
    register,
    report,
    series,
    template,
    tune,
)
from .console import Console, session, threads
from .inputs import check_paths
from .parser import EXIT_CODES, Parser
from .termination import sigterm_as_interrupt

__all__ = ["COMMANDS", "build_parser", "main"]

COMMANDS = (
    *(register, check, cohort, template, longitudinal, series, apply, info, evaluate, report, derivatives, convert, compose),
    *(invert, jacobian, tune, demo),
)

TEXT = """\
Multimodal deformable image registration with the local learned-basis correlation ratio.

Images are 2-D or 3-D, in world coordinates (RAS, mm): NIfTI, DICOM files and folders, NRRD, MHA, MGZ and all other
formats that ITK or nibabel reads. Transforms map points of the fixed image to points of the moving image, as in ITK,
ANTs and 3D Slicer."""

EXAMPLE = """\
example:
  monai-locor register fixed.nii.gz moving.nii.gz -o out
  monai-locor apply moving_labels.nii.gz -t out -r fixed.nii.gz --labels -o labels_on_fixed.nii.gz
  monai-locor info out/forward_field.nii.gz"""


def build_parser() -> Parser:
    """The parser of all commands. It does not import torch, MONAI or ITK."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(prog="monai-locor", description=TEXT, epilog=f"{EXAMPLE}\n\nexit codes:\n{codes}")
    parser.add_argument("--version", action="version", version=f"monai-locor {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", description="each command has its own --help")
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the name of the program; by default those of ``sys.argv``.

    Returns:
        The exit code, see :data:`monai_locor.cli.parser.EXIT_CODES`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except InputError as error:
        return _refused(Console("--json" in argv), str(error))
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return 2
    args.console = Console(args.json, args.quiet, sys.stdout, args.command)
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run a command and map each way it can end to an exit code."""
    console: Console = args.console
    try:
        with sigterm_as_interrupt(console), session(args), _tidy(getattr(args, "output", None)):
            check_paths(args)
            args.check(args)
            with threads(args.threads):
                return int(args.run(args))
    except InputError as error:
        return _refused(console, str(error))
    except ImportError as error:
        missing = "pip install" in str(error)  # errors of this package name the extra to install
        return _refused(console, str(error)) if missing else _crashed(console, args, error)
    except KeyboardInterrupt:
        return _ended(console, console.interrupted, "interrupted; incomplete outputs are not written")
    except BrokenPipeError:  # for example `monai-locor info x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            return _refused(console, f"{error.filename or 'output'}: {error.strerror}; free space, or choose another folder")
        return _crashed(console, args, error)
    except Exception as error:
        if _is_out_of_memory(error):
            return _refused(console, f"not enough memory ({error}); use images with larger voxels, or --device cpu")
        return _crashed(console, args, error)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: in Python and NumPy, on a GPU, or in torch on the CPU."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _tidy(output: Path | None) -> AbstractContextManager[None]:
    """Remove empty output folders if the command fails."""
    if output is None:
        return nullcontext()
    from ..io.paths import no_empty_folders

    return no_empty_folders(output)


def _refused(console: Console, message: str) -> int:
    return _ended(console, 2, f"error: {message}")


def _crashed(console: Console, args: argparse.Namespace, error: Exception) -> int:
    if args.verbose:
        traceback.print_exception(error)
    logging.getLogger(__name__).debug("internal error", exc_info=error)
    more = "" if args.verbose else "; -v shows where"
    return _ended(console, 3, f"internal error: {type(error).__name__}: {error}; please report it{more}")


def _ended(console: Console, code: int, message: str) -> int:
    line = " ".join(message.split())
    print(line, file=sys.stderr, flush=True)
    return console.answer({"error": line.removeprefix("error: ")}, code)
