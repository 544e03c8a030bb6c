# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Measures of a registration: errors against a known answer, overlap, folding, inverse consistency, mutual information."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .jacobian import jacobian_determinant, jacobian_statistics
    from .landmarks import inverse_consistency, target_registration_error
    from .mutual_information import normalised_mutual_information
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
    "normalised_mutual_information",
    "target_registration_error",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "jacobian": ["jacobian_determinant", "jacobian_statistics"],
        "landmarks": ["inverse_consistency", "target_registration_error"],
        "mutual_information": ["normalised_mutual_information"],
        "ndv": ["non_diffeomorphic_volume"],
        "overlap": ["common_labels", "dice_per_label", "hausdorff_per_label", "mean_over_labels"],
    },
)
