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
