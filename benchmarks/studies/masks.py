# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Masks of the body without air, by thresholds and morphology, as in the paper's evaluation."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from monai_locor.errors import InputError

__all__ = ["body_mask", "foreground_mask"]

BRIGHT_QUANTILE = 0.99  # of all voxels, used as the bright reference
CLOSING_RADIUS = 8  # voxels


def foreground_mask(image: MetaTensor, threshold: float, erosions: int = 1) -> MetaTensor:
    """The region brighter than a threshold, eroded.

    Each erosion removes one voxel (face neighbors); they remove interpolation artifacts at the border of the measured region.
    The outside of the image counts as background.

    Args:
        image: ``(1, *S)``.
        threshold: lower limit, exclusive.
        erosions: number of erosions.

    Returns:
        ``(1, *S)`` uint8 with the image's affine.

    Raises:
        InputError: if the mask is empty.
    """
    mask = (image.as_tensor()[0] > threshold).numpy()
    if erosions:
        mask = ndimage.binary_erosion(mask, iterations=erosions)
    return _mask_of(mask, image, f"nothing above {threshold:g} is left after {erosions} erosions")


def body_mask(image: MetaTensor, threshold: float, dilation: int = 0) -> MetaTensor:
    """The body in an MR image: the paper's evaluation masks of CERMEP and IXI.

    The image is divided by its 99 % quantile, median-filtered (3 voxels) and thresholded; it is followed by an opening by one
    voxel, the largest component (face neighbors), a closing by eight voxels, hole filling (all components of the background but
    the largest, also those at the border of the image), and a dilation. Radii are in voxels of the image,
    whatever their size; a ball of radius r contains all voxels up to r + 1/2 away. The result equals, voxel by voxel, ``iMath``
    of ANTs with ``ME``,
    ``MD``, ``GetLargestComponent``, ``MC``, ``FillHoles`` and ``MD``.

    Args:
        image: ``(1, *S)``.
        threshold: fraction of the 99 % quantile; in the paper 0.1 for CERMEP's T1, 0.05 for IXI's PD.
        dilation: voxels; in the paper 2 for CERMEP, 0 for IXI.

    Returns:
        ``(1, *S)`` uint8 with the image's affine.

    Raises:
        InputError: if nothing is above the threshold, or the mask is empty.
    """
    values = image.as_tensor()[0].double().numpy()
    bright = float(np.quantile(values, BRIGHT_QUANTILE))
    if not bright > 0:
        raise InputError(f"{_name(image)}: its 99 % quantile is {bright:g}, so no body can be found; give an MR image")
    mask = ndimage.median_filter(values / bright, size=3) > threshold
    mask = _dilated(_eroded(mask, 1), 1)
    mask = np.pad(_largest(mask), CLOSING_RADIUS)
    mask = _eroded(_dilated(mask, CLOSING_RADIUS), CLOSING_RADIUS)[
        tuple(slice(CLOSING_RADIUS, -CLOSING_RADIUS) for _ in mask.shape)
    ]
    mask = _dilated(~_largest(~mask), dilation)
    return _mask_of(mask, image, f"nothing is left of what is above {threshold:g} times its 99 % quantile")


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest component (face neighbors)."""
    parts, count = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count > 1 else mask


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by a ball, with background outside the image."""
    return _within(mask, radius) if radius and mask.any() else mask


def _eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """Erosion by a ball, with foreground outside the image."""
    return ~_within(~mask, radius) if not mask.all() else mask


def _within(mask: np.ndarray, radius: int) -> np.ndarray:
    """Voxels at most ``radius + 1/2`` from the mask."""
    distance: np.ndarray = ndimage.distance_transform_edt(~mask)
    return distance <= math.nextafter(radius + 0.5, math.inf)


def _mask_of(mask: np.ndarray, image: MetaTensor, otherwise: str) -> MetaTensor:
    if not mask.any():
        raise InputError(f"{_name(image)}: {otherwise}; check that it is the right image")
    return MetaTensor(torch.from_numpy(mask.astype(np.uint8))[None], affine=image.affine.clone())


def _name(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj") or "image in memory")
