# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration metrics: target registration error, overlap, folding, inverse consistency, mutual information."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .jacobian import jacobian_determinant, jacobian_statistics
    from .landmarks import inverse_consistency, target_registration_error
    from .mutual_information import normalized_mutual_information
    from .ndv import non_diffeomorphic_volume
    from .overlap import common_labels, dice_per_label, hausdorff_per_label, mean_over_labels

__all__ = [
    "common_labels",
    "dice_per_label",
    "hausdorff_per_label",
    "inverse_consistency",
    "jacobian_determinant",
    "jacobian_statistics",
    "mean_over_labels",
    "non_diffeomorphic_volume",
    "normalized_mutual_information",
    "target_registration_error",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "jacobian": ["jacobian_determinant", "jacobian_statistics"],
        "landmarks": ["inverse_consistency", "target_registration_error"],
        "mutual_information": ["normalized_mutual_information"],
        "ndv": ["non_diffeomorphic_volume"],
        "overlap": ["common_labels", "dice_per_label", "hausdorff_per_label", "mean_over_labels"],
    },
)
