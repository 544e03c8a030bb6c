# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Links that work in the repository, turned into those of the site.

A page links to a name of the package by the module that it is in, with its place in the API reference as the link's title, and
to a notebook by its file.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.pages import Page

API = re.compile(r'(\[[^\]\n]*\])\([\w./]+\.py "(monai_locor[\w.]*)"\)')
NOTEBOOK = re.compile(r"\]\((?:\.\./)+tutorials/(\w+)\.ipynb\)")


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """What mkdocs calls for every page."""
    here = posixpath.dirname(page.file.src_uri)
    markdown = API.sub(r"\1[\2]", markdown)
    return NOTEBOOK.sub(lambda found: f"]({posixpath.relpath(f'tutorials/{found[1]}.md', here or '.')})", markdown)
