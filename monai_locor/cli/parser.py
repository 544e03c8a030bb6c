# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parsers and the options that commands share."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError

__all__ = [
    "EXIT_CODES",
    "TRANSFORM_ORDER",
    "Parser",
    "UsageError",
    "add_command",
    "add_device",
    "add_from",
    "add_other_image",
    "add_output",
    "add_transforms",
    "whole_number",
]

WIDEST = 100  # columns of a help text
EXIT_CODES = {
    0: "done; of a registration: its verdict is PASS or WARN",
    1: "done, but the verdict of the registration is FAIL; its outputs are written all the same",
    2: "bad input or usage: one line on stderr names the file or option, its value and the remedy",
    3: "internal error, please report it; -v shows where it happened",
    130: "interrupted (Ctrl-C); register writes its best result so far, labeled as interrupted",
    143: "the same after SIGTERM, which batch systems send when the time is up",
}


class UsageError(InputError):
    """A command line that cannot be understood."""


class _Formatter(argparse.HelpFormatter):
    """Paragraphs are filled to the width of the terminal; lines that begin with a space stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns - 2, WIDEST))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """``-o, --output FILE``, in all versions of Python."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(self._paragraph(part, width, indent) for part in text.strip().split("\n\n"))

    def _paragraph(self, text: str, width: int, indent: str) -> str:
        first = next((i for i, line in enumerate(text.splitlines()) if line.startswith(" ")), None)
        lines = text.splitlines()
        head, rest = (lines, []) if first is None else (lines[:first], lines[first:])
        filled = [textwrap.fill(" ".join(head), width, initial_indent=indent, subsequent_indent=indent)] if head else []
        return "\n".join(filled + [indent + line for line in rest])


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions of one line, and whose options cannot be abbreviated."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{' '.join(message.split())}; see {self.prog} --help")


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    check: Callable[[argparse.Namespace], None],
    *,
    usage: str,
    summary: str,
    text: str,
    example: str,
    codes: str = "0 done",
) -> Parser:
    """A command's parser, with the options that all of them have.

    Args:
        commands: what ``add_subparsers`` returned.
        name: of the command.
        run: what it does: parsed arguments to exit code.
        check: refuses arguments and files that cannot be, before ``run``. It imports neither torch nor MONAI nor ITK, so
            that a typo is told at once.
        usage: what follows the command's name.
        summary: one line, for the list of commands.
        text: what it does, in paragraphs; lines that begin with a space are shown as they are.
        example: command lines to copy.
        codes: exit codes of success.
    """
    lines = "\n".join(f"  {line}" for line in example.strip().splitlines())
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=text.strip(),
        usage=f"monai-locor {name} {usage} [options]",
        epilog=f"example:\n{lines}\n\nexit codes: {codes}, 2 bad input, 3 internal error, 130 or 143 interrupted",
    )
    parser.set_defaults(run=run, check=check, command=name)
    general = parser.add_argument_group("general")
    general.add_argument("--json", action="store_true", help="print one JSON object to stdout and nothing else")
    general.add_argument("-v", "--verbose", action="count", default=0, help="say more on stderr; -vv for everything")
    general.add_argument("-q", "--quiet", action="store_true", help="only errors: no summary, warnings or progress bar")
    general.add_argument("--threads", type=whole_number(1), metavar="N", help="CPU threads (default: torch's choice)")
    return parser


def add_output(parser: argparse._ActionsContainer, what: str, metavar: str = "FILE", required: bool = True) -> None:
    """``-o`` and ``--force``."""
    parser.add_argument("-o", "--output", type=Path, metavar=metavar, required=required, help=what)
    parser.add_argument("--force", action="store_true", help="overwrite outputs that exist already")


def add_device(parser: argparse._ActionsContainer) -> None:
    """``--device`` and ``--seed``."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ... or two, as in cuda:0,cuda:1, one for each direction (default: a GPU if there is one)",
    )
    parser.add_argument("--seed", type=whole_number(0), metavar="N", help="of all random numbers (default: 0)")


TRANSFORM_ORDER = """\
Several transforms are given in the order of antsApplyTransforms: points of the fixed image go through the first one
first, so the moving image goes through the last one first: 1Warp.nii.gz, then 0GenericAffine.mat. '[FILE,1]' is the
inverse of a file, as in ANTs. The output folder of register and the prefix of an ANTs run are also transforms.

What a file holds is told by its content and name, see convert --list-formats. Where it can be read in several ways it is
refused, with the names to choose from: --from FORMAT, once for all transforms, or once for each ('auto' for those that
need none)."""


def add_transforms(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """``-t``, once for each of a list of transforms, see :func:`monai_locor.cli.transforms.load_transforms`."""
    parser.add_argument(
        "-t",
        "--transform",
        dest="transforms",
        action="append",
        default=None if required else [],
        metavar="FILE",
        required=required,
        help="a transform; give -t for each, in the order of antsApplyTransforms; '[FILE,1]' for an inverse (see above)",
    )
    add_from(parser)


def add_from(parser: argparse._ActionsContainer, option: str = "--from", dest: str = "formats") -> None:
    """``--from``, once for all transforms or once for each of them."""
    parser.add_argument(
        option,
        dest=dest,
        action="append",
        metavar="FORMAT",
        help="format of the transforms, one for all or one for each (default: auto, by content and name)",
    )


def add_other_image(parser: argparse._ActionsContainer, role: str) -> None:
    """``--moving`` or ``--fixed``: the image at the other end of a transform, which a command needs for some formats only."""
    text = f"the {role} image, for formats that count its voxels, too (FSL, Learn2Reg)"
    parser.add_argument(f"--{role}", type=Path, metavar="IMAGE", help=text)


def whole_number(least: int) -> Callable[[str], int]:
    """An argument type: a whole number, ``least`` or more."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more, got {text!r}")
        return value

    return parse
