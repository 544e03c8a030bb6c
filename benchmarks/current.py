# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Take the figures that a script has measured into `results/current.json`, from which the pages get their tables.

    python benchmarks/registration.py CASES --seeds 0 1 2 --json out.json
    python benchmarks/current.py registration out.json     # then write results/registration.md, and `make texts`

Takes the output of `--json` of the script that `SOURCES` names for a section: its `figures` if it has any, else its `rows`.
Only the numbers that a table shows are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CURRENT = Path(__file__).parent / "results" / "current.json"
SOURCES = {  # section: script, page
    "registration": ("registration.py", "registration.md"),
    "tools": ("registration.py", "registration.md"),
    "measures": ("registration.py", "measures.md"),
    "seeds": ("registration.py", "registration.md"),
    "intersubject": ("registration.py", "intersubject.md"),
    "paper": ("registration.py", "ablation_engine.md"),
    "ablation": ("ablation.py", "ablation.md"),
    "deviations": ("ablation_engine.py", "ablation_engine.md"),
    "basis_reuse": ("basis_reuse.py", "basis_reuse.md"),
    "learning": ("learning.py", "learning.md"),
    "scaling": ("scaling.py", "scaling.md"),
    "loss": ("loss.py", "loss.md"),
}
LEFT_OUT = {"problem", "hd95_mm", "floats"}
SEED_COLUMNS = ("case", "tool", "preset", "seed", "problem", "tre_mm", "tre_p95_mm")


def section_of(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of the file from the JSON output of a script.

    Raises:
        ValueError: when a run in it has failed.
    """
    about = content["machine"]
    rows = _rows(name, content)
    failed = [row for row in rows if row.get("problem")]
    if failed:
        raise ValueError(f"{name}: {failed[0]['problem']}; repeat the failed runs before quoting the table")
    script, page = SOURCES[name]
    found = {
        "page": page,
        "script": script,
        "date": about["date"],
        "hardware": about.get("processor") or about["device"],
        "threads": about["threads"],
        "commit": about.get("commit", ""),
    }
    found |= {"exponents": content["exponents"]} if "exponents" in content else {}
    return found | {"rows": [_rounded(row) for row in rows]}


def _rows(name: str, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a section: every run for `seeds`, with means over the cases for `intersubject`."""
    if name == "seeds":
        return [{key: run[key] for key in SEED_COLUMNS if key in run} for run in content["runs"]]
    rows = list(content.get("figures", content["rows"]))
    if name != "intersubject":
        return rows
    methods: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        methods.setdefault((row["tool"], row["preset"]), []).append(row.get("dice", 0.0))
    means = [
        {"case": "mean", "tool": tool, "preset": preset, "dice": statistics.fmean(dice)}
        for (tool, preset), dice in methods.items()
    ]
    return rows + means


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row to four decimals."""
    kept = {key: value for key, value in row.items() if key not in LEFT_OUT}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in kept.items()}


def dump(content: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON text with a line for each row, so that a change shows as such."""
    sections = []
    for name, section in content.items():
        head = json.dumps({key: value for key, value in section.items() if key != "rows"})[1:-1]
        rows = ",\n".join(f"   {json.dumps(row)}" for row in section["rows"])
        sections.append(f' {json.dumps(name)}: {{\n  {head},\n  "rows": [\n{rows}\n  ]\n }}')
    return "{\n" + ",\n".join(sections) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=SOURCES)
    parser.add_argument("file", type=Path, help="written by the script with --json")
    parser.add_argument("--current", type=Path, default=CURRENT, metavar="FILE", help="file to update")
    options = parser.parse_args(arguments)
    content = json.loads(options.current.read_text(encoding="utf-8"))
    content[options.section] = section_of(options.section, json.loads(options.file.read_text(encoding="utf-8")))
    options.current.write_text(dump(content), encoding="utf-8")


if __name__ == "__main__":
    main()
