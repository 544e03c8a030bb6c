# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""``monai-locor demo``: a registration with a known answer, or of two files, with a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .console import console_of
from .parser import add_command

__all__ = ["add_arguments", "add_parser", "run"]

TEXT = """\
Register two images and see how well it went.

Without arguments it makes a pair with a known answer, from brain images that the nilearn package ships, and reports the
target registration error. With --fixed and --moving it registers two files."""

EXAMPLE = """\
monai-locor demo --preset fast --output-dir demo_output"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands, "demo", run, usage="", summary="try it on a pair with a known answer", text=TEXT, example=EXAMPLE
    )
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, which ``python -m monai_locor.demo`` has, too."""
    parser.add_argument("--fixed", type=Path, help="image file; by default a pair with a known answer is made")
    parser.add_argument("--moving", type=Path, help="image file of any other modality")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("demo_output"), help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="overwrite files that are no earlier demonstration")
    parser.add_argument("--preset", choices=("default", "fast", "paper"), default="default", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the made pair and of the registration")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size of the made pair, mm, 1 to 8")
    parser.add_argument("--device", help="such as cpu or cuda; by default chosen by the package")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    from ..demo import demonstrate

    console = console_of(args)
    return console.answer(demonstrate(args, console.say, progress=console.progress))
