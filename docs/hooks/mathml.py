# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Mathematics as MathML, which browsers render without scripts, fonts or requests to another server."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace the LaTeX marked by pymdownx.arithmatex; called by mkdocs."""
    content = INLINE.sub(lambda found: convert(html.unescape(found[1]).strip()), content)
    return BLOCK.sub(lambda found: convert(html.unescape(found[1]).strip(), display="block"), content)
