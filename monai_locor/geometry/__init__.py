# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Voxel grids, coordinate conversions, sampling and spatial transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .axiswise import interpolation_matrix, separable, toeplitz
    from .blocks import warp_in_blocks
    from .bspline import cubic_bspline
    from .comparison import check_planes, plane_angle, same_grid
    from .grid import Grid, affine_about, apply_affine, or_identity, stored_order, voxel_to_voxel
    from .mapping import warped
    from .partition import grid_slabs, slabs
    from .planes import full_affine
    from .sampling import (
        identity_points,
        reorder,
        sample,
        sample_gradient,
        sample_gradients,
        sample_normalized,
        sample_planar,
        to_normalized,
    )
    from .steps import AffineStep, FieldStep, SplineStep, Step
    from .transform import SpatialTransform
    from .warping import from_voxels, inside, mapped_points, to_voxels, warp

__all__ = [
    "AffineStep",
    "FieldStep",
    "Grid",
    "SpatialTransform",
    "SplineStep",
    "Step",
    "affine_about",
    "apply_affine",
    "check_planes",
    "cubic_bspline",
    "from_voxels",
    "full_affine",
    "grid_slabs",
    "identity_points",
    "inside",
    "interpolation_matrix",
    "mapped_points",
    "or_identity",
    "plane_angle",
    "reorder",
    "same_grid",
    "sample",
    "sample_gradient",
    "sample_gradients",
    "sample_normalized",
    "sample_planar",
    "separable",
    "slabs",
    "stored_order",
    "to_normalized",
    "to_voxels",
    "toeplitz",
    "voxel_to_voxel",
    "warp",
    "warp_in_blocks",
    "warped",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "grid": ["Grid", "affine_about", "apply_affine", "or_identity", "stored_order", "voxel_to_voxel"],
        "comparison": ["check_planes", "plane_angle", "same_grid"],
        "partition": ["grid_slabs", "slabs"],
        "planes": ["full_affine"],
        "bspline": ["cubic_bspline"],
        "sampling": [
            "identity_points",
            "reorder",
            "sample",
            "sample_gradient",
            "sample_gradients",
            "sample_normalized",
            "sample_planar",
            "to_normalized",
        ],
        "axiswise": ["interpolation_matrix", "separable", "toeplitz"],
        "steps": ["AffineStep", "FieldStep", "SplineStep", "Step"],
        "transform": ["SpatialTransform"],
        "mapping": ["warped"],
        "blocks": ["warp_in_blocks"],
        "warping": ["from_voxels", "inside", "mapped_points", "to_voxels", "warp"],
    },
)
