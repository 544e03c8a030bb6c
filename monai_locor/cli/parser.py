# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Argument parsers, and options shared by commands."""

from __future__ import annotations

import argparse
import math
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError

__all__ = [
    "EXIT_CODES",
    "TRANSFORM_ORDER",
    "CommandHelp",
    "Parser",
    "UsageError",
    "add_command",
    "add_device",
    "add_from",
    "add_other_image",
    "add_output",
    "add_transform_list",
    "add_transforms",
    "positive_number",
    "whole_number",
]

MAX_COMMAND_COLUMNS = 16  # indentation and name of the longest command
MAX_HELP_COLUMNS = 100
EXIT_CODES = {
    0: "success; the verdict of register or check is PASS or WARN",
    1: "the verdict of register or check is FAIL; all outputs are still written",
    2: "invalid input or usage: one line on stderr names the file or option, its value and the remedy",
    3: "internal error, please report it; -v shows the traceback",
    130: "interrupted (Ctrl-C); register without --resume or --blocks writes its current result, marked as interrupted",
    143: "terminated (SIGTERM, as sent by batch systems at the time limit); handled like Ctrl-C",
}


class UsageError(InputError):
    """An invalid command line."""


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs to the width of the terminal; keeps lines that start with a space."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns - 2, MAX_HELP_COLUMNS))
        self._action_max_length = MAX_COMMAND_COLUMNS  # argparse forgets that commands are indented further

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Format as ``-o, --output FILE`` in all versions of Python."""
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
    """A parser that raises one-line exceptions and does not accept abbreviated options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``."""
        raise UsageError(f"{' '.join(message.split())}; see {self.prog} --help")


@dataclass(frozen=True)
class CommandHelp:
    """Help texts of a command.

    Attributes:
        usage: usage line after the name of the command.
        summary: one line for the list of commands.
        text: description, in paragraphs; lines that start with a space are not wrapped.
        example: example command lines.
        codes: exit codes of success.
    """

    usage: str
    summary: str
    text: str
    example: str
    codes: str = "0 done"


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    check: Callable[[argparse.Namespace], None],
    about: CommandHelp,
) -> Parser:
    """Add a command, with the options common to all commands.

    Args:
        commands: return value of ``add_subparsers``.
        name: name of the command.
        run: runs the command; takes the parsed arguments and returns the exit code.
        check: raises on invalid arguments and files, before ``run``. It imports neither torch nor MONAI nor ITK, so that
            errors are reported immediately.
        about: help texts.
    """
    lines = "\n".join(f"  {line}" for line in about.example.strip().splitlines())
    parser: Parser = commands.add_parser(
        name,
        help=about.summary,
        description=about.text.strip(),
        usage=f"monai-locor {name} {about.usage} [options]",
        epilog=f"example:\n{lines}\n\nexit codes: {about.codes}, 2 bad input, 3 internal error, 130 or 143 interrupted",
    )
    parser.set_defaults(run=run, check=check, command=name)
    general = parser.add_argument_group("general")
    general.add_argument("--json", action="store_true", help="print one JSON object to stdout and nothing else")
    general.add_argument("-v", "--verbose", action="count", default=0, help="more messages on stderr; -vv for all")
    general.add_argument("-q", "--quiet", action="store_true", help="errors only: no summary, warnings or progress bar")
    general.add_argument("--threads", type=whole_number(1), metavar="N", help="CPU threads (default: torch's choice)")
    return parser


def add_output(parser: argparse._ActionsContainer, what: str, metavar: str = "FILE", required: bool = True) -> None:
    """``-o`` and ``--force``."""
    parser.add_argument("-o", "--output", type=Path, metavar=metavar, required=required, help=what)
    parser.add_argument("--force", action="store_true", help="overwrite existing outputs")


def add_device(parser: argparse._ActionsContainer) -> None:
    """``--device`` and ``--seed``."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ... or two devices, one per direction, as in cuda:0,cuda:1 (default: a GPU if available)",
    )
    parser.add_argument("--seed", type=whole_number(0), metavar="N", help="random seed (default: 0)")


TRANSFORM_ORDER = """\
Give several transforms in the order of antsApplyTransforms: a point of the fixed image is mapped by the first transform
first. For an ANTs registration: 1Warp.nii.gz, then 0GenericAffine.mat. '[FILE,1]' inverts a file, as in ANTs. The output
folder of register and the prefix of an ANTs run are also accepted.

The format of a file is detected from its content and name, see convert --list-formats. If several formats are possible,
the command stops and lists them; choose one with --from FORMAT, once for all transforms or once for each ('auto' where
detection works)."""


def add_transforms(parser: argparse._ActionsContainer, required: bool = True) -> None:
    """``-t``, given once per transform, see :func:`monai_locor.cli.transforms.load_transforms`."""
    parser.add_argument(
        "-t",
        "--transform",
        dest="transforms",
        action="append",
        default=None if required else [],
        metavar="FILE",
        required=required,
        help="a transform; repeat -t for several, in the order of antsApplyTransforms; '[FILE,1]' inverts it (see above)",
    )
    add_from(parser)


def add_transform_list(parser: argparse._ActionsContainer) -> None:
    """Transforms as positional arguments, and ``--from``."""
    parser.add_argument("transforms", nargs="+", metavar="TRANSFORM", help="one or more, in the order above")
    add_from(parser)


def add_from(parser: argparse._ActionsContainer, option: str = "--from", dest: str = "formats") -> None:
    """``--from``, once for all transforms or once for each of them."""
    parser.add_argument(
        option,
        dest=dest,
        action="append",
        metavar="FORMAT",
        help="format of the transforms, once for all or once for each (default: auto, by content and name)",
    )


def add_other_image(parser: argparse._ActionsContainer, role: str) -> None:
    """``--moving`` or ``--fixed``: the other image of a transform, required by some formats only."""
    text = f"the {role} image; required by formats that depend on its voxels (FSL, Learn2Reg)"
    parser.add_argument(f"--{role}", type=Path, metavar="IMAGE", help=text)


def whole_number(least: int) -> Callable[[str], int]:
    """Argument type: an integer, ``least`` or more."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be an integer, {least} or more, got {text!r}")
        return value

    return parse


def positive_number(text: str) -> float:
    """Argument type: a finite number greater than zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value
