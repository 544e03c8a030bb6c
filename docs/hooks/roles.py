# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Docstrings for mkdocstrings: roles, literal blocks, tables and doctests of reStructuredText become Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`~?([\w.]+)`")
LITERAL = re.compile(r"^(\w[\w ]*)::\n\n((?:    .*(?:\n|$)|\n)+)", re.MULTILINE)
TABLE = re.compile(r"^(=+)(?: +=+)+\n(?P<head>.*\n)\1[ =]+\n(?P<rows>(?:(?!=).+\n)+)\1[ =]+(?:\n|$)", re.MULTILINE)
DOCTEST = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)
NAMES = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrite every docstring of a package when it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite a package; called by griffe."""
        for thing in _objects(pkg):
            if thing.docstring is not None:
                thing.docstring.value = _markdown(thing.docstring.value, thing)


def _objects(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _markdown(text: str, scope: griffe.Object) -> str:
    text = TABLE.sub(_table, text)
    text = LITERAL.sub(_fenced, text)
    text = DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
    text = NAMES.sub(_apart, text)
    return ROLE.sub(lambda found: _link(found[1], scope), text)


def _link(name: str, scope: griffe.Object) -> str:
    """A link if the name is in the API reference, otherwise the name alone."""
    target = name
    if name.startswith("."):  # relative to the package that the module is in
        target = f"{scope.module.parent.path}{name}" if scope.module.parent else name[1:]
    elif not name.startswith(("monai.", "monai_locor", "torch.")):
        try:
            target = scope.resolve(name)
        except griffe.NameResolutionError:
            target = f"{scope.path}.{name}"
    shown = name.lstrip(".").removeprefix("monai_locor.")
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'


def _fenced(found: re.Match[str]) -> str:
    code = "\n".join(line[4:] for line in found[2].rstrip("\n").split("\n"))
    return f"**{found[1]}**\n\n```python\n{code}\n```\n\n"


def _table(found: re.Match[str]) -> str:
    def cells(line: str) -> str:
        return "| " + " | ".join(re.split(r"  +", line.strip())) + " |"

    head = cells(found["head"])
    return "\n".join((head, re.sub(r"[^|]+", " --- ", head), *map(cells, found["rows"].splitlines()))) + "\n"


def _apart(found: re.Match[str]) -> str:
    """An entry for each of ``fixed, moving: text``, the text in the first."""
    first, *others = found[2].split(", ")
    return "\n".join((f"{found[1]}{first}: {found[3]}", *(f"{found[1]}{name}: See `{first}`." for name in others)))
