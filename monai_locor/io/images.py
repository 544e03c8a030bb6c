# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading, checking and writing images, masks and label maps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import DTypeLike

from ..errors import InputError
from ..geometry import Grid
from ..tensors import host_array, plain
from .content_detection import not_whole
from .file_channel import FileChannel
from .image_source import ImageSource, load_source
from .itk_library import load_itk
from .libraries import image_for_itk
from .nifti import has_shear, save_nifti
from .ome_zarr.writing import write_ome_zarr
from .paths import IMAGE_SUFFIXES, atomic_path, is_picture
from .pictures import MAX_PIXELS, write_picture
from .stored_image import named_channels

__all__ = ["IMAGE_SUFFIXES", "read_image", "read_labels", "read_mask", "rounded_labels", "write_image"]

logger = logging.getLogger(__name__)

_ROUNDING = 1e-4  # overshoot of weights beyond 0 and 1 by resampling and slopes

# intents that remain valid after resampling; statistical intents have parameters that are not read
PRESERVED_INTENTS = (
    *("label", "neuroname", "estimate", "z score", "p value", "log p value", "log10 p value"),
    *("dimensionless", "time series", "rgb vector", "rgba vector"),
)
# dtypes that NIfTI tools do not read, and their replacements
_STORED = {"bool": "uint8", "int64": "int32", "uint64": "uint32", "float16": "float32", "float64": "float32"}


def read_image(
    source: ImageSource, role: str = "fixed", channel: int | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[MetaTensor, torch.Tensor | None]:
    """Read an image and check that it can be registered.

    Reads all formats of :func:`monai_locor.io.image_files.read_stored` and folders of one DICOM series; ``FOLDER/UID`` is
    one of several series in a folder. Files read by nibabel get nibabel's affine. Trailing axes of one voxel are dropped: a
    file of shape ``(H, W, 1)`` is a 2-D image, in in-plane coordinates if its plane is not the x-y plane. NaN and infinite
    voxels are replaced by the smallest finite value, and a warning with their number is logged. Inconsistent NIfTI headers
    are also logged.

    Args:
        source: a file, or an image in memory ``(C, *spatial)``; a plain tensor or array has 1 mm voxels.
        role: ``"fixed"`` or ``"moving"``, for messages.
        channel: index of the channel, frame or color to select. Without it, a color picture (PNG, JPEG, TIFF, BMP) is reduced
            to one intensity, and one on a bright background to its optical density, see
            :func:`monai_locor.io.pictures.for_registration`.
        max_pixels: pictures with more pixels are averaged over blocks.

    Returns:
        the image ``(1, *spatial)``, D = 2 or 3, float32, with a 4x4 affine (RAS, mm) and its file name in ``meta``; and a
        bool mask ``(1, *spatial)`` of its finite voxels, or ``None`` if all are finite.

    Raises:
        InputError: if the file is missing or unreadable; if the image has several channels and ``channel`` is ``None``, is
            complex, has the wrong number of axes or a singular or non-finite affine, or is constant; or if more than half
            of its voxels are not finite.
    """
    name, image = load_source(source, f"{role} image", channel, max_pixels=max_pixels)
    data = image.as_tensor()
    valid = torch.isfinite(data)
    bad = int((~valid).sum())
    if 2 * bad > data.numel():
        raise InputError(f"{name}: {bad} of {data.numel()} voxels are NaN or infinite; check how it was made")
    low, high = (float(v) for v in data[valid].aminmax())
    if low == high:
        raise InputError(f"{name}: every voxel is {low:.9g}; a constant image cannot be registered, check the file")
    if not bad:
        return image, None
    logger.warning("%s: %d of %d voxels are NaN or infinite and do not count", name, bad, data.numel())
    return MetaTensor(torch.where(valid, data, low), meta=image.meta), valid


def read_mask(source: ImageSource, role: str = "fixed") -> MetaTensor:
    """Read a mask of the voxels that are used for registration.

    Args:
        source: a file, or a mask in memory ``(1, *spatial)``, of any type.
        role: ``"fixed"`` or ``"moving"``, for messages.

    Returns:
        ``(1, *spatial)`` float32 in [0, 1] with a 4x4 affine (RAS, mm). Values in [0, 1] are kept as weights; in other masks
        (labels, 255) all nonzero values become one. Overshoot of up to 1e-4 from resampling is clipped.

    Raises:
        InputError: as for :func:`read_image`, and if values are negative or not finite, or all are zero.
    """
    unchosen = isinstance(source, (str, os.PathLike)) and not isinstance(source, FileChannel)
    several = "all" if unchosen else None  # the message below does not tell to choose one
    name, mask = load_source(source, f"{role} mask", several)
    data = mask.as_tensor()
    if len(data) > 1:
        names = named_channels(mask.meta.get("channels", ()))
        raise InputError(f"{name}: has {len(data)} channels or frames{names}; a mask has one, save that as a file")
    if not torch.isfinite(data).all():
        raise InputError(f"{name}: holds NaN or infinite values; save it with zeros there")
    low, high = (float(v) for v in data.aminmax())
    if low < -_ROUNDING:
        raise InputError(f"{name}: holds negative values down to {low:.9g}; a mask is zero outside and positive inside")
    if high <= 0:
        raise InputError(f"{name}: is empty, every voxel is zero; leave it out or check the file")
    if low >= 0 and high <= 1:
        return mask
    weights = high <= 1 + _ROUNDING
    return MetaTensor(data.clamp(0, 1) if weights else (data > _ROUNDING).to(data.dtype), meta=mask.meta)


def read_labels(source: ImageSource, role: str = "fixed", channel: int | str | None = None) -> MetaTensor:
    """Read a label map without loss of values.

    Args:
        source: a file, or a label map in memory ``(1, *spatial)``.
        role: ``"fixed"`` or ``"moving"``, for messages.
        channel: index of the channel or frame to select, or ``"all"``.

    Returns:
        ``(1, *spatial)`` int64, or ``(C, *spatial)`` for all channels, on the host, with a 4x4 affine (RAS, mm); its
        ``meta["stored_dtype"]`` is the type of the stored voxels.

    Raises:
        InputError: if it cannot be read or contains a value that is not an integer within rounding.
    """
    name, labels = load_source(source, f"{role} labels", channel, dtype=torch.float64)
    return MetaTensor(rounded_labels(labels.cpu(), name).long(), meta=labels.meta)


def rounded_labels(image: torch.Tensor, name: str) -> torch.Tensor:
    """Round the values of a label map, in the dtype of the image.

    Args:
        image: the label map.
        name: its name for messages.

    Raises:
        InputError: if a value is not an integer within rounding.
    """
    data = plain(image)
    wrong = not_whole(host_array(data))
    if len(wrong):
        raise InputError(f"{name}: holds the value {float(wrong[0]):.9g}; labels are whole numbers, is it a label map?")
    return data.round()


def write_image(
    path: str | os.PathLike[str],
    image: torch.Tensor,
    grid: Grid,
    dtype: DTypeLike | None = None,
    said: Mapping[str, Any] | None = None,
) -> None:
    """Write an image atomically, as NIfTI or with ITK.

    Args:
        path: must end in one of :data:`IMAGE_SUFFIXES`; in ``.zarr`` for a new OME-Zarr image (extra ``formats``); or, on the
            grid of a picture, in one of :data:`.paths.PICTURE_SUFFIXES`, see :func:`.pictures.write_picture`.
        image: ``(C, *spatial)`` or ``(*spatial)``. 2-D images are written with two axes, ``(H, W)``, since ITK ignores the
            direction of a NIfTI file of shape ``(H, W, 1)`` that it reads as 2-D. Slices outside the x-y plane are written
            as ``(H, W, 1)`` at their 3-D position. Channels become the last axis, ``(X, Y, Z, C)`` or ``(X, Y, 1, C)``.
        grid: grid of the image; a sheared affine is written to NIfTI with a warning, since ITK may reject it.
        dtype: dtype of the file; floating-point values are rounded for integer types. ``None`` keeps the dtype of the image,
            except that 64-bit types, half precision and bool are converted for NIfTI tools (float32, int32, uint8).
        said: metadata of the source image, as in ``meta`` of :func:`.image_source.load_source`: ``time`` of a series,
            ``intent`` and ``intent_name`` are written to NIfTI. Tensors become ``(X, Y, Z, 1, 6)``.

    Raises:
        InputError: if ``path`` has another suffix, ITK is needed but not installed, or the format cannot store the geometry
            or several channels.
        ValueError: if the image does not fit the grid or its values do not fit ``dtype``.
    """
    data = plain(image)
    data = data[None] if data.ndim == grid.dims else data
    if tuple(data.shape[1:]) != grid.shape:
        raise ValueError(f"an image of shape {tuple(image.shape)} does not fit a grid of shape {grid.shape}")
    array = host_array(data)
    array = _cast(array, np.dtype(dtype if dtype is not None else _STORED.get(array.dtype.name, array.dtype.name)))
    if is_picture(path):
        write_picture(path, array, grid)
    elif os.fspath(path).lower().endswith(".zarr"):
        write_ome_zarr(path, array, grid, unit=(said or {}).get("unit"), channels=(said or {}).get("channels", ()))
    elif os.fspath(path).lower().endswith((".nrrd", ".mha")):
        _write_itk(path, array, grid)
    elif len(array) == 1:
        save_nifti(path, array[0], grid, **_header(said or {}, 1))
    else:
        said = _header(said or {}, len(array))
        added = 3 - grid.dims + (said.get("intent") == TENSOR_INTENT)
        save_nifti(path, np.moveaxis(array.reshape(len(array), *grid.shape, *(1,) * added), 0, -1), grid, **said)


TENSOR_INTENT = "symmetric matrix"


def _header(said: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The metadata that are valid for this number of channels, as arguments of :func:`.nifti.save_nifti`."""
    out = {}
    if channels > 1 and said.get("time") is not None:
        out["time"] = said["time"]
    intent = said.get("intent", "")
    if intent in PRESERVED_INTENTS or (intent == TENSOR_INTENT and channels == 6):
        out.update(intent=intent, intent_name=said.get("intent_name", ""))
    return out


def _write_itk(path: str | os.PathLike[str], array: np.ndarray, grid: Grid) -> None:
    """Write ``(1, *spatial)`` with ITK, compressed."""
    if len(array) != 1:
        raise InputError(f"output file {os.fspath(path)}: {len(array)} channels are written to .nii or .nii.gz only")
    if has_shear(grid):
        raise InputError(
            f"output file {os.fspath(path)}: the axes of its grid are not at right angles, which only .nii and .nii.gz express"
        )
    itk = load_itk(f"output file {os.fspath(path)}")
    with atomic_path(path) as temporary:
        itk.imwrite(image_for_itk(array, grid), str(temporary), compression=True)


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        array = np.rint(array) if array.dtype.kind == "f" else array
        limits = np.iinfo(dtype)
        if not (array.min() >= limits.min and array.max() <= limits.max):  # also fails for NaN
            raise ValueError(f"values from {array.min()} to {array.max()} do not fit {dtype}; choose another dtype")
    return array.astype(dtype, copy=False)
