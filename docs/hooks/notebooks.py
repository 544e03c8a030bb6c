# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tutorials as pages: the cells of each notebook with the outputs that ``tutorials/run.py --keep`` has written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = "tutorials"
LINK = re.compile(r"\]\((\w+)\.ipynb")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for every notebook; called by mkdocs."""
    for notebook in sorted((Path(config.config_file_path).parent / FOLDER).glob("*.ipynb")):
        shown = Path(config.docs_dir) / FOLDER / notebook.stem
        files.append(File.generated(config, f"{FOLDER}/{notebook.stem}.md", content=_page(notebook, shown)))
    return files


def _page(notebook: Path, shown: Path) -> str:
    parts: list[str] = []
    code = 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(LINK.sub(r"](\1.md", source).replace("](../docs/", "](../"))
            continue
        code += 1
        parts.append(f"```python\n{source}\n```")
        parts += _outputs(shown, code)
    made = json.loads((shown / "stamp.json").read_text(encoding="utf-8"))
    source = f"This page is the notebook `{FOLDER}/{notebook.name}` of the repository."
    parts.insert(1, f'!!! note ""\n    {source} Outputs of {made["date"]}, commit {made["commit"]}.')
    return "\n\n".join(parts) + "\n"


def _outputs(shown: Path, number: int) -> list[str]:
    """Text and pictures of a code cell."""
    text = shown / f"{number:02}.txt"
    outputs: list[Any] = [f"```text\n{text.read_text(encoding='utf-8').rstrip()}\n```"] if text.is_file() else []
    pictures = sorted(shown.glob(f"{number:02}-*.png"))
    return outputs + [f"![output of cell {number}]({shown.name}/{picture.name})" for picture in pictures]
