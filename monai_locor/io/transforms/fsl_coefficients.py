# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""FNIRT coefficient files (``fnirt --cout``): a cubic B-spline displacement added to an affine map.

``pixdim`` holds the node spacing in voxels of the reference image, and the intent parameters hold the voxel sizes of that
image; the second node along each axis is at the first voxel. The sform is the initial FLIRT matrix of the registration. A
position ``x`` in the reference image is mapped to ``inv(matrix) x + u(x)``, as in ``applywarp`` and
``fnirtfileutils --withaff``.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from ...errors import InputError
from ...geometry import AffineStep, Grid, SpatialTransform, SplineStep
from .base import check_grid
from .fsl_space import from_fsl, is_swapped

__all__ = ["CUBIC_INTENT", "OTHER_BASIS_INTENTS", "coefficients"]

CUBIC_INTENT, OTHER_BASIS_INTENTS = 2007, (2008, 2009)
_REMEDY = "make a field of it with fnirtfileutils --in --ref --withaff --out"


def coefficients(image: nib.nifti1.Nifti1Pair, name: str, fixed: Grid | None, moving: Grid) -> SpatialTransform:
    """Return the transform in a coefficient file.

    Raises:
        InputError: if the basis is not cubic, or if the fixed image is missing, is not the reference image, or is
            neurological (FSL reverses its first axis).
    """
    header = image.header
    if int(header["intent_code"]) != CUBIC_INTENT:
        raise InputError(f"{name}: holds FNIRT coefficients of a basis other than cubic splines; {_REMEDY}")
    fixed = check_grid(fixed, "fixed", name)
    sizes = np.array([float(header[f"intent_p{i}"]) for i in (1, 2, 3)])
    if is_swapped(fixed) or not np.allclose(sizes, fixed.spacing, rtol=1e-3):
        raise InputError(f"{name}: is for a radiological image with voxels of {sizes.tolist()} mm; give that one, or {_REMEDY}")
    nodes = np.diag([*np.round(header["pixdim"][1:4]), 1.0])
    nodes[:3, 3] = -2 * nodes.diagonal()[:3]
    lattice = Grid(tuple(n + 2 for n in image.shape[:3]), fixed.affine @ nodes)
    matrix, world = np.asarray(header.get_sform()), from_fsl(fixed)
    data = np.asarray(image.dataobj, dtype=np.float64) @ (world[:3, :3] @ matrix[:3, :3]).T
    data = np.pad(data, ((1, 1), (1, 1), (1, 1), (0, 0)))  # nodes missing beyond the last voxels are zero
    spline = SplineStep(np.moveaxis(data, -1, 0), lattice)
    return SpatialTransform((spline, AffineStep(from_fsl(moving) @ np.linalg.inv(matrix) @ np.linalg.inv(world))))
