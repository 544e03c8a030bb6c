# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Masks of what is body, and not air, by thresholds and morphology as the paper's evaluation has them."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from monai_locor.errors import InputError

__all__ = ["body_mask", "foreground_mask"]

BRIGHT_QUANTILE = 0.99  # of all voxels: what counts as bright
CLOSING_RADIUS = 8  # voxels


def foreground_mask(image: MetaTensor, threshold: float, erosions: int = 1) -> MetaTensor:
    """Where an image is brighter than a threshold, eroded.

    The erosions, by one voxel face to face, take away what interpolation has left at the border of the measured part. Beyond
    the image is background.

    Args:
        image: ``(1, *S)``.
        threshold: voxels above it count.
        erosions: how often.

    Returns:
        ``(1, *S)`` uint8 with the image's affine.

    Raises:
        InputError: when nothing is left.
    """
    mask = (image.as_tensor()[0] > threshold).numpy()
    if erosions:
        mask = ndimage.binary_erosion(mask, iterations=erosions)
    return _mask_of(mask, image, f"nothing above {threshold:g} is left after {erosions} erosions")


def body_mask(image: MetaTensor, threshold: float, dilation: int = 0) -> MetaTensor:
    """The body in an MR image: the paper's evaluation masks of CERMEP and IXI.

    The image is divided by its 99 % quantile, median-filtered (3 voxels) and thresholded; then come an opening by one voxel,
    the largest component (face to face), a closing by eight voxels, the filling of holes (all but the largest component of
    the background, also those at the border of the image), and a dilation. Radii are in voxels of the image whatever their
    size; a ball of radius r holds all voxels up to r + 1/2 away. Equal, voxel by voxel, to ``iMath`` of ANTs with ``ME``,
    ``MD``, ``GetLargestComponent``, ``MC``, ``FillHoles`` and ``MD``.

    Args:
        image: ``(1, *S)``.
        threshold: share of the 99 % quantile; the paper has 0.1 for CERMEP's T1, 0.05 for IXI's PD.
        dilation: voxels; the paper has 2 for CERMEP, 0 for IXI.

    Returns:
        ``(1, *S)`` uint8 with the image's affine.

    Raises:
        InputError: when nothing is above the threshold, or nothing is left.
    """
    values = image.as_tensor()[0].double().numpy()
    bright = float(np.quantile(values, BRIGHT_QUANTILE))
    if not bright > 0:
        raise InputError(f"{_name(image)}: its 99 % quantile is {bright:g}, there is no body to find; is it an MR image?")
    mask = ndimage.median_filter(values / bright, size=3) > threshold
    mask = _dilated(_eroded(mask, 1), 1)
    mask = np.pad(_largest(mask), CLOSING_RADIUS)
    mask = _eroded(_dilated(mask, CLOSING_RADIUS), CLOSING_RADIUS)[
        tuple(slice(CLOSING_RADIUS, -CLOSING_RADIUS) for _ in mask.shape)
    ]
    mask = _dilated(~_largest(~mask), dilation)
    return _mask_of(mask, image, f"nothing is left of what is above {threshold:g} times its 99 % quantile")


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest component, face to face."""
    parts, count = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count > 1 else mask


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """By a ball, background beyond the image."""
    return _within(mask, radius) if radius and mask.any() else mask


def _eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """By a ball, foreground beyond the image."""
    return ~_within(~mask, radius) if not mask.all() else mask


def _within(mask: np.ndarray, radius: int) -> np.ndarray:
    """Voxels at most ``radius + 1/2`` from the mask."""
    distance: np.ndarray = ndimage.distance_transform_edt(~mask)
    return distance <= math.nextafter(radius + 0.5, math.inf)


def _mask_of(mask: np.ndarray, image: MetaTensor, otherwise: str) -> MetaTensor:
    if not mask.any():
        raise InputError(f"{_name(image)}: {otherwise}; is it the image that it should be?")
    return MetaTensor(torch.from_numpy(mask.astype(np.uint8))[None], affine=image.affine.clone())


def _name(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj") or "image in memory")
