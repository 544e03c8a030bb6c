# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Run the tutorials without Jupyter and keep their outputs.

    python tutorials/run.py                                          # run all of them
    python tutorials/run.py --stale --keep docs/tutorials --jobs 2   # update stale outputs, as `make docs` does
    python tutorials/run.py tutorials/06_two_dimensions.ipynb --keep docs/tutorials

``--keep`` writes the outputs to a folder for each notebook, with a stamp (see `stamp.py`), and into the notebook itself. Cells
run one after the other in an empty folder. As in Jupyter, outputs are printed text, figures, and the value of a cell's last
expression.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import stamp
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["Shown", "embed", "main", "run"]

DPI = 80
COLORS = 128  # of the pictures that are kept


@dataclass
class Shown:
    """Output of a code cell.

    Args:
        text: printed text and the last value.
        pictures: PNG files.
    """

    text: str = ""
    pictures: list[bytes] = field(default_factory=list)


def run(notebook: Path) -> Iterator[Shown]:
    """Execute the code cells of a notebook in an empty folder, one at each step."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "__main__"}
    start = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, source in enumerate(sources, start=1):
                yield _execute(source, names, f"{notebook.name}, code cell {number}")
        finally:
            os.chdir(start)


def _execute(source: str, names: dict[str, Any], where: str) -> Shown:
    shown = Shown()
    printed = io.StringIO()
    body = ast.parse(source, where).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), where, "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), where, "eval"), names)  # type: ignore[attr-defined]
    shown.text = printed.getvalue()
    figures = [plt.figure(number) for number in plt.get_fignums()]
    if isinstance(value, Figure):
        figures += [] if value in figures else [value]
    elif value is not None and not source.rstrip().endswith(";"):
        shown.text += f"{value!r}\n"
    shown.pictures = [_png(figure) for figure in figures]
    plt.close("all")
    return shown


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, dpi=DPI, bbox_inches="tight")
    return data.getvalue()


def keep(shown: Shown, folder: Path, number: int) -> None:
    """Write the output of a cell as ``01.txt``, ``01-1.png`` and so on."""
    if shown.text.strip():
        (folder / f"{number:02}.txt").write_text(shown.text, encoding="utf-8")
    for i, picture in enumerate(shown.pictures, start=1):
        image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        image.save(folder / f"{number:02}-{i}.png", optimize=True)


def embed(notebook: Path, folder: Path) -> None:
    """Put the files that :func:`keep` has written into the notebook, as outputs of its code cells."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        text = folder / f"{number:02}.txt"
        lines = text.read_text(encoding="utf-8").splitlines(keepends=True) if text.is_file() else []
        outputs: list[dict[str, Any]] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
        for picture in sorted(folder.glob(f"{number:02}-*.png")):
            data = {"image/png": base64.b64encode(picture.read_bytes()).decode("ascii")}
            outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
        cell.update(execution_count=number, outputs=outputs)
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def execute(notebook: Path, folder: Path | None) -> None:
    """Run a notebook; replace its outputs in a folder and in the notebook itself."""
    if folder is None:
        for _ in run(notebook):
            pass
        return
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.txt"), *folder.glob("*.png"), *folder.glob(stamp.FILE)):
        old.unlink()
    for number, shown in enumerate(run(notebook), start=1):
        keep(shown, folder, number)
    embed(notebook, folder)
    stamp.write(notebook, folder)


def _execute_apart(notebook: Path, folder: Path | None) -> None:
    """Run a notebook in a process of its own, which prints its time."""
    options = [] if folder is None else ["--keep", folder.parent]
    subprocess.run([sys.executable, __file__, notebook, *options], check=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all in the folder of this script")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the outputs to FOLDER/NAME and into the notebooks")
    parser.add_argument("--stale", action="store_true", help="skip notebooks whose outputs in FOLDER are up to date")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks that run at the same time, each in its own process")
    args = parser.parse_args()
    if args.stale and args.keep is None:
        parser.error("--stale needs --keep FOLDER")
    plt.switch_backend("agg")
    notebooks = args.notebooks or sorted(Path(__file__).parent.glob("*.ipynb"))
    kept = {path.absolute(): _folder(path, args.keep) for path in notebooks}
    for notebook, folder in list(kept.items()):
        if args.stale and folder is not None and not stamp.is_stale(notebook, folder):
            print(f"{notebook.name}: up to date", flush=True)
            del kept[notebook]
    if args.jobs > 1:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(_execute_apart, kept.keys(), kept.values()))
        return
    for notebook, folder in kept.items():
        start = time.perf_counter()
        execute(notebook, folder)
        print(f"{notebook.name}: {time.perf_counter() - start:.0f} s", flush=True)


def _folder(notebook: Path, keep: Path | None) -> Path | None:
    return None if keep is None else keep.absolute() / notebook.stem


if __name__ == "__main__":
    main()
