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

import numpy as np
import torch
from monai.data import ITKReader, NibabelReader
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid
from .nifti import in_mm, is_nifti, load_nifti, three_dimensional, warn_about_header

__all__ = ["ImageSource", "load_source", "one_line"]

logger = logging.getLogger(__name__)

#: a file (or a folder of one DICOM series), or an image in memory, ``(C, *spatial)``
ImageSource: TypeAlias = "str | os.PathLike[str] | torch.Tensor | np.ndarray"


def load_source(source: ImageSource, what: str, channel: int | None = None) -> tuple[str, MetaTensor]:
    """One channel of an image, as it is.

    Args:
        source: file, folder of a DICOM series, or ``(C, *spatial)``.
        what: the image's part in the registration, for messages, e.g. ``"fixed image"``.
        channel: which channel to take of several.

    Returns:
        a name for messages, and the image ``(1, *spatial)``, D = 2 or 3: float32, a 4x4 affine (RAS, mm), the file's name
        in its meta data. Trailing axes of one voxel are gone.

    Raises:
        InputError: what :func:`monai_locor.io.read_image` says of files, shapes and affines.
    """
    in_memory = not isinstance(source, (str, os.PathLike))
    if isinstance(source, (str, os.PathLike)):
        name = f"{what} {os.fspath(source)}"
        array, affine = _from_file(Path(source).expanduser(), name)
        filename = os.fspath(source)
    else:
        filename = str(source.meta.get("filename_or_obj", "")) if isinstance(source, MetaTensor) else ""
        name = f"{what} {filename or '(in memory)'}"
        array, affine = _from_memory(source, name)
    if array.is_complex():
        raise InputError(f"{name}: its voxels are complex ({array.dtype}); save the magnitude or the phase as an image")
    image = _squeezed(_one_channel(array, name, channel, in_memory).detach().to(torch.float32), name)
    out = MetaTensor(image, affine=torch.from_numpy(three_dimensional(affine)), meta={"filename_or_obj": filename})
    _check_affine(out, name)
    if out.ndim == 3 and len(affine) == 4 and np.abs(affine[2, :2]).max() > 1e-3 * np.abs(affine[:2, :2]).max():
        logger.warning("%s: the slice is tilted out of the x-y plane, in which its lengths come out too short", name)
    return name, out


def one_line(error: BaseException) -> str:
    """The gist of an exception, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _from_file(path: Path, name: str) -> tuple[torch.Tensor, np.ndarray]:
    """``(C, *spatial)`` and the affine of a file."""
    if not path.exists():
        raise InputError(f"{name}: no such file; check its path")
    try:
        array, meta = _read(path, name)
    except InputError:
        raise
    except Exception as error:  # readers raise whatever their libraries do
        raise InputError(
            f"{name}: cannot be read ({one_line(error)}); is it complete, and in a format that NIfTI or ITK tools read?"
        ) from error
    if array.dtype.names:  # RGB of NIfTI
        array = np.stack([array[component] for component in array.dtype.names], -1)
    rank = min(len(meta["spatial_shape"]), 3)
    array = array.reshape(*array.shape[:rank], -1)
    return _tensor(np.moveaxis(array, -1, 0)), meta["affine"]


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A float32 copy, for any byte order and integer type; complex arrays stay complex."""
    return torch.from_numpy(np.array(array, dtype=np.complex64 if np.iscomplexobj(array) else np.float32, order="C"))


def _read(path: Path, name: str) -> tuple[np.ndarray, dict]:
    if not is_nifti(path):
        if path.is_dir():
            _check_one_series(path, name)
        itk_reader = ITKReader()
        return itk_reader.get_data(itk_reader.read(str(path)))
    stored = load_nifti(path)
    _check_affine(MetaTensor(torch.zeros(1, 1, 1, 1), affine=torch.from_numpy(stored.affine)), name)
    reader = NibabelReader()
    array, meta = reader.get_data(reader.read(str(path)))
    warn_about_header(stored, meta["affine"], name)
    return array, {**meta, "affine": in_mm(meta["affine"], stored)}


def _check_one_series(path: Path, name: str) -> None:
    import itk  # takes a second to import

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.AddSeriesRestriction("0008|0021")
    names.SetDirectory(str(path))
    count = len(names.GetSeriesUIDs())
    if count != 1:
        raise InputError(f"{name}: the folder holds {count} DICOM series; name a folder that holds one")


def _from_memory(source: torch.Tensor | np.ndarray, name: str) -> tuple[torch.Tensor, np.ndarray]:
    """``(C, *spatial)`` and the affine of a tensor or an array."""
    if not isinstance(source, (torch.Tensor, np.ndarray)):
        raise InputError(f"{name}: is a {type(source).__name__}; give a file name, a MetaTensor, a tensor or an array")
    if not 3 <= source.ndim <= 5:
        raise InputError(f"{name}: has shape {tuple(source.shape)}; give (1, H, W) or (1, H, W, D), as by image[None]")
    if isinstance(source, MetaTensor):
        return source.as_tensor(), source.affine.detach().cpu().double().numpy()
    return _tensor(source) if isinstance(source, np.ndarray) else source, np.eye(4)


def _one_channel(image: torch.Tensor, name: str, channel: int | None, in_memory: bool) -> torch.Tensor:
    """``(1, *spatial)`` of ``(C, *spatial)``."""
    count = image.shape[0]
    if channel is None and count != 1:
        raise InputError(
            f"{name}: has {count} channels or frames of shape {tuple(image.shape[1:])}; choose one with channel=0 to "
            f"{count - 1}" + (", or add the channel axis with image[None] if there is none" if in_memory else "")
        )
    if channel is not None and not 0 <= channel < count:
        raise InputError(f"{name}: has no channel {channel}; choose one from 0 to {count - 1}")
    index = channel or 0
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
