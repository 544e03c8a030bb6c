# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Convert links that work in the repository to links of the site.

A page links to a name of the package by its module, with the name in the API reference as the link's title; to a notebook by
its file; and to files outside the site, such as results of benchmarks, which become the name of the file.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.pages import Page

API = re.compile(r'(\[[^\]\n]*\])\([\w./]+\.py "(monai_locor[\w.]*)"\)')
RESULTS = re.compile(r"\[([^\]\n]*)\]\((?:\.\./)+((?:benchmarks|bundles|integrations)/[\w./-]*)\)")
NOTEBOOK = re.compile(r"\]\((?:\.\./)+tutorials/(\w+)\.ipynb\)")


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Convert the links of a page; called by mkdocs."""
    here = posixpath.dirname(page.file.src_uri)
    markdown = API.sub(r"\1[\2]", markdown)
    markdown = RESULTS.sub(r"\1: `\2` in the repository", markdown)
    return NOTEBOOK.sub(lambda found: f"]({posixpath.relpath(f'tutorials/{found[1]}.md', here or '.')})", markdown)
