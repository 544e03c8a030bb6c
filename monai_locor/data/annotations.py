# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Annotations of images: label maps and landmarks."""

from __future__ import annotations

from os import PathLike

import torch
from monai.data.meta_tensor import MetaTensor

from ..io import ImageSource
from ..io.image_source import load_source
from ..io.images import rounded_labels
from ..io.points import read_points

__all__ = ["read_label", "read_landmarks"]


def read_label(source: ImageSource, role: str = "fixed") -> MetaTensor:
    """Read a label map.

    Args:
        source: a file, or a label map in memory ``(1, *spatial)``.
        role: ``"fixed"`` or ``"moving"``, for messages.

    Returns:
        ``(1, *spatial)`` float32, whole numbers, with a 4x4 affine (RAS, mm).

    Raises:
        InputError: if it cannot be read or contains a value that is not an integer within rounding.
    """
    name, label = load_source(source, f"{role} label")
    return MetaTensor(rounded_labels(label, name), meta=label.meta)


def read_landmarks(path: str | PathLike[str], role: str = "fixed") -> torch.Tensor:
    """Read points from a CSV file with the header ``x,y,z`` (``x,y`` in 2-D), or from files of 3D Slicer.

    Args:
        path: of the file, see :func:`monai_locor.io.read_points`.
        role: ``"fixed"`` or ``"moving"``, for messages.

    Returns:
        ``(N, D)`` float64, world RAS mm.

    Raises:
        InputError: if the file cannot be read, or a line does not contain D finite numbers.
    """
    return read_points(path, what=f"{role} landmarks").points
