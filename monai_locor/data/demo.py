# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A pair of brain images for demonstrations, from files that another package ships; nothing is downloaded.

The T1 template and the tissue maps are the symmetric ICBM 2009a average of 152 brains (Fonov 2011,
doi 10.1016/j.neuroimage.2010.07.033), skull-stripped, inside the nilearn wheel. The second image is *synthesized*
from them with the contrast of a T2-weighted scan; it is not a measurement.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid, voxel_to_voxel
from ..io.nifti import load_nifti
from .synthetic import smooth_noise

__all__ = ["mni152_pair", "t2_like"]

TEMPLATE_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
T1_OF_TISSUE = {"gm": 0.65, "wm": 0.875, "csf": 0.24}  # medians of the template in pure tissue, relative to its maximum
T2_OF_TISSUE = {"gm": 0.52, "wm": 0.34, "csf": 1.0}


def mni152_pair(spacing_mm: float = 2.0, seed: int = 0) -> tuple[MetaTensor, MetaTensor, MetaTensor]:
    """The MNI152 T1 template, an image of T2-like contrast aligned with it, and the brain mask.

    Args:
        spacing_mm: isotropic voxel size; the files have 1 mm.
        seed: for the noise and bias field of the T2-like image.

    Returns:
        T1, T2-like and mask, each ``(1, X, Y, Z)`` on one RAS grid; images in about [0, 1], zero outside the brain;
        the mask is 0 or 1, uint8.

    Raises:
        ImportError: if nilearn is not installed; the message names the extra that installs it.
        InputError: if the spacing is not between 1 and 8 mm.
    """
    if not 1 <= spacing_mm <= 8:
        raise InputError(f"spacing_mm must be between 1 and 8, got {spacing_mm}")
    files = {name: load_nifti(_data_folder() / TEMPLATE_FILE.format(name)) for name in ("t1", "gm", "wm")}
    source = Grid(files["t1"].shape, files["t1"].affine)
    grid = source.resampled([spacing_mm] * 3)
    t1, gm, wm = (torch.from_numpy(np.asarray(f.dataobj, dtype=np.float32) / 255) for f in files.values())
    t1, gm, wm, brain = (_averaged(v, source, grid) for v in (t1, gm, wm, (t1 > 0).float()))
    mask = brain > 0.5
    affine = torch.from_numpy(grid.affine.copy())
    images = (t1 * mask, t2_like(t1, gm, wm, mask, grid, seed), mask.to(torch.uint8))
    t1_image, t2_image, mask_image = (MetaTensor(i[None], affine=affine) for i in images)
    return t1_image, t2_image, mask_image


def t2_like(t1: torch.Tensor, gm: torch.Tensor, wm: torch.Tensor, mask: torch.Tensor, grid: Grid, seed: int) -> torch.Tensor:
    """T2 contrast from tissue fractions: fluid bright, gray matter in between, white matter dark, all ``(X, Y, Z)``.

    T1 contrast that the tissue fractions do not explain (nuclei, myelin) is inverted and added at half strength. A smooth
    multiplicative bias field (10 % standard deviation, 40 mm) and noise (1.5 % of the fluid) are added.

    Args:
        t1: in [0, 1].
        gm: fraction of gray matter, in [0, 1].
        wm: fraction of white matter, in [0, 1].
        mask: bool; zero outside.
        grid: of all of them.
        seed: for bias and noise.
    """
    share = {"gm": gm, "wm": wm, "csf": (1 - gm - wm).clamp(0, 1)}
    expected = sum(share[k] * T1_OF_TISSUE[k] for k in share)
    image = sum(share[k] * T2_OF_TISSUE[k] for k in share) - 0.5 * (t1 - expected)
    rng = np.random.default_rng(seed)
    bias = torch.from_numpy(smooth_noise(grid, 1, 40.0, rng)[0]).float()
    noise = torch.from_numpy(rng.standard_normal(grid.shape)).float()
    return (image * torch.exp(0.1 * bias) + 0.015 * noise).clamp(min=0) * mask


def _averaged(volume: torch.Tensor, source: Grid, grid: Grid) -> torch.Tensor:
    """A volume on a coarser grid along the same axes, each voxel averaged over about its own size."""
    change = voxel_to_voxel(grid, source)
    for axis, (fine, coarse) in enumerate(zip(source.shape, grid.shape, strict=True)):
        step, first = change[axis, axis], change[axis, -1]
        sigma = max(
            math.sqrt(max(step**2 - 1, 0.0)) / 2.355, 0.3
        )  # the full width at half maximum is the growth of the voxel size
        centers = first + step * torch.arange(coarse, dtype=torch.float64)
        weights = torch.exp(-0.5 * ((torch.arange(fine) - centers[:, None]) / sigma) ** 2)
        weights = (weights / weights.sum(1, keepdim=True)).float()
        volume = torch.tensordot(volume, weights, dims=([0], [1]))  # moves the next axis to the front
    return volume


def _data_folder() -> Path:
    try:
        import nilearn
    except ImportError as error:
        raise ImportError("the demonstration images come with nilearn: pip install 'monai-locor[demo]'") from error
    return Path(nilearn.__file__).parent / "datasets" / "data"
