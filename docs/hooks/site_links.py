# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Check every link inside the site that was built: the file and the anchor exist, also in what hooks and themes have written.

MkDocs itself checks the links of Markdown; this sees raw HTML, the API reference, pictures and style sheets too. A bad link is
a warning, with which ``mkdocs build --strict`` fails.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

logger = logging.getLogger("mkdocs.hooks.site_links")

NOT_FOUND = "404.html"  # is shown at any address, so its links are absolute
ATTRIBUTES = ("href", "src", "poster")
SCRIPTED = "__"  # anchors that a script of the theme reads, as "__search"


class _Page(HTMLParser):
    """Anchors and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the attributes of a tag."""
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value and name in ATTRIBUTES:
                self.links.append(value)


def on_post_build(*, config: Any, **_: Any) -> None:
    """Check the site; called by mkdocs."""
    for page, link, fault in faults(Path(config["site_dir"])):
        logger.warning("%s: the link '%s' %s", page, link, fault)


def faults(site: Path) -> Iterator[tuple[str, str, str]]:
    """Page, link and fault of every bad link in a folder of HTML files."""
    site = site.resolve()
    page_of = functools.cache(_Page)
    for path in sorted(site.rglob("*.html")):
        if path.name == NOT_FOUND:
            continue
        for link in dict.fromkeys(page_of(path).links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            address, fragment = urldefrag(link)
            target = (path.parent / unquote(urlsplit(address).path)).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_relative_to(site) or not target.is_file():
                yield path.relative_to(site).as_posix(), link, "leads nowhere"
            elif _needs_anchor(target, fragment) and unquote(fragment) not in page_of(target).anchors:
                yield path.relative_to(site).as_posix(), link, "has no such anchor"


def _needs_anchor(target: Path, fragment: str) -> bool:
    return target.suffix == ".html" and not fragment.startswith(SCRIPTED)
