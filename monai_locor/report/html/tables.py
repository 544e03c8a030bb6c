# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts and tables of the report; all entries of the tables are escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from ...roles import ROLES

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult

__all__ = ["explained", "run_tables", "section", "table"]


def section(name: str, title: str, content: str) -> str:
    """A part of the page, with its heading."""
    heading = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" class="card" aria-labelledby="{name}-title">\n{heading}\n{content}\n</section>'


def table(rows: Mapping[str, Any]) -> str:
    """A table of names and values."""
    return _rows({name: _value(value) for name, value in rows.items()})


def explained(rows: Mapping[str, Any], meanings: Mapping[str, str]) -> str:
    """A table of names and values with explanations."""
    return _rows({name: f"{_value(v)}<br><small>{escape(meanings.get(name, ''))}</small>" for name, v in rows.items()})


def _rows(cells: Mapping[str, str]) -> str:
    lines = "".join(f'<tr><th scope="row">{escape(str(name))}</th><td>{cell}</td></tr>' for name, cell in cells.items())
    return f"<table>{lines}</table>"


def run_tables(result: RegistrationResult) -> str:
    """Tables of the inputs, settings, stages, versions and times of a run."""
    summary = result.summary()
    parts = {"Inputs": table(_inputs(result))}
    if result.registered:
        settings = {k: v for k, v in summary["settings"].items() if k != "stages"}
        run = {"seed": result.seed, "device": result.device, "seconds": f"{result.seconds:.1f}", **_times(result.timings)}
        parts["Run and versions"] = table({**run, **summary["versions"]})
        parts["Stages"] = _grid(summary["settings"]["stages"])
        parts["Settings"] = table(settings)
    parts["Affine part, fixed to moving points, RAS mm"] = _matrix(result.affine.tolist())
    return "".join(_fold(name, content, name == "Inputs") for name, content in parts.items())


def _inputs(result: RegistrationResult) -> dict[str, Any]:
    """The arguments of the run."""
    out: dict[str, Any] = {}
    for name, entry in result.arguments.items():
        if name == "surfaces":
            for number, pair in enumerate(entry, 1):
                out.update({f"{role} surface {number}": _input(pair[role]) for role in ROLES})
            continue
        if not isinstance(entry, dict):
            continue
        if name == "landmarks":
            out[name] = f"{len(entry['fixed'])} pairs of points"
            continue
        if name == "labels":
            out.update({f"{role} labels": _input(entry[role]) for role in ROLES})
            continue
        for number, one in enumerate(entry.get("list", [entry]), 1):
            of_several = f" {number}" if "list" in entry else ""
            out[name.replace("_", " ") + of_several] = _input(one)
    return out or dict(result.inputs)


def _input(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The source of an input."""
    where = entry.get("path") or entry.get("code") or entry.get("name") or ("matrix" if "matrix" in entry else "in memory")
    return {"": where, **{name: entry[name] for name in ("channel", "sha256") if name in entry}}


def _times(timings: Mapping[str, float]) -> dict[str, str]:
    return {f"seconds of {name}": f"{value:.1f}" for name, value in timings.items()}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{escape(str(k))} <code>{escape(str(v))}</code>" for k, v in value.items())
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return escape(", ".join(map(str, value)))
    return escape(f"{value:g}" if isinstance(value, float) else str(value))


def _grid(rows: list[dict[str, Any]]) -> str:
    """A table of dictionaries with the same keys, one per row."""
    if not rows:
        return "<p>none</p>"
    head = "".join(f'<th scope="col">{escape(str(key).replace("_", " "))}</th>' for key in rows[0])
    lines = "".join("<tr>" + "".join(f"<td>{_value(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="grid"><tr>{head}</tr>{lines}</table></div>'


def _matrix(rows: list[list[float]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td><code>{v:.5g}</code></td>" for v in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="grid">{lines}</table></div>'


def _fold(name: str, content: str, opened: bool) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(name)}</summary>{content}</details>"
