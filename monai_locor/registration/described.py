# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Description of the arguments of a registration as plain values for ``run.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..io.arrays import images_of_channels
from ..io.file_channel import FileChannel
from ..io.image_source import load_source
from ..io.libraries import library_of
from ..io.meshes import SurfaceMesh
from ..io.stored_files import stored_place
from ..io.transforms.ants_syntax import parse_item
from ..io.transforms.conversion import as_transform
from ..roles import ROLES
from ..tensors import as_tensor, host_array
from .labels import LabelSource, check_labels
from .landmarks import Landmarks
from .manifest import CODE_ARGUMENTS, INPUT_IMAGES, INPUT_NAMES, TRANSFORM_NAMES, sha256
from .surfaces import surface_pairs

__all__ = ["described_arguments", "described_image", "described_inputs", "described_start"]


def described_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the arguments of :func:`monai_locor.register`, except the settings, as plain values for JSON.

    Files are recorded by absolute path, hash, DICOM series and channel, matrices and landmarks by their values, other arrays by
    shape and hash, code by its name.
    """
    out = described_inputs({name: arguments.get(name) for name in INPUT_NAMES})
    for name in CODE_ARGUMENTS:
        value = arguments.get(name)
        if value is not None and not isinstance(value, str):
            out[name] = {"code": _code_name(value)}
    out["seed"] = int(arguments["seed"])
    out["device"] = None if arguments.get("device") is None else str(arguments["device"])
    weights = arguments.get("channel_weights")
    out["channel_weights"] = None if weights is None else [float(w) for w in weights]
    landmarks = arguments.get("landmarks")
    if landmarks is not None:
        out["landmarks"] = Landmarks.of(landmarks).described()
    labels = arguments.get("labels")
    if labels is not None:
        out["labels"] = _described_labels(labels)
    if arguments.get("surfaces") is not None:
        out["surfaces"] = [
            {"fixed": _described(fixed), "moving": _described(moving), "weight": weight}
            for fixed, moving, weight in surface_pairs(arguments["surfaces"])
        ]
    devices = arguments.get("devices")
    out["devices"] = None if devices is None else [str(d) for d in devices]
    return out


def _described_labels(labels: LabelSource) -> dict[str, Any]:
    """Describe label maps and their weights."""
    check_labels(labels)
    weights = labels[2] if len(labels) > 2 else None
    maps = {role: described_image(source) for role, source in zip(ROLES, labels[:2], strict=True)}
    return {**maps, "weights": None if weights is None else {str(label): float(w) for label, w in weights.items()}}


def described_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Describe images, transforms and other inputs by name, except those that are None."""
    return {name: _kind(name)(value) for name, value in inputs.items() if value is not None}


def _kind(name: str) -> Callable[[Any], dict[str, Any]]:
    return described_image if name in INPUT_IMAGES else described_start if name in TRANSFORM_NAMES else _described


def described_image(value: Any) -> dict[str, Any]:
    """Describe an image, or a list of them."""
    several = images_of_channels(value)
    if several is not None:
        return {"list": [described_image(item) for item in several]}
    if library_of(value) == "nibabel":  # reading it would repeat warnings about its header
        return _described(MetaTensor(torch.from_numpy(np.array(value.dataobj, np.float32))[None], affine=value.affine))
    known = isinstance(value, (str, PathLike, torch.Tensor, np.ndarray))
    return _described(value if known else load_source(value, "image", "all")[1])


def described_start(value: Any) -> dict[str, Any]:
    """Describe an initial transform: a file, a list of files, an array or an object; affine transforms by their matrix."""
    if isinstance(value, str):
        path, back = parse_item(value)
        return {**described_start(path), **({"inverse": True} if back else {})}
    if isinstance(value, PathLike):
        return _file(value, transform=True)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, (str, PathLike)) for item in value):
        return {"list": [described_start(item) for item in value]}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return _described(value)
    transform = as_transform(value, "initial")
    if transform is None:
        return _described(np.asarray(value))
    return {"matrix": transform.matrix.tolist()} if transform.is_affine else {"memory": type(value).__name__}


def _file(value: str | PathLike[str], transform: bool = False) -> dict[str, Any]:
    path = Path(value).expanduser().absolute()
    place = stored_place(path)
    found: dict[str, Any] = {"path": str(path), "sha256": sha256(place, transform)}
    if place == path.parent and not transform:
        found["series"] = path.name
    return {**found, "channel": int(value.channel)} if isinstance(value, FileChannel) else found


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, (str, PathLike)):
        return _file(value)
    if isinstance(value, SurfaceMesh):
        value = np.concatenate((value.vertices, value.faces))
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        return {"memory": type(value).__name__}
    tensor = as_tensor(value)
    array = host_array(tensor)
    if array.ndim == 2 and array.shape[0] == array.shape[1] <= 4:
        return {"matrix": array.astype(np.float64).tolist()}
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes())
    found: dict[str, Any] = {"memory": str(tensor.dtype).removeprefix("torch."), "shape": list(array.shape)}
    if isinstance(value, MetaTensor):
        digest.update(value.affine.detach().cpu().double().numpy().tobytes())
        found["name"] = str(value.meta.get("filename_or_obj", ""))
    return {**found, "sha256": digest.hexdigest()}


def _code_name(value: Callable[..., Any]) -> str:
    value = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', '?')}"
