# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps in a report: their colors, and a table of their Dice overlap."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from html import escape

import numpy as np
import torch

from ...geometry import Grid, reorder
from ...quality.labels import LabelOverlap
from .tables import section

__all__ = ["color_indices", "label_values", "labels_section"]

MAX_COLORS = 255  # of an 8-bit picture
MAX_OPEN_LABELS = 12  # longer tables are folded
LOWER_DICE_NOTE = "lower than before: the registration reduced the overlap"
HUE_STEP = 0.618034  # share of the color circle between two labels


def color_indices(pair: LabelOverlap, grid: Grid) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert label maps to color indices.

    Args:
        pair: label maps.
        grid: of the maps.

    Returns:
        ``fixed`` and ``warped`` if given, ``(*shape)`` uint8, upright, 0 for background; and the colors of the indices from 1
        on. From the 255th label on, labels share the last color.
    """
    values = label_values(pair)
    order = grid.canonical_order()
    found = {}
    for side, labels in (("fixed", pair.fixed), ("warped", pair.warped)):
        if labels is not None:
            numbers = torch.searchsorted(torch.tensor(values), labels.contiguous()).clamp(max=MAX_COLORS - 1) + 1
            numbers = torch.where(labels == 0, 0, numbers).to(torch.uint8)
            found[side] = reorder(numbers, *order)[0].cpu().numpy()
    return found, [_color(i) for i in range(min(len(values), MAX_COLORS))]


def label_values(pair: LabelOverlap) -> list[int]:
    """All labels of both maps except the background."""
    values = [labels.unique() for labels in (pair.fixed, pair.warped) if labels is not None]
    return [label for label in torch.cat(values).unique().tolist() if label]


def _color(number: int) -> str:
    red, green, blue = colorsys.hls_to_rgb(number * HUE_STEP % 1, 0.6, 0.85)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def labels_section(pairs: Sequence[LabelOverlap]) -> str:
    """The section with the Dice of every label before and after; empty without label maps."""
    if not pairs:
        return ""
    text = (
        "<p>The Dice overlap of a structure is twice the shared volume divided by the sum of both volumes: 1 is a perfect "
        "match, 0 no overlap. Thin and small structures score lower at the same error. Labels are matched by their value. The "
        "viewer above shows their outlines: the warped map in color, the fixed one in white.</p>"
    )
    return section("labels-card", "Label maps", text + "".join(_table(pair) for pair in pairs))


def _table(pair: LabelOverlap) -> str:
    title = f"<h3>{escape(pair.name)}</h3>"
    if not pair.after:
        missing = "fixed" if pair.fixed is None else "moving"
        if pair.fixed is None or pair.warped is None:
            return f"{title}<p>No label map of the {missing} image to compare with.</p>"
        return f"{title}<p>The fixed label map contains no label on the fixed grid.</p>"
    values, absent = (
        label_values(pair),
        set(pair.after) - set(pair.warped.unique().tolist() if pair.warped is not None else ()),
    )
    rows = "".join(
        f'<tr><th scope="row"><i class="swatch" style="background:{_color(min(values.index(label), MAX_COLORS - 1))}"></i>'
        f"{label}</th>"
        f"<td>{pair.before[label]:.3f}</td><td>{value:.3f}</td>"
        f"<td>{'missing in the warped map' if label in absent else ''}</td></tr>"
        for label, value in pair.after.items()
    )
    before, after = pair.means
    fell = ' class="fell"' if pair.decreased else ""
    note = LOWER_DICE_NOTE if pair.decreased else ""
    values_of_mean = f"<td>{before:.3f}</td><td{fell}><b>{after:.3f}</b></td><td>{note}</td>"
    mean = f'<tr class="mean"><th scope="row">mean</th>{values_of_mean}</tr>'
    names = ("label", "Dice before", "Dice after", "remark")
    head = "<tr>" + "".join(f'<th scope="col">{name}</th>' for name in names) + "</tr>"
    if len(pair.after) <= MAX_OPEN_LABELS:
        return f'{title}<div class="wide"><table class="grid">{head}{mean}{rows}</table></div>'
    each = f'<details><summary>{len(pair.after)} labels</summary><table class="grid">{head}{rows}</table></details>'
    return f'{title}<div class="wide"><table class="grid">{head}{mean}</table>{each}</div>'
