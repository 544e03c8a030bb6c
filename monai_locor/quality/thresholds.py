# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""WARN and FAIL thresholds of the measures of a registration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

__all__ = ["Thresholds"]

LOWER_IS_WORSE = (
    "valid_voxels",
    "overlap",
    "information_gain",
    "local_support",
    "near_contrast",
    "far_contrast",
    "nmi_shift_ratio",
    "nmi_turn_ratio",
    "nmi_mirror_ratio",
)


@dataclass(frozen=True)
class Thresholds:
    """WARN and FAIL thresholds of the measures: pairs ``(warn, fail)``, None for never.

    The defaults were set on 15 registrations of brains, heads and abdomens, MR and CT, intra- and inter-subject, on 8
    unrelated pairs (brain and abdomen, noise), and on good results that were shifted, rotated and deformed; those of alignment,
    precision and orientation on the first half of the cases of ``benchmarks/results/verdict.md``.

    Args:
        valid_voxels: number of valid voxels (finite, inside the mask and the field of view of the other image) of the image
            that has fewer; lower is worse.
        stages_without_overlap: share of the stages whose final loss was exactly that of an empty overlap.
        overlap: share of the smaller field of view that lies inside the other one; lower is worse. Good results: 0.85 to 1.
        information_gain: NMI - 1 relative to that of the start; lower is worse. Good results: 1 (aligned before) and more.
        local_support: share of the image blocks that match better in place than after a small shift
            (:func:`.alignment.local_fit`); lower is worse. Good results: 0.69 to 1, between two abdomens 0.2; shifted by 4 mm:
            0.03 to 0.12, deformed by another 4 mm: 0.2 to 0.35; unrelated images: up to 0.35.
        near_contrast: mutual information of the blocks relative to that after the best near shift; lower is worse. The truth:
            1.15 to 1.35; 4 mm from it: up to 1.1; blurred images (PET), wherever they lie: up to 1.05.
        far_contrast: the same for a far shift; lower is worse. The truth: 1.8 to 3; unrelated images and wrong orientations:
            0.8 to 1.2. A FAIL only if ``nmi_shift_ratio`` is low as well.
        nmi_shift_ratio: NMI - 1 relative to that of the result shifted by 6 % of the field of view; lower is worse. Good
            results: 1.5 to 2.4, between two abdomens 1.25; unrelated images: up to 1.15. A FAIL only if ``far_contrast`` is low
            as well, or another orientation fits about as well (``rival_lead`` above -2).
        nmi_turn_ratio: NMI - 1 relative to that of the best copy turned by 180 degrees (:mod:`.orientation`); lower is worse.
            The truth: 1.5 to 3.3; turned images: 0.5 to 1.
        nmi_mirror_ratio: the same for mirrored copies. The truth: 1.2 to 1.9; mirrored images: 0.5 to 1.
        stretch: factor by which the affine changes a length, relative to the start. Good results: up to 1.13.
        shear_degrees: change of a right angle by the affine. Good results: up to 14.
        one_subject_shear: the same in 3-D, unless the pair is known to be of two subjects. Two scans of one head, 4 mm voxels
            and a random deformation of 2 mm: up to 3.3; of two subjects: 4 to 9 (``benchmarks/results/trouble.md``).
        turn_degrees: angle by which the affine turns the image, relative to the start. Headers are usually right; left and
            right may be exchanged in an image that is mirrored front-back and turned.
        rival_lead: standard errors by which another orientation agrees better than the affine. Good results: -10 to -3; of
            slabs of 30 % of a head, -1.
        mirror_lead: likewise of a mirrored image. Good results: -10 to -3 for two MR contrasts of one brain with fine voxels;
            up to 2.9 for CT, SPECT, averages of heads or two subjects, where the images do not tell left from right.
        folding_percent: percentage of voxels with a Jacobian determinant of zero or less.
        volume_change: factor by which volumes change, from the 1st to the 99th percentile. Good results: up to 2.2.
        inverse_voxels: inverse consistency error in voxels of the fixed image, 95th percentile. Good results: up to 0.06.
        late_change: share of the total change of the losses that falls into the last quarter of the last stage. Good
            results: up to 0.03.
        skipped_steps: share of steps undone because their loss or gradient was not finite or their loss rose a lot.
    """

    valid_voxels: tuple[float, float | None] = (500.0, 50.0)
    stages_without_overlap: tuple[float, float | None] = (0.0, 0.99)
    overlap: tuple[float, float | None] = (0.5, 0.2)
    information_gain: tuple[float, float | None] = (0.9, 0.7)
    local_support: tuple[float, float | None] = (0.65, None)
    near_contrast: tuple[float, float | None] = (1.12, None)
    far_contrast: tuple[float, float | None] = (1.35, 1.2)
    nmi_shift_ratio: tuple[float, float | None] = (1.35, 1.2)
    nmi_turn_ratio: tuple[float, float | None] = (1.2, 0.8)
    nmi_mirror_ratio: tuple[float, float | None] = (1.1, 0.8)
    stretch: tuple[float, float | None] = (1.35, 1.6)
    shear_degrees: tuple[float, float | None] = (20.0, 35.0)
    one_subject_shear: tuple[float, float | None] = (3.5, None)
    turn_degrees: tuple[float, float | None] = (45.0, None)
    rival_lead: tuple[float, float | None] = (-1.0, 3.0)
    mirror_lead: tuple[float, float | None] = (-1.25, 4.0)
    folding_percent: tuple[float, float | None] = (0.01, 1.0)
    volume_change: tuple[float, float | None] = (3.0, 10.0)
    inverse_voxels: tuple[float, float | None] = (0.5, 2.0)
    late_change: tuple[float, float | None] = (0.15, None)
    skipped_steps: tuple[float, float | None] = (0.0, 0.2)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(_is_limit, value)):
                raise InputError(f"threshold {item.name} must be a pair (warn, fail) of numbers or null, got {value!r}.")
            object.__setattr__(self, item.name, tuple(value))

    @classmethod
    def of(cls, values: Thresholds | Mapping[str, Any] | None) -> Thresholds:
        """Convert a mapping of the thresholds that differ from the defaults.

        Raises:
            InputError: for an unknown name or a value that is not a pair of numbers.
        """
        if isinstance(values, Thresholds):
            return values
        names = [item.name for item in dataclasses.fields(cls)]
        changed = dict(values or {})
        unknown = [str(name) for name in changed if name not in names]
        if unknown:
            raise InputError(f"unknown thresholds: {', '.join(unknown)}; choose from {', '.join(names)}.")
        return cls(**changed)

    def status(self, name: str, value: float) -> str:
        """Compare a measure with its thresholds: ``"PASS"``, ``"WARN"`` or ``"FAIL"``; ``"SKIP"`` for NaN."""
        if math.isnan(value):
            return "SKIP"
        sign = -1 if name in LOWER_IS_WORSE else 1
        worst = "PASS"
        for status, limit in zip(("WARN", "FAIL"), getattr(self, name), strict=True):
            worst = status if limit is not None and sign * value > sign * limit else worst
        return worst


def _is_limit(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
