# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The registered alignments of other orientations that a result is compared with, and how they are named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Rival", "change_of_orientation", "leads", "mirror_text", "rival_text", "turn_degrees", "turn_text"]

AXES = ("left-right", "front-back", "vertical")
MIRRORED = ("mirrored left-right", "mirrored front-back", "mirrored upside down")
MIN_AXIS_COSINE = math.cos(math.radians(25))  # of an axis of rotation to a world axis of that name
MAX_MIRROR_TURN = 45.0  # degrees from a reflection of that name
MIN_DECIDED_LEAD = 3.0  # standard errors, either way, below which the images do not tell which of two is right
CLOSE_RIVAL_LEAD = -1.0  # standard errors, above which another orientation agrees about as well


@dataclass(frozen=True)
class Rival:
    """The best alignment of another orientation.

    Attributes:
        name: change from the initial orientation, for instance ``"turned by 180 degrees about the vertical axis"``.
        mirrored: whether it has a reflection.
        lead: standard errors by which it agrees better than the result, negative if worse.
    """

    name: str
    mirrored: bool
    lead: float


def leads(rivals: Sequence[Rival]) -> dict[str, float]:
    """Return the measures ``rival_lead`` and ``mirror_lead``: the highest leads without and with a reflection, or NaN."""
    best = {"rival_lead": _best(rivals, mirrored=False), "mirror_lead": _best(rivals, mirrored=True)}
    return {name: math.nan if rival is None else rival.lead for name, rival in best.items()}


def _best(rivals: Sequence[Rival], mirrored: bool) -> Rival | None:
    """Return the rival with or without a reflection that agrees best; None if there is none."""
    return max((r for r in rivals if r.mirrored == mirrored), key=lambda r: r.lead, default=None)


def turn_degrees(linear: np.ndarray) -> float:
    """Return the angle of the rotation nearest to a matrix without reflection, ``(D, D)``.

    >>> turn_degrees(np.array([[0.0, -2], [2, 0]]))
    90.0
    """
    trace = float(np.trace(_orthogonal(linear)))
    return math.degrees(math.acos(max(-1.0, min(1.0, (trace - len(linear) + 2) / 2))))


def change_of_orientation(linear: np.ndarray) -> str:
    """Return the name of a rotation or reflection between world coordinates (RAS), ``(D, D)``.

    >>> change_of_orientation(np.diag([-1.0, -1, 1]))
    'turned by 180 degrees about the vertical axis'
    >>> change_of_orientation(np.diag([-1.0, 1, 1]))
    'mirrored left-right'
    """
    nearest = _orthogonal(linear)
    if np.linalg.det(nearest) > 0:
        return _turned(nearest)
    if len(nearest) == 2:
        return "mirrored"
    turns = [nearest @ np.diag(np.where(np.arange(3) == k, -1.0, 1.0)) for k in range(3)]
    best = min(range(3), key=lambda k: turn_degrees(turns[k]))
    rest = turn_degrees(turns[best])
    return MIRRORED[best] if rest < MAX_MIRROR_TURN else f"mirrored and turned by {rest:.0f} degrees"


def _turned(rotation: np.ndarray) -> str:
    angle = turn_degrees(rotation)
    text = f"turned by {angle:.0f} degrees"
    if round(angle) == 0:
        return "moved elsewhere without a turn"
    if len(rotation) == 2:
        return text
    cosines = np.abs(np.linalg.eigh(rotation + rotation.T)[1][:, -1])  # the axis has the largest eigenvalue, 2
    axis = int(cosines.argmax())
    return f"{text} about the {AXES[axis]} axis" if cosines[axis] > MIN_AXIS_COSINE else text


def _orthogonal(linear: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(linear)
    nearest: np.ndarray = left @ right
    return nearest


def turn_text(m: Mapping[str, Any], linear: np.ndarray) -> str:
    """Finding of the check of ``turn_degrees``."""
    if math.isnan(m["turn_degrees"]):
        return "not measured: the transform mirrors the image"
    return f"the result is {change_of_orientation(linear)}, relative to the start"


def rival_text(rivals: Sequence[Rival]) -> str:
    """Finding of the check of ``rival_lead``."""
    best = _best(rivals, mirrored=False)
    if best is None:
        return "no other orientation was compared"
    if best.lead < CLOSE_RIVAL_LEAD:
        return f"other orientations agree worse, the best of them by {-best.lead:.1f} standard errors ({best.name})"
    how = "better" if best.lead > MIN_DECIDED_LEAD else "about as well"
    return f"{best.name}, the moving image agrees {how} ({best.lead:+.1f} standard errors)"


def mirror_text(rivals: Sequence[Rival]) -> str:
    """Finding of the check of ``mirror_lead``."""
    best = _best(rivals, mirrored=True)
    if best is None:
        return "no mirrored image was compared"
    if best.lead < -MIN_DECIDED_LEAD:
        return f"mirrored, the moving image agrees worse by {-best.lead:.1f} standard errors ({best.name})"
    if best.lead <= MIN_DECIDED_LEAD:
        text = f"{best.name}, the moving image agrees as well ({best.lead:+.1f} standard errors)"
        return f"{text}: the images do not tell which is right, the headers decide"
    return f"{best.name}, the moving image agrees better by {best.lead:.1f} standard errors"
