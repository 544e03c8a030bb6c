# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Label maps in a report: their colors, and a table of how well they overlap."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from html import escape

import numpy as np
import torch

from ...geometry import Grid, reorder
from ..labels import LabelPair

__all__ = ["indexed", "labels_section"]

MOST = 255  # labels that can be told apart in a picture
FEW = 12  # labels whose table is open
FELL = "the labels overlap less than before: the registration made them worse"
GOLDEN = 0.618034  # of the circle of hues, from one label to the next


def indexed(pair: LabelPair, grid: Grid) -> tuple[dict[str, np.ndarray], list[str]]:
    """Label maps as numbers of colors.

    Args:
        grid: of the maps.

    Returns:
        ``fixed`` and ``warped``, those that there are, ``(*shape)`` uint8, upright, 0 for background; and the color of each
        number from 1 on. More than 255 labels share the last color.
    """
    known = _known(pair)
    order = grid.canonical_order()
    found = {}
    for side, labels in (("fixed", pair.fixed), ("warped", pair.moved)):
        if labels is not None:
            numbers = torch.searchsorted(torch.tensor(known), labels.contiguous()).clamp(max=MOST - 1) + 1
            numbers = torch.where(labels == 0, 0, numbers).to(torch.uint8)
            found[side] = reorder(numbers, *order)[0].cpu().numpy()
    return found, [_color(i) for i in range(min(len(known), MOST))]


def _known(pair: LabelPair) -> list[int]:
    """All labels of both maps but the background."""
    values = [labels.unique() for labels in (pair.fixed, pair.moved) if labels is not None]
    return [label for label in torch.cat(values).unique().tolist() if label]


def _color(number: int) -> str:
    red, green, blue = colorsys.hls_to_rgb(number * GOLDEN % 1, 0.6, 0.85)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def labels_section(pairs: Sequence[LabelPair]) -> str:
    """Dice of every label, before and after; empty without label maps."""
    if not pairs:
        return ""
    text = (
        "<p>How much of each labeled structure lies in the same place in both images: the Dice overlap is twice the shared "
        "volume, divided by the sum of both. 1 is the same volume in the same place, 0 no overlap. Thin and small structures "
        "score lower at the same error. Labels are compared by their number. Their outlines are in the viewer above: those of "
        "the warped map in color, those of the fixed one in white.</p>"
    )
    return (
        f'<section id="labels-card" class="card">\n<h2>Label maps</h2>\n{text}\n{"".join(_table(pair) for pair in pairs)}\n'
        "</section>"
    )


def _table(pair: LabelPair) -> str:
    title = f"<h3>{escape(pair.name)}</h3>"
    if not pair.after:
        missing = "fixed" if pair.fixed is None else "moving"
        if pair.fixed is None or pair.moved is None:
            return f"{title}<p>There is no label map of the {missing} image to compare it with.</p>"
        return f"{title}<p>The fixed label map has no label on the fixed grid.</p>"
    known, absent = _known(pair), set(pair.after) - set(pair.moved.unique().tolist() if pair.moved is not None else ())
    rows = "".join(
        f'<tr><th><i class="swatch" style="background:{_color(min(known.index(label), MOST - 1))}"></i>{label}</th>'
        f"<td>{pair.before[label]:.3f}</td><td>{value:.3f}</td>"
        f"<td>{'not in the warped map' if label in absent else ''}</td></tr>"
        for label, value in pair.after.items()
    )
    before, after = pair.means
    fell = ' class="fell"' if pair.fell else ""
    mean = f"<tr><th>mean</th><td>{before:.3f}</td><td{fell}><b>{after:.3f}</b></td><td>{FELL if pair.fell else ''}</td></tr>"
    head = "<tr><th>label</th><th>Dice before</th><th>Dice after</th><th></th></tr>"
    if len(pair.after) <= FEW:
        return f'{title}<div class="wide"><table class="grid">{head}{mean}{rows}</table></div>'
    each = f'<details><summary>{len(pair.after)} labels</summary><table class="grid">{head}{rows}</table></details>'
    return f'{title}<div class="wide"><table class="grid">{head}{mean}</table>{each}</div>'
