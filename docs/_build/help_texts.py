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

"""What the package says of itself: ``<!-- help: register -->`` in a page becomes ``monai-locor register --help``, and
``<!-- formats -->`` the rows of a table of the formats of transforms.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

MARK = re.compile(r"^<!-- help:( \w+)? -->$", re.MULTILINE)
FORMATS = "<!-- formats -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the help texts."""
    markdown = MARK.sub(lambda found: f"```text\n{_help((found[1] or '').strip())}\n```", markdown)
    return markdown.replace(FORMATS, _formats()) if FORMATS in markdown else markdown


def _help(command: str) -> str:
    from monai_locor.cli.main import build_parser

    os.environ["COLUMNS"] = "100"  # argparse has no other way to be told
    parser: argparse.ArgumentParser = build_parser()
    if command:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = groups[0].choices[command]
    return parser.format_help().rstrip()


def _formats() -> str:
    from monai_locor.io import FORMATS as known

    rows = []
    for kind in known.values():
        does = ("yes" if kind.reads else "", "yes" if kind.writes else "")
        suffixes = ", ".join(f"`{suffix}`" for suffix in kind.suffixes)
        told = kind.recognized or "nothing: `--from`"
        rows.append(f"| `{kind.name}` | {kind.description}{f' ({suffixes})' if suffixes else ''} | {told} | {' | '.join(does)} |")
    return "\n".join(rows)
