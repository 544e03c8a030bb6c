# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Summary of verdicts: lines for the console, and a table of many registrations."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..io.paths import atomic_path
from ..schemas import numbers_of

if TYPE_CHECKING:
    from ..quality.verdict import Verdict
    from ..registration.result import RegistrationResult

__all__ = ["run_row", "summary_lines", "summary_row", "verdict_lines", "write_summary"]


def verdict_lines(verdict: Verdict) -> list[str]:
    """A verdict with its warnings and failures and their remedies, one line each."""
    problems = [reason for reason in verdict.reasons if reason.status in ("WARN", "FAIL")]
    lines = [f"verdict: {verdict.status}" + ("" if problems else ", no problems found")]
    for reason in problems:
        lines.append(f"  {reason.status} {reason.check}: {reason.text}" + (f"; {reason.advice}" if reason.advice else ""))
    return lines


def summary_row(result: RegistrationResult, pair: str) -> dict[str, Any]:
    """The row of a result, see :func:`run_row`."""
    return run_row(result.summary(), pair)


def run_row(content: Mapping[str, Any], pair: str) -> dict[str, Any]:
    """One row of the table: files, verdict, its checks with problems, and all single numbers of ``run.json``.

    The numbers have the names of the schema, such as ``verdict.measures.overlap``; see
    :func:`monai_locor.schemas.declared_numbers`.

    Args:
        content: content of ``run.json``.
        pair: name of the pair.
    """
    verdict, inputs = content.get("verdict") or {}, content.get("inputs") or {}
    problems = [reason["check"] for reason in verdict.get("reasons", ()) if reason["status"] in ("WARN", "FAIL")]
    return {
        "pair": pair,
        "fixed": inputs.get("fixed", ""),
        "moving": inputs.get("moving", ""),
        "verdict": verdict.get("status", ""),
        "why": "; ".join(dict.fromkeys(problems)),
        **numbers_of(content),
    }


def write_summary(path: str | PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of :func:`run_row` as CSV; the file appears only when it is complete."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def summary_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as text: counts of the verdicts and one line per pair, the worst first."""
    order = {"FAIL": 0, "WARN": 1, "PASS": 2}
    counts = {status: sum(row["verdict"] == status for row in rows) for status in order}
    width = max((len(str(row["pair"])) for row in rows), default=0)
    lines = [f"{len(rows)} registrations: " + ", ".join(f"{n} {status}" for status, n in counts.items())]
    for row in sorted(rows, key=lambda row: order.get(row["verdict"], 3)):
        why = f"  {row['why']}" if row["why"] else ""
        seconds = math.nan if row["seconds"] is None else row["seconds"]  # a record that is not complete
        lines.append(f"  {row['pair']:<{width}}  {row['verdict'] or '-':<4}  {seconds:8.1f} s{why}")
    return lines
