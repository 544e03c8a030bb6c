# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images in memory: tensors, arrays and nested lists, with or without channel axis and affine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError, one_line
from ..tensors import plain

__all__ = ["bare_array", "channel_first", "images_of_channels", "is_placed", "tensor_of"]


def images_of_channels(source: Any) -> list[Any] | None:
    """The images of a list, each with one or more channels; None for a single image.

    A list or tuple of files or images is a multi-channel image; a nested list of numbers is an array; a tuple
    ``(array, affine)`` is one image.

    >>> images_of_channels(["t1.nii", "t2.nii"]), images_of_channels([[1, 2], [3, 4]])
    (['t1.nii', 't2.nii'], None)
    """
    if not isinstance(source, (list, tuple)) or is_placed(source) or _is_number(_first_leaf(source)):
        return None
    return list(source)


def tensor_of(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A copy with this dtype, from any byte order and integer type; complex arrays stay complex."""
    real = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(array, dtype=np.complex64 if np.iscomplexobj(array) else real, order="C"))


def channel_first(source: Any, name: str, dtype: torch.dtype, known: bool = False) -> tuple[torch.Tensor, np.ndarray, str]:
    """Voxels ``(C, *spatial)``, affine, ``(3, 3)`` or ``(4, 4)``, and dtype name of an image in memory.

    ======================  ==================================================================================
    shape                   meaning
    ======================  ==================================================================================
    ``(H, W)``              a 2-D image
    ``(1, H, W)``           a 2-D image with channel axis; ambiguous, and an error, with a 4x4 affine
    ``(X, Y, Z)``           3-D image if the affine is 4x4 or it comes from ``LoadImage``; C channels of a 2-D image if 3x3
    ``(C, X, Y, Z)``        a 3-D image with channel axis
    ======================  ==================================================================================

    Args:
        source: MetaTensor, tensor, array, nested list of numbers, or ``(array, affine)`` with an affine, RAS mm; or any
            array-like object with such an ``affine``, e.g. a TorchIO image. Without an affine, voxels are 1 mm.
        name: name of the image for messages.
        dtype: dtype of the copies of arrays; tensors are not converted.
        known: take the first of three axes as the channel axis if neither its size nor an affine determines it.

    Raises:
        InputError: if it is none of these, or its shape is ambiguous.
    """
    affine = None
    if is_placed(source):
        source, affine = source[0], _affine(source[1], name)
    elif not isinstance(source, (torch.Tensor, np.ndarray)) and getattr(source, "affine", None) is not None:
        affine = _affine(source.affine, name)
    if not isinstance(source, torch.Tensor):
        source = _array(source, name)
    add = _lacks_channel(source, affine, name, known)
    if affine is None:
        affine = source.affine.detach().cpu().double().numpy() if isinstance(source, MetaTensor) else np.eye(4)
    tensor = tensor_of(source, dtype) if isinstance(source, np.ndarray) else plain(source)
    return tensor[None] if add else tensor, affine, str(source.dtype).removeprefix("torch.")


def bare_array(source: Any) -> torch.Tensor | np.ndarray | None:
    """A tensor, array or nested list without an affine; None for anything else."""
    if isinstance(source, MetaTensor) or is_placed(source):
        return None
    if isinstance(source, (torch.Tensor, np.ndarray)):
        return source
    if isinstance(source, (list, tuple)) and images_of_channels(source) is None:
        return _array(source, "image")
    return None


def _first_leaf(source: Any) -> Any:
    while isinstance(source, (list, tuple)) and len(source):
        source = source[0]
    return source


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex, np.number, np.bool_)) or (
        isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0
    )


def is_placed(source: Any) -> bool:
    """Whether the source is ``(array, affine)``."""
    if not isinstance(source, tuple) or len(source) != 2 or isinstance(source[0], str):
        return False
    try:
        return np.shape(source[1]) in ((3, 3), (4, 4))
    except ValueError:  # rows of different lengths
        return False


def _affine(values: Any, name: str) -> np.ndarray:
    array = np.asarray(plain(values).detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all() or (array[-1] != np.eye(len(array))[-1]).any():
        raise InputError(f"{name}: its affine is {array.tolist()}; give finite numbers with last row 0 ... 0 1")
    return array.astype(np.float64)


def _array(source: Any, name: str) -> np.ndarray:
    """Convert an array, a nested list, or an object with ``__array__``."""
    if not isinstance(source, (list, tuple)) and not hasattr(source, "__array__"):
        raise InputError(
            f"{name}: is a {type(source).__name__}; give a file name, a MetaTensor, a tensor, an array, (array, affine), or an "
            "image of nibabel, SimpleITK, ITK or ANTsPy"
        )
    if hasattr(source, "coords"):  # xarray, whose axes may be in any order
        raise InputError(f"{name}: is a {type(source).__name__}, whose coordinates are not read; give (array, affine)")
    try:
        array = np.asarray(source)
    except Exception as error:  # lists may hold any objects
        raise InputError(
            f"{name}: cannot be read as an array ({one_line(error)}); give rows of one length, or (array, affine), affine 4x4"
        ) from error
    if array.dtype.kind not in "biufc":
        raise InputError(f"{name}: holds values of type {array.dtype}; give an array of numbers, or a file")
    return array


def _lacks_channel(source: torch.Tensor | np.ndarray, affine: np.ndarray | None, name: str, known: bool) -> bool:
    """Whether the channel axis must be added."""
    shape = tuple(source.shape)
    rank = len(shape)
    if rank == 2:
        return True
    if not 3 <= rank <= 5 or (affine is not None and len(affine) == 3 and rank > 3):
        raise InputError(f"{name}: has shape {shape}; give (1, H, W) or (1, H, W, D), as by image[None]")
    if rank > 3 or (affine is not None and len(affine) == 3):
        return False
    if _is_loaded_without_channel(source, shape):
        return True
    if affine is not None:
        if shape[0] == 1:
            raise InputError(
                f"{name}: has shape {shape}, one slice of a 3-D image or a 2-D image with channel axis; give image[None] for "
                "the slice, or image[0] for the 2-D image"
            )
        return True
    if shape[0] != 1 and not known:
        raise InputError(
            f"{name}: has shape {shape}, a 3-D image without channel axis or {shape[0]} channels of a 2-D image; give "
            "image[None] or (image, affine) for the 3-D image, or one channel with image[:1]"
        )
    return False


def _is_loaded_without_channel(source: torch.Tensor | np.ndarray, shape: Sequence[int]) -> bool:
    """Whether MONAI's ``LoadImage`` recorded that there is no channel axis, and the shape has not changed since."""
    if not isinstance(source, MetaTensor) or shape[0] == 1:
        return False
    channel, stored = source.meta.get("original_channel_dim"), source.meta.get("spatial_shape")
    none = channel == "no_channel" or (isinstance(channel, float) and math.isnan(channel))
    return none and stored is not None and tuple(int(n) for n in stored) == tuple(shape)
