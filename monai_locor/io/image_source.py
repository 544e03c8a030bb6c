# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Loading of images from files or memory, as channel-first tensors with an affine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError, one_line
from ..geometry import Grid, full_affine
from .arrays import channel_first, tensor_of
from .file_channel import FileChannel
from .image_files import read_stored
from .libraries import from_library, library_of
from .paths import expanded, is_picture
from .pictures import for_registration
from .stored_image import StoredImage, channel_index

__all__ = ["ImageSource", "load_source"]

#: a file (or a folder of one DICOM series), one channel of it (:class:`.file_channel.FileChannel`), or an image in memory:
#: MetaTensor, tensor, array or nested list, see :func:`monai_locor.io.arrays.channel_first`; ``(array, affine)``; an image of
#: nibabel, SimpleITK, ITK or ANTsPy
ImageSource: TypeAlias = "str | os.PathLike[str] | torch.Tensor | np.ndarray | Sequence[Any] | Any"


def load_source(
    source: ImageSource,
    what: str,
    channel: int | str | None = None,
    dtype: torch.dtype = torch.float32,
    max_pixels: int | None = None,
) -> tuple[str, MetaTensor]:
    """Load one or all channels of an image, without checking intensities.

    Args:
        source: file, folder of a DICOM series (``FOLDER/UID`` for one of several), or an image in memory.
        what: role of the image in the registration, for messages, e.g. ``"fixed image"``.
        channel: index of the channel to select, by default that of a :class:`.file_channel.FileChannel`; ``"all"`` selects all.
        dtype: dtype of the result: float32, or float64, which is exact for 32-bit label maps.
        max_pixels: convert a picture file (PNG, JPEG, TIFF, BMP) to an image for registration with this number of pixels at
            most: one intensity per pixel, or the selected channel, see :mod:`monai_locor.io.pictures`.

    Returns:
        a name for messages, and the image ``(1, *spatial)``, or ``(C, *spatial)`` for all channels, D = 2 or 3, with a 4x4
        affine (RAS, mm). Its ``meta`` has the file name ``filename_or_obj``, the type of the stored voxels
        ``stored_dtype``, and, if given in the file, ``channels`` (channel names), ``time``
        (:class:`.stored_image.TimeAxis`, if all frames are kept), ``intent`` and ``intent_name`` (NIfTI). Trailing axes of one
        voxel are dropped.

    Raises:
        InputError: if :func:`monai_locor.io.read_image` would reject the file, shape or affine.
    """
    if channel is None and isinstance(source, FileChannel):
        channel = source.channel
    in_memory = not isinstance(source, (str, os.PathLike))
    filename = _filename(source)
    name = f"{what} {filename or '(in memory)'}"
    stored = from_library(source, name) if in_memory else read_stored(expanded(filename, name), name)
    if stored is not None:
        if max_pixels is not None and not in_memory and is_picture(filename):
            stored = for_registration(stored, name, channel is None, max_pixels)
        stored = stored.chosen(channel, name, in_memory)
        array, affine, said = tensor_of(np.moveaxis(stored.voxels, -1, 0), dtype), stored.affine, _said(stored)
    else:
        array, affine, kind = channel_first(source, name, dtype, known=channel is not None)
        said = {"stored_dtype": kind}
        if channel != "all":
            index = channel_index(len(array), channel, array.shape[1:], name, in_memory=True)
            array = array[index : index + 1]
    if array.is_complex():
        raise InputError(f"{name}: its voxels are complex ({array.dtype}); save the magnitude or the phase as an image")
    image = _squeezed(array.detach().to(dtype), name)
    out = MetaTensor(image, affine=torch.from_numpy(full_affine(affine)), meta={"filename_or_obj": filename, **said})
    _check_affine(out, name)
    return name, out


def _filename(source: ImageSource) -> str:
    """The file name of a source, or the one stored in an image in memory; empty if there is none."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, MetaTensor):
        return str(source.meta.get("filename_or_obj", ""))
    known = getattr(source, "get_filename", None)  # of nibabel
    return str(known() or "") if known is not None and library_of(source) == "nibabel" else ""


def _said(stored: StoredImage) -> dict[str, Any]:
    """Metadata of a file other than voxels and affine."""
    names = ("channels", "time", "intent", "intent_name")
    said = {name: getattr(stored, name) for name in names}
    return {"stored_dtype": stored.dtype, **{name: value for name, value in said.items() if value}}


def _squeezed(image: torch.Tensor, name: str) -> torch.Tensor:
    """Drop trailing axes of one voxel, keeping at least two spatial axes."""
    shape = tuple(image.shape)
    while image.ndim > 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim not in (3, 4) or image.numel() == 0:
        raise InputError(f"{name}: has shape {shape[1:]}; images must have two or three axes and no batch axis, take one item")
    return image


def _check_affine(image: MetaTensor, name: str) -> None:
    try:
        Grid.of(image)
    except ValueError as error:
        raise InputError(f"{name}: {one_line(error)}; repair its header, or save it again with a valid geometry") from error
