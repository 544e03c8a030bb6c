# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What was measured of a registration, put into words, each with its status."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .measures import GLOBAL_SHIFT, LOCAL_SHIFTS
from .samples import Samples
from .thresholds import Thresholds

__all__ = ["RANK", "Reason", "reasons_of"]

RANK = ("SKIP", "PASS", "WARN", "FAIL")
INFORMATION = ("mutual_information", "normalized_mutual_information")  # measures of the settings that NMI is not independent of

UNJUDGED = "nothing tells whether it is right: judge it by eye, by landmarks or by label maps (monai-locor evaluate)"


@dataclass(frozen=True)
class Reason:
    """One thing that was looked at.

    Attributes:
        check: what, in a word or two.
        status: ``"PASS"``, ``"WARN"``, ``"FAIL"``, or ``"SKIP"`` where it could not be measured.
        text: what was found.
        advice: what to do about it; empty if there is nothing to do.
    """

    check: str
    status: str
    text: str
    advice: str = ""


def reasons_of(
    measures: Mapping[str, Any], limits: Thresholds, samples: Samples, similarity: str, transform: str = "deformable"
) -> list[Reason]:
    """Everything that was looked at.

    Args:
        measures: see :func:`.verdict.judge_outcome`; NaN where one could not be measured.
        samples: that they were measured on.
        similarity: what was optimized, for words only.
        transform: what was looked for, see :class:`monai_locor.registration.RegistrationConfig`.
    """
    unit = samples.unit, GLOBAL_SHIFT * float(samples.grid.extent.max())
    return [*_seen(measures, limits, unit, similarity, transform), *_shape(measures, limits), *_run(measures, limits)]


def _seen(m: Mapping[str, Any], limits: Thresholds, unit: tuple[float, float], similarity: str, transform: str) -> list[Reason]:
    """What the images say."""
    gain = "NMI cannot be compared: start and result share too few voxels"
    if not math.isnan(m["information_gain"]):
        was = "akin to what was optimized" if similarity in INFORMATION else "which was not optimized"
        gain = f"normalized mutual information, {was}, went from {m['nmi_before']:.3f} to {m['nmi_after']:.3f}"
    shared = f"{100 * m['overlap']:.0f} % of the smaller field of view lies inside the other image"
    elsewhere = 'check that both images show the same part of the body; start from elsewhere (initialization "moments")'
    look = "look at both images before and after in the report"
    return [
        _voxels(m, limits),
        _reason("overlap", "overlap", m, limits, shared, elsewhere),
        _warned(_reason("information gain", "information_gain", m, limits, gain, look), limits, "information_gain"),
        _warned(_alignment(m, limits, unit, transform), limits, "local_support", "beside"),
    ]


def _voxels(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    """Whether there is enough to register by."""
    text = f"{m['counted']} voxels count: finite, inside the masks, and in view of the other image"
    return _reason("voxels", "counted", m, limits, text, "check that the masks lie on what is to be aligned")


def _warned(reason: Reason, limits: Thresholds, *names: str) -> Reason:
    """A check of what was not optimized that could not be made is a warning, unless its thresholds say never."""
    asked = any(limit is not None for name in names for limit in getattr(limits, name))
    return replace(reason, status="WARN", advice=UNJUDGED) if reason.status == "SKIP" and asked else reason


def _alignment(m: Mapping[str, Any], limits: Thresholds, unit: tuple[float, float], transform: str) -> Reason:
    """Whether the images agree here and not beside it.

    Without a deformation blocks of two people's images may well be beside: that alone is then no failure.
    """
    local, around = (limits.status(name, m[name]) for name in ("local_support", "beside"))
    if transform != "deformable" and local == "FAIL":
        local = "WARN"
    worse = max(local, around, key=RANK.index)
    status = "WARN" if around == "FAIL" and local == "PASS" else worse
    texts = []
    if local != "SKIP":
        near, far = (f"{k * unit[0]:.1f}" for k in LOCAL_SHIFTS)
        share = f"{100 * m['local_support']:.0f} % of {m['blocks']} blocks"
        texts.append(f"{share} agree best in place, not {near} or {far} mm away")
    if around != "SKIP":
        texts.append(f"NMI - 1 is {m['beside']:.2f} times that of the result displaced by {unit[1]:.0f} mm")
    advice = "the images may be unrelated or the start too far off: give an initial affine"
    if transform != "deformable":
        advice = f"what is not aligned may need a deformation (transform deformable, this is {transform}); else {advice}"
    text = "; ".join(texts) or "too few voxels with contrast count to compare the result with what lies beside it"
    return Reason("alignment", status, text, advice if status in ("WARN", "FAIL") else "")


def _shape(m: Mapping[str, Any], limits: Thresholds) -> list[Reason]:
    """What the transform looks like."""
    affine = max((limits.status(name, m[name]) for name in ("stretch", "shear_degrees")), key=RANK.index)
    text = f"lengths change by a factor of up to {m['stretch']:.2f}, right angles by up to {m['shear_degrees']:.0f} degrees"
    if m["determinant"] <= 0:
        affine, text = "FAIL", f"it mirrors the image (determinant {m['determinant']:.2f})"
    advice = "give an initial affine, or masks of what is to be aligned"
    folding = "nothing folds" if m["folding_percent"] == 0 else f"{m['folding_percent']:.2g} % of the voxels fold"
    jacobian = (
        f"Jacobian determinant {m['jacobian_p01']:.2f} to {m['jacobian_p99']:.2f} in 98 % of the voxels "
        f"({m['jacobian_min']:.2f} to {m['jacobian_max']:.2f} in all)"
    )
    inverse = "no point comes back: the fields of view are apart"
    if not math.isnan(m["inverse_mm"]):
        inverse = f"95 % of the points come back to within {m['inverse_mm']:.2g} mm ({m['inverse_voxels']:.2g} voxels)"
    smoother = "raise bending_weight"
    return [
        Reason("affine", affine, text, advice if affine in ("WARN", "FAIL") else ""),
        _reason("folding", "folding_percent", m, limits, folding, smoother),
        _reason("volume change", "volume_change", m, limits, jacobian, smoother),
        _reason("inverse", "inverse_voxels", m, limits, inverse, smoother),
    ]


def _run(m: Mapping[str, Any], limits: Thresholds) -> list[Reason]:
    """What the optimization did."""
    rest = m["rest"]
    fell = "nothing was optimized"
    if not math.isnan(rest):
        fell = f"{100 * abs(rest):.1f} % of the loss's whole {'fall' if rest >= 0 else 'movement was a rise,'} "
        fell += "came in the last quarter of the last stage" if rest >= 0 else "in the last quarter of the last stage"
    converged = limits.status("rest", abs(rest))
    left_out = f"{100 * m['dropped']:.1f} % of the steps were dropped: their loss was not finite"
    return [
        _stages(m, limits),
        Reason("convergence", converged, fell, "give the last stage more iterations" if converged in ("WARN", "FAIL") else ""),
        _reason("steps", "dropped", m, limits, left_out if m["dropped"] else "no step was dropped", "lower the learning rates"),
    ]


def _stages(m: Mapping[str, Any], limits: Thresholds) -> Reason:
    """Whether the stages had something to optimize."""
    text = "in every stage both images count somewhere"
    if math.isnan(m["blind"]):
        text = "no stage had a step"
    elif m["blind"]:
        text = f"in {100 * m['blind']:.0f} % of the stages the loss ended at that of nothing: nowhere did both images count"
    return _reason("stages", "blind", m, limits, text, "check the masks, and start from elsewhere (initial affine)")


def _reason(check: str, name: str, m: Mapping[str, Any], limits: Thresholds, text: str, advice: str) -> Reason:
    status = limits.status(name, m[name])
    return Reason(check, status, text, advice if status in ("WARN", "FAIL") else "")
