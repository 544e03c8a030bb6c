# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What drove a registration beside the images, in a report: landmarks, labels and surfaces before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .tables import section

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult

__all__ = ["guides_section"]

MAX_OPEN_ROWS = 12  # longer tables are folded


def guides_section(result: RegistrationResult) -> str:
    """The section with distances of landmarks, Dice of labels and distances of surfaces; empty if none was given."""
    parts = []
    if result.landmarks_mm is not None:
        found = result.landmarks_mm
        text = "Distance of each landmark of the fixed image, mapped to the moving image, from its counterpart there."
        if result.arguments.get("landmarks") is not None:
            text += " Its number moves the images to it."
        parts.append(_part(f"{found['count']} landmarks", "landmark", "mm", text, _landmark_rows(found, result), 3))
    if result.label_dice is not None:
        found = result.label_dice
        text = (
            "Dice of the labels that drove the registration. It says how well these were matched, and nothing about the error "
            "elsewhere."
        )
        parts.append(_part(f"{len(found['labels'])} labels", "label", "Dice", text, _label_rows(found), 1))
    if result.surface_mm is not None:
        found = result.surface_mm
        text = "Mean distance of the surfaces from each other, both directions."
        parts.append(_part(f"{len(found['names'])} pairs of surfaces", "surface", "mm", text, _surface_rows(found), 1))
    return section("guides", "Landmarks, labels and surfaces", "".join(parts)) if parts else ""


def _landmark_rows(found: dict[str, Any], result: RegistrationResult) -> list[tuple[str, ...]]:
    """The rows of a table; the number of each landmark is a button if the viewer has their points."""
    shown = _button if result.arguments.get("landmarks") is not None else str
    rows = [(name, *(f"{found[when][name]:.2f}" for when in ("before", "after"))) for name in ("mean", "median", "max")]
    both = zip(found["before"]["each"], found["after"]["each"], strict=True)
    return [*rows, *((shown(number), f"{a:.2f}", f"{b:.2f}") for number, (a, b) in enumerate(both, 1))]


def _button(number: int) -> str:
    """A button that moves the viewer to a landmark."""
    name = f'aria-label="show landmark {number}"'
    return f'<button type="button" class="landmark" data-landmark="{number}" {name}>{number}</button>'


def _label_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = zip(
        ["mean", *map(str, found["labels"])],
        *([found[when]["mean"], *found[when]["each"]] for when in ("before", "after")),
        strict=True,
    )
    return [(name, *("–" if value is None else f"{value:.3f}" for value in values)) for name, *values in rows]


def _surface_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    both = ([found[when]["mean"], *found[when]["each"]] for when in ("before", "after"))
    rows = zip(["mean", *(escape(name) for name in found["names"])], *both, strict=True)
    return [(name, f"{before:.2f}", f"{after:.2f}") for name, before, after in rows]


def _part(title: str, what: str, unit: str, text: str, rows: Sequence[tuple[str, ...]], known: int) -> str:
    """A table of some known rows and one for each landmark, label or surface, which are folded if they are many."""
    head = "".join(f'<th scope="col">{name}</th>' for name in (what, f"{unit} before", f"{unit} after"))
    first, rest = rows[:known], rows[known:]
    if len(rest) <= MAX_OPEN_ROWS:
        tables = _table(head, rows)
    else:
        tables = f"{_table(head, first)}<details><summary>{title}</summary>{_table(head, rest)}</details>"
    return f'<h3>{title}</h3><p class="note">{text}</p>{tables}'


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = "".join(f'<tr><th scope="row">{name}</th><td>{before}</td><td>{after}</td></tr>' for name, before, after in rows)
    return f'<div class="wide"><table class="grid"><tr>{head}</tr>{lines}</table></div>'
