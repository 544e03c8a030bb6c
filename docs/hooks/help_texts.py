# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Help texts, the table of formats and the numbers of run.json in the pages, generated between two markers.

    python docs/hooks/help_texts.py    # updates all pages; tests/test_docs.py checks them

``monai-locor register --help`` goes between ``<!-- help: register -->`` and ``<!-- end -->``, the table of transform formats
between ``<!-- formats -->`` and ``<!-- end -->``, the tables of the schema of ``run.json`` between ``<!-- schema -->`` and
``<!-- end -->``, so that the pages can be read in the repository without a build.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
END = "<!-- end -->"
HELP = re.compile(rf"^(<!-- help:( [\w-]+)? -->)\n.*?^{END}$", re.MULTILINE | re.DOTALL)
FORMATS = re.compile(rf"^(<!-- formats -->)\n.*?^{END}$", re.MULTILINE | re.DOTALL)
SCHEMA = re.compile(rf"^(<!-- schema -->)\n.*?^{END}$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Update a page; called by mkdocs."""
    return updated(markdown)


def updated(markdown: str) -> str:
    """Return the text of a page with its generated parts brought up to date."""
    markdown = HELP.sub(lambda found: f"{found[1]}\n\n```text\n{_help((found[2] or '').strip())}\n```\n\n{END}", markdown)
    markdown = FORMATS.sub(lambda found: f"{found[1]}\n\n{_formats()}\n\n{END}", markdown)
    return SCHEMA.sub(lambda found: f"{found[1]}\n\n{_schema()}\n\n{END}", markdown)


def pages() -> Iterator[Path]:
    """The pages with generated parts."""
    for path in sorted(DOCS.rglob("*.md")):
        if END in path.read_text(encoding="utf-8"):
            yield path


def _help(command: str) -> str:
    from monai_locor.cli.main import build_parser

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"  # argparse reads the width from here only
    try:
        parser: argparse.ArgumentParser = build_parser()
        if command:
            groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
            parser = groups[0].choices[command]
        return parser.format_help().rstrip()
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _formats() -> str:
    from monai_locor.io import FORMATS

    rows = ["| name | what | recognized by | reads | writes |", "| --- | --- | --- | --- | --- |"]
    for kind in FORMATS.values():
        does = ("yes" if kind.reads else "", "yes" if kind.writes else "")
        suffixes = ", ".join(f"`{suffix}`" for suffix in kind.suffixes)
        told = kind.recognized or "nothing: `--from`"
        rows.append(
            f"| `{kind.name}` | {kind.description}{f' ({suffixes})' if suffixes else ''} | {told} | {' | '.join(does)} |"
        )
    return "\n".join(rows)


def _schema() -> str:
    from monai_locor.schemas import declared_numbers, run_schema

    schema = run_schema()
    parts = ["| field | content |", "| --- | --- |"]
    for name, node in schema["properties"].items():
        target = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        parts.append(f"| `{name}` | {target['description'].rstrip('.')} |")
    numbers = ["| number | unit | meaning |", "| --- | --- | --- |"]
    numbers += [f"| `{name}` | {'' if unit == '1' else unit} | {text} |" for name, (unit, text) in declared_numbers().items()]
    return "\n".join(parts) + "\n\n" + "\n".join(numbers)


def main() -> None:
    """Update all pages."""
    for path in pages():
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
