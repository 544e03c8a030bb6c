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

"""Whether a transform found beside another is its inverse, or a leftover."""

from __future__ import annotations

import numpy as np

from ...geometry import SpatialTransform

__all__ = ["undoes"]

TOLERANCE = 1.0  # voxels, of the median: an inverse that was computed, on another grid, is far better


def undoes(inverse: SpatialTransform, transform: SpatialTransform) -> bool:
    """Whether most points of the transform's domain come back through the other transform to within a voxel."""
    grid = transform.domain
    assert grid is not None
    axes = [np.linspace(0.2, 0.8, 7) * (n - 1) for n in grid.shape]  # away from borders, where inverses are cut off
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, grid.dims)
    points = index @ grid.affine[:-1, :-1].T + grid.affine[:-1, -1]
    away = np.linalg.norm(inverse.points(transform.points(points)) - points, axis=1)
    return bool(np.median(away) < TOLERANCE * grid.spacing.max())
