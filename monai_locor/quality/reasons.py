# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The checks of a verdict, each with its status, a text and an advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .alignment import GLOBAL_SHIFT, LOCAL_SHIFTS, near_length
from .outcome import Outcome
from .rivals import mirror_text, rival_text, turn_text
from .samples import SampledPair
from .thresholds import Thresholds

__all__ = ["RANK", "Reason", "ShiftLengths", "reasons_of"]

RANK = ("SKIP", "PASS", "WARN", "FAIL")
INFORMATION_MEASURES = ("mutual_information", "normalized_mutual_information")  # NMI is not independent of these

UNRELATED_RIVAL_LEAD = -2.0  # standard errors; of a brain and an abdomen -1, of good results -10 to -3
MIN_DOUBTS = 6  # right results have up to four, those off by 2 to 4 mm up to five (benchmarks/results/trouble.md)
ALIGNMENT_MEASURES = ("local_support", "far_contrast", "nmi_shift_ratio")

NOT_CHECKED = "the result could not be checked: inspect it, or evaluate landmarks or label maps (monai-locor evaluate)"


@dataclass(frozen=True)
class Reason:
    """The outcome of one check.

    Attributes:
        check: name of the check, one or two words.
        status: ``"PASS"``, ``"WARN"``, ``"FAIL"``, or ``"SKIP"`` if it could not be measured.
        text: finding.
        advice: remedy; empty if none is needed.
    """

    check: str
    status: str
    text: str
    advice: str = ""


UNKNOWN_RUN = Reason(
    "optimization",
    "SKIP",
    "not known, since the transform was computed elsewhere: convergence, skipped steps, overlap of stages",
)


class ShiftLengths(NamedTuple):
    """Lengths in mm of the shifts that a result is compared with: near, those of the blocks, and that of the whole image."""

    near: float
    middle: float
    far: float
    whole: float

    @classmethod
    def of(cls, pair: SampledPair) -> ShiftLengths:
        """The lengths used for a pair."""
        middle, far = (length * pair.unit for length in LOCAL_SHIFTS)
        return cls(near_length(pair), middle, far, GLOBAL_SHIFT * float(pair.grid.extent.max()))


def reasons_of(measures: Mapping[str, Any], limits: Thresholds, shifts: ShiftLengths, outcome: Outcome) -> list[Reason]:
    """All checks.

    Args:
        measures: see :func:`.measures.measured`; NaN where one could not be measured.
        limits: thresholds of the measures.
        shifts: lengths of the shifts.
        outcome: the transform, and what is known of the registration that computed it.
    """
    gain = _information_gain(measures, limits, outcome)
    checks = [
        _valid_voxels(measures, limits),
        _overlap(measures, limits),
        gain if outcome.initial is None else _warn_if_skipped(gain, limits, "information_gain"),
        _warn_if_skipped(_alignment(measures, limits, shifts, outcome.transform), limits, *ALIGNMENT_MEASURES),
        _precision(measures, limits, shifts.near),
        _orientation(measures, limits),
        *_rival_reasons(measures, limits, outcome),
        *_transform_reasons(measures, limits),
        *([] if outcome.two_subjects or outcome.fixed_grid.dims == 2 else [_one_subject(measures, limits)]),
        *([UNKNOWN_RUN] if outcome.history is None else _run_reasons(measures, limits)),
    ]
    return [*checks, *_many_doubts(checks)]


def _many_doubts(checks: Sequence[Reason]) -> list[Reason]:
    """FAIL if many checks are in doubt together, although each of them alone may be in a right result."""
    found = [reason.check for reason in checks if reason.status == "WARN"]
    if len(found) < MIN_DOUBTS or any(reason.status == "FAIL" for reason in checks):
        return []
    text = f"{len(found)} checks are in doubt together ({', '.join(found)}), more than in any right result of the benchmarks"
    return [Reason("doubts", "FAIL", text, "check that both images show the same anatomy of the same person")]


def _valid_voxels(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    text = f"{m['valid_voxels']} valid voxels: finite, inside the masks and the field of view of the other image"
    return _reason("voxels", "valid_voxels", m, limits, text, "check that the masks cover the structures to align")


def _overlap(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    text = f"{100 * m['overlap']:.0f} % of the smaller field of view lies inside the other image"
    advice = 'check that both images show the same anatomy; try another start (initialization "moments")'
    return _reason("overlap", "overlap", m, limits, text, advice)


def _information_gain(m: Mapping[str, Any], limits: Thresholds, outcome: Outcome) -> Reason:
    without = " without the transform" if outcome.initial is None else ""
    text = f"NMI not measured: too few voxels are valid both{without or ' at the start'} and in the result"
    if not math.isnan(m["information_gain"]):
        kind = " (related to the optimized measure)" if outcome.similarity in INFORMATION_MEASURES else " (not optimized)"
        kind = kind if outcome.similarity else ""
        text = f"normalized mutual information{kind} changed from {m['nmi_before']:.3f}{without} to {m['nmi_after']:.3f}"
    advice = "compare both images before and after in the report"
    return _reason("information gain", "information_gain", m, limits, text, advice)


def _warn_if_skipped(reason: Reason, limits: Thresholds, *names: str) -> Reason:
    """WARN if a check of what was not optimized could not be made, unless its thresholds are all None."""
    required = any(limit is not None for name in names for limit in getattr(limits, name))
    return replace(reason, status="WARN", advice=NOT_CHECKED) if reason.status == "SKIP" and required else reason


def _alignment(m: Mapping[str, Any], limits: Thresholds, shifts: ShiftLengths, transform: str) -> Reason:
    """Whether the images match better at the result than after small shifts.

    Blocks of an inter-subject pair may match better elsewhere, and blurred images nearly as well, so this is a failure only if
    the whole image says so, and either the blocks do or another orientation fits about as well.
    """
    found = {name: limits.status(name, m[name]) for name in ALIGNMENT_MEASURES}
    status = max(found.values(), key=RANK.index)
    whole, blocks = (found[name] in ("FAIL", "SKIP") for name in ("nmi_shift_ratio", "far_contrast"))
    if status == "FAIL" and not (whole and (blocks or m["rival_lead"] > UNRELATED_RIVAL_LEAD)):
        status = "WARN"
    texts = []
    if found["local_support"] != "SKIP":
        share = f"{100 * m['local_support']:.0f} % of {m['support_blocks']} blocks"
        texts.append(f"{share} match best in place, compared with shifts of {shifts.middle:.1f} and {shifts.far:.1f} mm")
    if found["far_contrast"] != "SKIP":
        texts.append(f"their mutual information is {m['far_contrast']:.2f} times its value after the latter")
    if found["nmi_shift_ratio"] != "SKIP":
        texts.append(f"NMI - 1 is {m['nmi_shift_ratio']:.2f} times its value after a shift of {shifts.whole:.0f} mm")
    advice = "the images may be unrelated or the start too far off: give an initial affine"
    if transform != "deformable":
        advice = f'a deformation may be needed (transform "deformable" instead of "{transform}"); otherwise {advice}'
    text = "; ".join(texts) or "too few valid voxels with contrast to compare the result with shifted ones"
    return Reason("alignment", status, text, advice if status in ("WARN", "FAIL") else "")


def _precision(m: Mapping[str, Any], limits: Thresholds, shift_mm: float) -> Reason:
    """Whether the images determine the alignment to the length of a small shift."""
    text = "too few blocks with contrast to measure how precisely the images determine the alignment"
    if not math.isnan(m["near_contrast"]):
        after = f"a shift of {shift_mm:.1f} mm (or a voxel, if that is more)"
        text = f"mutual information of the blocks is {m['near_contrast']:.2f} times its value after {after}"
    advice = f"the images may not determine the alignment to {shift_mm:.1f} mm, or it is wrong: compare them in the report"
    return _reason("precision", "near_contrast", m, limits, text, advice)


def _orientation(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    """Whether the moving image would fit as well turned by 180 degrees or mirrored."""
    found = {name: limits.status(name, m[name]) for name in ("nmi_turn_ratio", "nmi_mirror_ratio")}
    status = max(found.values(), key=RANK.index)
    if status == "SKIP":
        return Reason("orientation", status, "too few valid voxels to compare the result with turned and mirrored copies")
    text = (
        f"NMI - 1 is {m['nmi_turn_ratio']:.2f} times that of the best copy turned by 180 degrees and "
        f"{m['nmi_mirror_ratio']:.2f} times that of the best mirrored one"
    )
    advice = "another orientation may fit as well: check left and right, front and back, top and bottom"
    return Reason("orientation", status, text, advice if status in ("WARN", "FAIL") else "")


def _rival_reasons(m: Mapping[str, Any], limits: Thresholds, outcome: Outcome) -> list[Reason]:
    """Checks of the orientation; those against others only if they were compared."""
    linear = outcome.affine[:-1, :-1] @ np.linalg.inv(outcome.start[:-1, :-1])
    headers = "check the orientation in the headers of both images (monai-locor info), also whether one is mirrored"
    other = f"{headers}; give an initial affine"
    turn = _reason("turn", "turn_degrees", m, limits, turn_text(m, linear), headers)
    if not outcome.rivals:
        return [turn]
    return [
        turn,
        _reason("other orientations", "rival_lead", m, limits, rival_text(outcome.rivals), other),
        _reason("mirror image", "mirror_lead", m, limits, mirror_text(outcome.rivals), headers),
    ]


def _transform_reasons(m: Mapping[str, Any], limits: Thresholds) -> list[Reason]:
    """Checks of the transform."""
    affine = max((limits.status(name, m[name]) for name in ("stretch", "shear_degrees")), key=RANK.index)
    text = f"lengths change by a factor of up to {m['stretch']:.2f}, right angles by up to {m['shear_degrees']:.0f} degrees"
    if m["affine_determinant"] <= 0:
        affine, text = "FAIL", f"the affine mirrors the image (determinant {m['affine_determinant']:.2f})"
    advice = "give an initial affine, or masks of the structures to align"
    folding = "no folding" if m["folding_percent"] == 0 else f"{m['folding_percent']:.2g} % of the voxels fold"
    jacobian = (
        f"Jacobian determinant {m['jacobian_p01']:.2f} to {m['jacobian_p99']:.2f} in 98 % of the voxels "
        f"(full range {m['jacobian_min']:.2f} to {m['jacobian_max']:.2f})"
    )
    inverse = "not measured: the fields of view do not overlap"
    if not math.isnan(m["inverse_mm"]):
        inverse = f"inverse consistency error {m['inverse_mm']:.2g} mm ({m['inverse_voxels']:.2g} voxels), 95th percentile"
    smoother = "raise bending_weight"
    return [
        Reason("affine", affine, text, advice if affine in ("WARN", "FAIL") else ""),
        _reason("folding", "folding_percent", m, limits, folding, smoother),
        _reason("volume change", "volume_change", m, limits, jacobian, smoother),
        _reason("inverse", "inverse_voxels", m, limits, inverse, smoother),
    ]


def _one_subject(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    """Whether the affine is plausible between two scans of one subject."""
    status = limits.status("one_subject_shear", m["shear_degrees"])
    text, advice = f"right angles change by {m['shear_degrees']:.1f} degrees", ""
    if status in ("WARN", "FAIL"):
        text += ", more than between two scans of one head"
        advice = "check that both images show the same person, and the voxel sizes and gantry tilt in their headers; "
        advice += "if they are known to be of two, set intersubject to always"
    return Reason("one subject", status, text, advice)


def _run_reasons(m: Mapping[str, Any], limits: Thresholds) -> list[Reason]:
    """Checks of the optimization."""
    rest, text = m["late_change"], "no optimization steps"
    if not math.isnan(rest):
        text = f"the loss {'fell' if rest >= 0 else 'rose'} in the last quarter of the last stage by {100 * abs(rest):.1f} % "
        text += "of its total change"
    converged = limits.status("late_change", abs(rest))
    share = f"{100 * m['skipped_steps']:.1f} % of the steps"
    skipped = f"{share} were undone because their loss or gradient was not finite or their loss rose a lot"
    return [
        _stages(m, limits),
        Reason("convergence", converged, text, "give the last stage more iterations" if converged in ("WARN", "FAIL") else ""),
        _reason(
            "steps",
            "skipped_steps",
            m,
            limits,
            skipped if m["skipped_steps"] else "no step was undone",
            "lower the learning rates",
        ),
    ]


def _stages(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    """Whether the images overlap in the stages."""
    share, text = m["stages_without_overlap"], "the images overlap in every stage"
    if math.isnan(share):
        text = "no stage has steps"
    elif share:
        text = f"no valid overlap between the images or masks at the end of {100 * share:.0f} % of the stages"
    return _reason("stages", "stages_without_overlap", m, limits, text, "check the masks; give an initial affine")


def _reason(check: str, name: str, m: Mapping[str, Any], limits: Thresholds, text: str, advice: str) -> Reason:
    """A check that compares one measure with its thresholds."""
    status = limits.status(name, m[name])
    return Reason(check, status, text, advice if status in ("WARN", "FAIL") else "")
