# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Where images come from: files through MONAI's readers, or tensors; always one channel, float32, with an affine."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypeAlias

import nibabel as nib
import numpy as np
import torch
from monai.data import ITKReader, NibabelReader
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError, one_line
from ..geometry import Grid
from ..tensors import plain
from .dicom import is_series, read_series
from .itk_library import load_itk
from .nifti import in_mm, is_nifti, load_nifti, three_dimensional, warn_about_header

__all__ = ["ImageSource", "load_source", "one_line"]

logger = logging.getLogger(__name__)

#: a file (or a folder of one DICOM series), or an image in memory, ``(C, *spatial)``
ImageSource: TypeAlias = "str | os.PathLike[str] | torch.Tensor | np.ndarray"

_NIBABEL = (".mgz", ".mgh", ".mnc", ".par", ".rec", ".head", ".brik", ".brik.gz")  # what ITK cannot read


def load_source(
    source: ImageSource, what: str, channel: int | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[str, MetaTensor]:
    """One channel of an image, as it is.

    Args:
        source: file, folder of a DICOM series (``FOLDER/UID`` for one of several), or ``(C, *spatial)``.
        what: the image's part in the registration, for messages, e.g. ``"fixed image"``.
        channel: which channel to take of several; ``"all"`` takes all.
        dtype: of the voxels: float32, or float64, which is exact for label maps of 32 bits.

    Returns:
        a name for messages, and the image ``(1, *spatial)``, or ``(C, *spatial)`` of all channels, D = 2 or 3, with a 4x4
        affine (RAS, mm) and in its meta data the file's name, ``filename_or_obj``, and the type its voxels had,
        ``stored_dtype``. Trailing axes of one voxel are gone.

    Raises:
        InputError: what :func:`monai_locor.io.read_image` says of files, shapes and affines.
    """
    in_memory = not isinstance(source, (str, os.PathLike))
    if isinstance(source, (str, os.PathLike)):
        name = f"{what} {os.fspath(source)}"
        array, affine, stored = _from_file(Path(source).expanduser(), name, dtype)
        filename = os.fspath(source)
    else:
        filename = str(source.meta.get("filename_or_obj", "")) if isinstance(source, MetaTensor) else ""
        name = f"{what} {filename or '(in memory)'}"
        array, affine, stored = _from_memory(source, name, dtype)
    if array.is_complex():
        raise InputError(f"{name}: its voxels are complex ({array.dtype}); save the magnitude or the phase as an image")
    chosen = array if channel == "all" else _one_channel(array, name, channel, in_memory)
    meta = {"filename_or_obj": filename, "stored_dtype": stored}
    image = _squeezed(chosen.detach().to(dtype), name)
    out = MetaTensor(image, affine=torch.from_numpy(three_dimensional(affine)), meta=meta)
    _check_affine(out, name)
    if out.ndim == 3 and len(affine) == 4 and np.abs(affine[2, :2]).max() > 1e-3 * np.abs(affine[:2, :2]).max():
        logger.warning("%s: the slice is tilted out of the x-y plane, in which its lengths come out too short", name)
    return name, out


def _from_file(path: Path, name: str, dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray, str]:
    """``(C, *spatial)``, the affine of a file and the type of its voxels."""
    if not path.exists() and not is_series(path):
        raise InputError(f"{name}: no such file; check its path")
    try:
        array, affine, rank = _read(path, name)
    except InputError:
        raise
    except Exception as error:  # readers raise whatever their libraries do
        raise InputError(
            f"{name}: cannot be read ({one_line(error)}); is it complete, and in a format that NIfTI or ITK tools read?"
        ) from error
    if array.dtype.names:  # RGB of NIfTI
        array = np.stack([array[component] for component in array.dtype.names], -1)
    array = array.reshape(*array.shape[:rank], -1)
    return _tensor(np.moveaxis(array, -1, 0), dtype), affine, array.dtype.newbyteorder("=").name


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A copy of this type, for any byte order and integer type; complex arrays stay complex."""
    real = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(array, dtype=np.complex64 if np.iscomplexobj(array) else real, order="C"))


def _read(path: Path, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Voxels ``(*spatial, ...)``, affine (RAS, mm) and number of spatial axes."""
    if is_series(path):
        array, affine = read_series(path, name)
        return array, affine, 3
    if is_nifti(path):
        return _read_nifti(path, name)
    if path.name.lower().endswith(_NIBABEL):
        image = nib.load(path)
        if not isinstance(image, nib.spatialimages.SpatialImage) or image.affine is None:
            raise ValueError(f"{type(image).__name__} is no volume with a place in the world")
        return np.asanyarray(image.dataobj), image.affine, min(len(image.shape), 3)
    load_itk(name)
    reader = ITKReader()
    array, meta = reader.get_data(reader.read(str(path)))
    return array, meta["affine"], min(len(meta["spatial_shape"]), 3)


def _read_nifti(path: Path, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    stored = load_nifti(path)
    _check_affine(MetaTensor(torch.zeros(1, 1, 1, 1), affine=torch.from_numpy(stored.affine)), name)
    reader = NibabelReader()
    array, meta = reader.get_data(reader.read(str(path)))
    warn_about_header(stored, meta["affine"], name)
    return array, in_mm(meta["affine"], stored), min(len(meta["spatial_shape"]), 3)


def _from_memory(source: torch.Tensor | np.ndarray, name: str, dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray, str]:
    """``(C, *spatial)``, the affine and the type of a tensor or an array."""
    if not isinstance(source, (torch.Tensor, np.ndarray)):
        raise InputError(f"{name}: is a {type(source).__name__}; give a file name, a MetaTensor, a tensor or an array")
    if not 3 <= source.ndim <= 5:
        raise InputError(f"{name}: has shape {tuple(source.shape)}; give (1, H, W) or (1, H, W, D), as by image[None]")
    if isinstance(source, MetaTensor):
        return plain(source), source.affine.detach().cpu().double().numpy(), str(source.dtype).removeprefix("torch.")
    tensor = _tensor(source, dtype) if isinstance(source, np.ndarray) else plain(source)
    return tensor, np.eye(4), str(source.dtype).removeprefix("torch.")


def _one_channel(image: torch.Tensor, name: str, channel: int | str | None, in_memory: bool) -> torch.Tensor:
    """``(1, *spatial)`` of ``(C, *spatial)``."""
    count = image.shape[0]
    if channel is None and count != 1:
        raise InputError(
            f"{name}: has {count} channels or frames of shape {tuple(image.shape[1:])}; choose one with channel=0 to "
            f"{count - 1}" + (", or add the channel axis with image[None] if there is none" if in_memory else "")
        )
    index = int(channel or 0)
    if not 0 <= index < count:
        raise InputError(f"{name}: has no channel {channel}; choose one from 0 to {count - 1}")
    return image[index : index + 1]


def _squeezed(image: torch.Tensor, name: str) -> torch.Tensor:
    """Without trailing axes of one voxel, at least two spatial axes left."""
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
