# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The result of a registration as JSON values and as lines of text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..report.summary import verdict_lines

if TYPE_CHECKING:
    from ..quality import Verdict
    from ..registration import RegistrationResult

__all__ = [
    "dice_lines",
    "label_dice",
    "label_line",
    "landmark_line",
    "result_lines",
    "result_values",
    "transform_lines",
    "verdict_lines",
    "warning_lines",
]

logger = logging.getLogger(__name__)


def result_values(result: RegistrationResult) -> dict[str, Any]:
    """The values of a result for the JSON object."""
    import torch

    from ..tensors import lengths

    moved = lengths(result.forward_mm)
    return {
        "seconds": round(result.seconds, 3),
        "device": result.device,
        "interrupted": result.interrupted,
        "warnings": list(result.warnings),
        "verdict": None if result.verdict is None else result.verdict.to_dict(),
        "affine": result.affine.tolist(),
        "displacement_mm": {"mean": float(moved.mean(dtype=torch.float64)), "max": float(moved.max())},
        "jacobian": result.jacobian,
        "landmarks_mm": result.landmarks_mm,
        "label_dice": result.label_dice,
        "surface_mm": result.surface_mm,
    }


def result_lines(values: dict[str, Any], verdict: Verdict | None) -> Iterator[str]:
    """The values of a result as lines of text."""
    if values["interrupted"]:
        yield "INTERRUPTED: the output is the best result so far"
    yield f"{values['seconds']:.1f} s on {values['device']}"
    yield from transform_lines(values, verdict)


def transform_lines(values: dict[str, Any], verdict: Verdict | None) -> Iterator[str]:
    """The transform and the verdict as lines of text."""
    from .jacobian import folding_line

    moved = values["displacement_mm"]
    yield f"displacement: mean {moved['mean']:.3g} mm, maximum {moved['max']:.3g} mm"
    yield folding_line(values["jacobian"])
    if values.get("landmarks_mm") is not None:
        yield landmark_line(values["landmarks_mm"])
    if values.get("label_dice") is not None:
        yield label_line(values["label_dice"])
    if values.get("surface_mm") is not None:
        yield surface_line(values["surface_mm"])
    if verdict is not None:
        yield from verdict_lines(verdict)


def landmark_line(found: Mapping[str, Any]) -> str:
    """The distances of landmarks as a line of text."""
    mean, most = ([found[when][kind] for when in ("before", "after")] for kind in ("mean", "max"))
    distances = f"mean {mean[0]:.3g} mm before, {mean[1]:.3g} mm after; maximum {most[0]:.3g} and {most[1]:.3g} mm"
    return f"{found['count']} landmarks: {distances}"


def label_line(found: Mapping[str, Any]) -> str:
    """The Dice of the labels that drove a registration as a line of text."""
    before, after = ("unknown" if found[when]["mean"] is None else f"{found[when]['mean']:.3f}" for when in ("before", "after"))
    return f"{len(found['labels'])} labels that drove the registration: mean Dice {before} before, {after} after"


def surface_line(found: Mapping[str, Any]) -> str:
    """The distances of the surfaces that drove a registration as a line of text."""
    before, after = (found[when]["mean"] for when in ("before", "after"))
    return f"surfaces ({len(found['names'])}): mean distance {before:.3g} mm before, {after:.3g} mm after"


def label_dice(result: RegistrationResult, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Dice of corresponding label maps of both images, before and after the registration.

    Args:
        labels: ``fixed_labels`` and ``moving_labels``, see :func:`monai_locor.report.write_report`.
    """
    if not all(labels.values()):
        return []
    from ..report.labels import label_overlaps

    found = []
    for pair in label_overlaps(result, **{name.removesuffix("_labels"): maps for name, maps in labels.items()}):
        if pair.after:
            both = zip(("before", "after"), (pair.before, pair.after), pair.means, strict=True)
            found.append({"name": pair.name, **{when: {"labels": each, "mean": mean} for when, each, mean in both}})
            if pair.decreased:
                logger.warning("%s overlap less than before the registration: inspect the result before using it", pair.name)
    return found


def dice_lines(dice: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Dice as lines of text."""
    for pair in dice:
        yield f"mean Dice {pair['before']['mean']:.3f} before, {pair['after']['mean']:.3f} after: {pair['name']}"


def warning_lines(warnings: Sequence[str], doubts: Sequence[str]) -> Iterator[str]:
    """Warnings of a stored run, without those that its verdict reports."""
    yield from (f"  warned: {text}" for text in warnings if text not in doubts)
