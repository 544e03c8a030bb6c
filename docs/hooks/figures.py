# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tables of measured figures, written into the pages from ``benchmarks/results/current.json``.

    python docs/hooks/figures.py    # updates all pages; tests/test_docs.py checks them

The table NAME goes between ``<!-- figures: NAME -->`` and ``<!-- end figures -->``. ``benchmarks/current.py`` fills the file
from the ``--json`` output of the scripts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
END = "<!-- end figures -->"
BLOCK = re.compile(rf"^<!-- figures: ([\w-]+) -->\n.*?^{END}$", re.MULTILINE | re.DOTALL)

CASES = {
    "brain_t2_t1_2mm": "brain T2 - T1, 2 mm",
    "head_pd_t2_2mm": "head PD - T2, 2 mm",
    "brain_oblique_aniso": "brain FLAIR - T1, oblique, 1x1x3 mm moving",
    "brain_flair_t1_1mm_bias": "brain FLAIR - T1, 1 mm, bias field",
    "brain_t2_t1_1mm": "brain T2 - T1, 1 mm",
}
VOXELS = {
    "brain_t2_t1_2mm": "91x109x91",
    "head_pd_t2_2mm": "91x109x91",
    "brain_oblique_aniso": "121x145x121",
    "brain_flair_t1_1mm_bias": "124x160x140",
    "brain_t2_t1_1mm": "182x218x182",
}
TOOLS = {
    "locor": "original tool (`locor`)",
    "niftyreg-mind": "NiftyReg, MIND",
    "niftyreg-nmi": "NiftyReg, NMI",
    "greedy": "greedy, NMI",
    "convexadam": "ConvexAdam",
    "ants-syn": "ANTs SyN, MI",
    "ours:local_ncc": "local NCC",
    "ours:srwcr": "SRWCR",
    "ours:local_parzen_cr": "local Parzen CR",
    "ours:normalized_mutual_information": "NMI",
    "ours:mutual_information": "MI",
    "ours:mind_ssc": "MIND-SSC",
    "ours:correlation_ratio": "global CR",
}
METHODS = {
    "affine": "affine",
    "network (locor)": "network",
    "network (mi)": "network trained with MI",
    "network (lncc)": "network trained with LNCC",
    "network (locor) + 25": "network, then 25 iterations",
    "25 iterations alone": "25 iterations, no network",
    "instance optimization": "all iterations, no network",
}
LOSSES = {
    "this loss": "this loss",
    "same formula, eager": "same formula, eager torch with autograd",
    "original tool's loss": "the original tool's loss",
    "MONAI LNCC, kernel 9": "MONAI LNCC, kernel 9, one channel",
}
DERIVATIVES = {"basis": "yes", "none": "no"}
Section = Mapping[str, Any]


def read() -> dict[str, Section]:
    """The current figures by section."""
    return json.loads((RESULTS / "current.json").read_text(encoding="utf-8"))


def updated(markdown: str, page: Path) -> str:
    """Return the text of a page with its tables brought up to date."""
    figures = read()

    def block(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- figures: {name} -->\n\n{source(figures[name], page)}\n\n{BLOCKS[name](figures[name])}\n\n{END}"

    return BLOCK.sub(block, markdown)


def source(section: Section, page: Path) -> str:
    """Date, script, hardware and commit of a section, and the page with all numbers."""
    target = RESULTS / section["page"]
    if "bundles" in page.parts:  # a bundle travels without the repository
        where = f"`{target.relative_to(ROOT).as_posix()}` in the repository"
    else:
        where = f"[all numbers]({os.path.relpath(target, page.parent)})"
    commit = f", commit {section['commit']}" if section["commit"] else ""
    threads = "one thread" if section["threads"] == 1 else f"{section['threads']} threads"
    seeds = max((len(row.get("seeds", ())) for row in section["rows"]), default=0)
    runs = {0: "", 1: ", one seed"}.get(seeds, f", medians of {seeds} seeds")
    measured = f"Measured on {section['date']} by `benchmarks/{section['script']}`"
    return f"{measured}: {section['hardware']}, {threads}{runs}{commit} ({where})."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def registration(section: Section) -> str:
    """Error, time and memory of the presets."""
    head = ["case", "voxels", "preset or tool", "TRE before, mm", "TRE mean", "TRE 95 %", "seconds", "MiB"]
    rows = [
        [
            *(CASES[row["case"]], VOXELS[row["case"]], _tool(row), f"{row['tre_before_mm']:.2f}"),
            *(f"{row['tre_mm']:.3f}", f"{row['tre_p95_mm']:.3f}", f"{row['seconds']:.0f}", f"{row['memory_mib']:.0f}"),
        ]
        for row in section["rows"]
    ]
    return table(head, rows)


def tools(section: Section) -> str:
    """One case with every tool."""
    rows = [
        [_tool(row), f"{row['tre_mm']:.3f}", f"{row['tre_p95_mm']:.3f}", f"{row['seconds']:.1f}", f"{row['memory_mib']:.0f}"]
        for row in section["rows"]
    ]
    return table(["brain T2 - T1, 2 mm", "TRE mean, mm", "TRE 95 %, mm", "seconds", "MiB"], rows)


def by_case(section: Section) -> str:
    """Mean error, a row for each tool and a column for each case; the learned and the polynomial basis are two tools."""
    names = list(dict.fromkeys(row["case"] for row in section["rows"]))
    found = {(_tool(row), row["case"]): f"{row['tre_mm']:.3f}" for row in section["rows"]}
    rows = [[tool, *(found[tool, case] for case in names)] for tool in dict.fromkeys(tool for tool, _ in found)]
    return table(["TRE mean, mm", *(CASES[name] for name in names)], rows)


def paper(section: Section) -> str:
    """Mean error and 95th percentile of presets and the original tool."""
    found: dict[str, list[str]] = {}
    for row in section["rows"]:
        cells = found.setdefault(row["case"], [CASES[row["case"]], f"{row['tre_before_mm']:.2f}"])
        cells.append(f"{row['tre_mm']:.3f} / {row['tre_p95_mm']:.3f}")
    head = dict.fromkeys(_tool(row) for row in section["rows"])
    return table(["TRE mean / 95 %, mm", "before", *head], list(found.values()))


def ablation(section: Section) -> str:
    """Mean error for each form, basis and derivative channel."""
    names = list(dict.fromkeys(row["case"] for row in section["rows"]))
    found: dict[tuple[str, ...], list[str]] = {}
    for row in section["rows"]:
        found.setdefault((row["form"], row["basis"], DERIVATIVES[row["derivative"]]), []).append(f"{row['tre_mm']:.3f}")
    head = ["form", "basis", "derivative channel", *(CASES.get(name, name) for name in names)]
    return table(head, [[*key, *cells] for key, cells in found.items()])


def intersubject(section: Section) -> str:
    """Mean Dice of all pairs."""
    rows = [row for row in section["rows"] if row["case"] == "mean" and "never" not in row["preset"]]
    rows.sort(key=lambda row: -row["dice"])
    return table(["method", "mean Dice"], [[_tool(row), f"{row['dice']:.3f}"] for row in rows])


def learning(section: Section) -> str:
    """Dice and time with a network and without."""
    found = {row["method"]: row for row in section["rows"]}
    rows = [
        [name, f"{found[key]['dice']:.3f}", f"{found[key]['better']} of {found[key]['pairs']}", f"{found[key]['seconds']:.1f}"]
        for key, name in METHODS.items()
    ]
    return table(["method", "mean Dice", "pairs better than affine", "seconds"], rows)


def loss(section: Section) -> str:
    """Time and memory of one evaluation with its gradient."""
    sizes = sorted({row["size"] for row in section["rows"]})
    found = {(row["row"], row["size"]): f"{row['seconds']:.2g} s, {row['mib']} MiB" for row in section["rows"]}
    rows = [[name, *(found.get((key, size), "") for size in sizes)] for key, name in LOSSES.items()]
    return table(["forward and backward", *(f"{size}^3" for size in sizes)], rows)


def scaling(section: Section) -> str:
    """The largest size, and the exponents of time and memory."""
    rows = []
    for preset, slopes in section["exponents"].items():
        row = [row for row in section["rows"] if row["preset"] == preset][-1]
        cells = [f"`{preset}`", f"{row['seconds']:.0f} s, {row['mib'] / 1024:.1f} GiB"]
        rows.append([*cells, f"{slopes['seconds']:.2f}", f"{slopes['mib']:.2f}"])
    return table(["preset", "256^3 voxels", "exponent of time", "exponent of memory"], rows)


def _tool(row: Mapping[str, Any]) -> str:
    if row["tool"] == "monai_locor":
        return f"**`{row['preset']}`**"
    return TOOLS[row["tool"]]


BLOCKS: dict[str, Callable[[Section], str]] = {
    "registration": registration,
    "tools": tools,
    "measures": by_case,
    "paper": paper,
    "ablation": ablation,
    "intersubject": intersubject,
    "learning": learning,
    "loss": loss,
    "scaling": scaling,
}


def pages() -> Iterator[Path]:
    """The pages that hold such a table."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "bundles").rglob("*.md"))):
        if END in path.read_text(encoding="utf-8"):
            yield path


def main() -> None:
    """Update all pages."""
    for path in pages():
        path.write_text(updated(path.read_text(encoding="utf-8"), path), encoding="utf-8")


if __name__ == "__main__":
    main()
