# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The paper's random deformations, and pairs of PD and T2 images with a known answer made by them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor.data.study_case import StudyCase
from monai_locor.data.synthetic import deform, exponential, rotation_matrix
from monai_locor.errors import InputError
from monai_locor.geometry import Grid, affine_about, apply_affine, from_voxels, inside, mapped_points, same_grid, separable
from monai_locor.tensors import plain

from .masks import body_mask

__all__ = ["t2_pd_deformation", "t2_pd_pair"]

NOISE_STD = (700.0, 900.0)  # standard deviation of the white noise, voxels
SMOOTHING_MM = (14.0, 16.0)  # standard deviation of the Gaussian
TRUNCATION = 4.0  # standard deviations at which the Gaussian ends
MAX_ROTATION = math.pi / 8  # radians, each component of the rotation vector at most
TRANSLATION_MM = 30.0  # each component at most
BODY_THRESHOLD = 0.05  # of the evaluation mask, see `body_mask`


def t2_pd_deformation(grid: Grid, seed: int | Sequence[int], voxel_mm: Sequence[float] | None = None) -> torch.Tensor:
    """Draw the paper's random transform ``d = A . exp(v)`` of a grid, as a displacement.

    ``v`` is white noise with a standard deviation drawn from 700 to 900 *voxels*, smoothed by a Gaussian with a standard
    deviation drawn from 14 to 16 *mm*, truncated at four of them: about 2 voxels root mean square along each axis on IXI's
    grids (0.94 x 0.94 x 1.25 mm), and more on coarser ones. The noise extends beyond the grid, so that ``v`` does not fade
    at its border. ``A`` is a rotation about the center of the grid (components of its vector drawn from plus or minus pi/8) and
    a translation (components from plus or minus 30 mm). The same seed gives the same transform on any machine, to rounding.

    Args:
        grid: 3-D (or 2-D).
        seed: of the random numbers.
        voxel_mm: voxel size for which the noise level is meant; ``v`` is scaled to the same strength in mm. By default the
            voxel size of the grid, as in the protocol.

    Returns:
        ``(D, *grid.shape)``, RAS mm, float32: the point x of the deformed image lies at ``x + u(x)`` in the original.

    Raises:
        ValueError: if the grid is not 2-D or 3-D.
    """
    if grid.dims not in (2, 3):
        raise ValueError(f"the grid must have 2 or 3 dimensions, got {grid.dims}")
    rng = np.random.default_rng(seed)
    strength, sigma = rng.uniform(*NOISE_STD), rng.uniform(*SMOOTHING_MM)
    rotation = rotation_matrix(rng.uniform(-MAX_ROTATION, MAX_ROTATION, 3 if grid.dims == 3 else 1))
    shift = rng.uniform(-TRANSLATION_MM, TRANSLATION_MM, grid.dims)
    ratio = 1.0 if voxel_mm is None else float(np.prod(voxel_mm) / np.prod(grid.spacing))
    strength *= ratio ** (0.5 + 1 / grid.dims)  # smoothed noise goes with the root of a voxel's volume, a length with its edge
    velocity = _smooth_noise(grid, strength, sigma / grid.spacing, rng)
    elastic = from_voxels(exponential(velocity, 1.0).double(), grid)
    points = grid.points()
    affine = affine_about(grid.center, rotation)
    affine[:-1, -1] += shift
    moved = apply_affine(affine, points + elastic.movedim(0, -1).numpy())
    return torch.from_numpy(np.moveaxis(moved - points, -1, 0).astype(np.float32))


def _smooth_noise(grid: Grid, strength: float, sigma: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """White noise under a truncated Gaussian, ``(D, *grid.shape)`` float32; both in voxels of each axis."""
    reach = [math.ceil(TRUNCATION * s) for s in sigma]
    filters = [_valid_filter(n, r, s) for n, r, s in zip(grid.shape, reach, sigma)]
    size = [n + 2 * r for n, r in zip(grid.shape, reach)]
    # one component after the other: with its margin the noise of an IXI image takes a quarter of a gigabyte
    return torch.cat([separable(filters, torch.from_numpy(rng.normal(0, strength, (1, *size)))) for _ in size]).float()


def _valid_filter(size: int, reach: int, sigma: float) -> torch.Tensor:
    """Matrix ``(size, size + 2 reach)`` of a Gaussian of sum one on an axis with a margin."""
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = np.zeros((size, size + 2 * reach))
    for row in range(size):
        matrix[row, row : row + 2 * reach + 1] = kernel / kernel.sum()
    return torch.from_numpy(matrix)


def t2_pd_pair(
    pd: MetaTensor, t2: MetaTensor, seed: int | Sequence[int] = 42, *, name: str = "", voxel_mm: Sequence[float] | None = None
) -> StudyCase:
    """The paper's task with a known answer: a PD image, deformed, is fixed, the T2 image of the same scan moves.

    Args:
        pd: ``(1, *S)``, proton density.
        t2: ``(1, *S)``, aligned with it, on the same grid.
        seed: of the deformation.
        name: of the case.
        voxel_mm: see :func:`t2_pd_deformation`.

    Returns:
        a case of the study ``"ixi"``: ``fixed``, the PD image seen through the deformation (linear, zero outside);
        ``fixed_mask``, the voxels that the deformation takes into the image; ``truth``, the deformation;
        ``evaluation_mask``, the body (:func:`.body_mask` of the PD image) seen through it, nearest neighbor.

    Raises:
        InputError: when the images do not lie on one grid, or the PD image shows no body.

    Example::

        pd, t2 = (read_image(f"IXI161-HH-2533-{contrast}.nii.gz")[0] for contrast in ("PD", "T2"))
        case = t2_pd_pair(pd, t2, seed=1)
        result = register(case.fixed, case.moving, fixed_mask=case.fixed_mask)
        IXI.score(case, result.forward_mm)
    """
    if not same_grid(Grid.of(pd), Grid.of(t2)):
        names = " and ".join(str(i.meta.get("filename_or_obj") or "image in memory") for i in (pd, t2))
        raise InputError(f"{names}: do not lie on one grid; give PD and T2 of the same scan")
    grid = Grid.of(pd)
    truth = t2_pd_deformation(grid, seed, voxel_mm)
    valid = inside(mapped_points(grid, grid, truth), grid.shape)[None]
    if not valid.any():
        raise InputError(f"case {name}: seed {seed} moves all of the image out of view; choose another")
    mask = deform(body_mask(pd, BODY_THRESHOLD), truth, "nearest")
    return StudyCase(
        study="ixi",
        name=name,
        fixed=deform(pd, truth),
        moving=t2,
        fixed_mask=MetaTensor(valid.to(torch.uint8), affine=pd.affine.clone()),
        evaluation_mask=MetaTensor(plain(mask) * valid, affine=pd.affine.clone()),
        truth=truth,
        about={"seed": seed if isinstance(seed, int) else list(seed)},
    )
