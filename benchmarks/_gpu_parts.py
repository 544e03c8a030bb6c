# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The parts of `gpu.py` in order of importance, their share of the time, and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _tables import Columns, markdown

VERDICT = "verdict"


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: on the command line and in the JSON.
        title: of its table.
        call: ``module:function``, which takes a context and yields rows.
        seconds: its share of the total of 540; time left by earlier parts is added.
        columns: heading, key of a row, format of a number.
        only_failures: whether rows that passed are counted instead of shown.
    """

    name: str
    title: str
    call: str
    seconds: float
    columns: Columns
    only_failures: bool = False


MEMORY = ("peak, MiB", "mib", ".0f")
CHECK = ("", VERDICT, "")
PARTS = (
    Part(
        "tests",
        "Tests on the GPU",
        "_gpu_checks:tests",
        90,
        [("passed", "passed", "d"), ("failed", "failed", "d"), ("skipped", "skipped", "d"), ("seconds", "seconds", ".0f")]
        + [("which failed", "which", ""), CHECK],
    ),
    Part(
        "agreement",
        "The same as on the CPU",
        "_gpu_checks:agreement",
        40,
        [("", "what", ""), ("type", "type", ""), ("value, relative", "value", ".1e"), ("gradient, relative", "gradient", ".1e")]
        + [("95 %, mm", "p95_mm", ".4f"), ("most, mm", "max_mm", ".4f"), CHECK],
    ),
    Part(
        "kernels",
        "The loss in Triton kernels against its portable path, forward and backward",
        "_gpu_kernels:kernels",
        20,
        [("form", "what", ""), ("edge, voxels", "size", "d"), ("value, relative", "value", ".1e")]
        + [("gradient, relative", "gradient", ".1e"), ("portable, ms", "portable_ms", ".3f"), ("Triton, ms", "fused_ms", ".3f")]
        + [CHECK],
    ),
    Part(
        "waits",
        "What waits for the GPU in the steps of the presets and measures, in training and in the losses",
        "_gpu_checks:waits",
        50,
        [("", "what", ""), ("waits in", "where", ""), CHECK],
        only_failures=True,
    ),
    Part(
        "cases",
        "Registrations with a known answer",
        "_gpu_registrations:cases",
        135,
        [("case", "case", ""), ("preset", "preset", ""), ("seconds", "seconds", ".2f"), ("read", "reading_s", ".2f")]
        + [("search", "search_s", ".2f"), ("stages", "stages_s", ""), ("fields", "fields_s", ".2f")]
        + [("verdict, s", "verdict_s", ".2f"), MEMORY, ("folding", "folding_voxels", "d"), ("TRE, mm", "tre_mm", ".3f")]
        + [
            ("95 %", "tre_p95_mm", ".3f"),
            ("TRE on the CPU", "cpu_tre_mm", ".3f"),
            ("its spread", "cpu_spread_mm", ".4f"),
            ("difference", "difference_mm", "+.4f"),
            CHECK,
        ],
    ),
    Part(
        "loss",
        "The loss, forward and backward",
        "_gpu_times:loss_times",
        55,
        [("", "what", ""), ("edge, voxels", "size", "d"), ("ms", "ms", ".3f"), ("fastest", "fastest", ".3f")]
        + [("slowest", "slowest", ".3f"), ("times the bytes", "times_floor", ".1f"), MEMORY, ("TB/s", "tb_s", ".2f")],
    ),
    Part(
        "training",
        "Training steps of the bundle's network, data at hand",
        "_gpu_times:training",
        30,
        [("batch", "batch", "d"), ("voxels", "shape", ""), ("ms", "ms", ".1f"), ("steps a second", "steps_s", ".2f"), MEMORY],
    ),
    Part(
        "together",
        "Two processes on one GPU",
        "_gpu_registrations:together",
        45,
        [
            ("", "what", ""),
            ("seconds", "seconds", ".2f"),
            ("ratio", "ratio", ".2f"),
            MEMORY,
            ("95 %, mm", "p95_mm", ".4f"),
            CHECK,
        ],
    ),
    Part(
        "large",
        "Large pairs, synthetic",
        "_gpu_registrations:large",
        55,
        [("size", "size", ""), ("preset", "preset", ""), ("seconds", "seconds", ".1f"), ("read", "reading_s", ".1f")]
        + [("search", "search_s", ".1f"), ("stages", "stages_s", ""), ("fields", "fields_s", ".1f")]
        + [("verdict, s", "verdict_s", ".1f"), MEMORY, ("floats a voxel", "floats", ".1f")],
    ),
    Part(
        "launches",
        "A step of every stage, 182 x 218 x 182",
        "_gpu_times:launches",
        20,
        [("stage", "stage", "d"), ("factor", "factor", "g"), ("control points", "spacing", ""), ("ms", "ms", ".2f")]
        + [
            ("ms replayed", "replayed_ms", ".2f"),
            ("kernels", "kernels", "d"),
            ("launches", "launches", "d"),
            ("GPU busy", "busy", ".0%"),
        ],
    ),
)
TOTAL = sum(part.seconds for part in PARTS)


def verdict(row: Mapping[str, Any]) -> str:
    """PASS, FAIL, or empty if the row is only a measurement."""
    return {True: "PASS", False: "FAIL"}.get(row.get("check"), "")  # type: ignore[arg-type]


def text_of(row: Mapping[str, Any], columns: Columns) -> list[str]:
    """The cells of a row; empty without a number, a problem in the last but one."""
    cells = []
    for _, key, style in columns:
        value = verdict(row) if key == VERDICT else row.get(key)
        if isinstance(value, list):
            value = ", ".join(format(v, ".2f") if isinstance(v, float) else str(v) for v in value)
        cells.append("" if value is None else str(value) if isinstance(value, str) else format(value, style))
    return [*cells, row.get("problem", "")]


def table(part: Part, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, with the columns that occur in a row."""
    shown = [row for row in rows if not part.only_failures or row.get("check") is False or row.get("problem")]
    lines = [text_of(row, part.columns) for row in shown]
    head = [heading for heading, _, _ in part.columns] + ["problem"]
    used = [k for k in range(len(head)) if any(line[k] for line in lines)]
    counted = f"{len(rows) - len(shown)} of {len(rows)} without a fault.\n\n" if part.only_failures else ""
    return counted + (markdown([head[k] for k in used], ([line[k] for k in used] for line in lines)) if lines else "")


def counts(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers of passed and failed checks; a part that ended early counts as failed."""
    total = {"passed": 0, "failed": 0}
    for part in found:
        for row in part["rows"]:
            if row.get("check") is not None:
                total["passed" if row["check"] else "failed"] += 1
        total["failed"] += bool(part["problem"])
    return total


def report(content: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# On a GPU", "", ", ".join(f"{name} {value}" for name, value in content["machine"].items()), ""]
    total = counts(content["parts"].values())
    lines += [f"{total['passed']} checks passed, {total['failed']} failed.", ""]
    for part in PARTS:
        found = content["parts"].get(part.name)
        if found is None:
            continue
        lines += [f"## {part.title}", ""]
        if part.name == "cases" and content.get("reference"):
            lines += [f"Of the CPU's numbers: {content['reference']}.", ""]
        if found["rows"]:
            lines += [table(part, found["rows"]).rstrip(), ""]
        if found["problem"]:
            lines += [f"**{found['problem']}**", ""]
        if found["skipped"]:
            lines += [found["skipped"], ""]
    return "\n".join(lines)
