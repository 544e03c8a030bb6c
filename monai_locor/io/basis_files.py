# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Files of learned basis functions: weights, and a description of the training images."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, one_line
from .weights import read_weights, weights_paths, write_weights

__all__ = ["DIRECTIONS", "basis_description", "read_basis", "write_basis"]

FILE_FORMAT = "monai_locor learned bases 1"
CHANNELS = ("intensity", "derivative magnitude times the distance of samples")
#: the two networks and the functions that they model
DIRECTIONS = {
    "forward": "functions of the moving image, fitted to the fixed image",
    "inverse": "functions of the fixed image, fitted to the moving image",
}
NORMALIZATION = "robust quantiles inside the mask to [0, 1]"


def basis_description(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON description of learned basis functions, as plain values.

    Args:
        settings: the fields of :class:`monai_locor.registration.BasisPair`; weights are ignored.
    """
    contrasts, limits = settings["contrasts"], settings["limits"]
    return {
        "format": FILE_FORMAT,
        "version": settings["version"],
        "contrasts": None if contrasts is None else dict(zip(("moving", "fixed"), contrasts, strict=True)),
        "channels": list(CHANNELS[: settings["in_channels"]]),
        "in_channels": settings["in_channels"],
        "num_basis": settings["num_basis"],
        "hidden_channels": list(settings["hidden_channels"]),
        "derivative": settings["derivative"],
        "normalization": {
            "range": None if settings["quantile"] is None else NORMALIZATION,
            "quantile": settings["quantile"],
            "limits": None if limits is None else list(limits),
        },
        "directions": DIRECTIONS,
    }


def write_basis(
    path: str | PathLike[str], weights: Mapping[str, Mapping[str, torch.Tensor]], description: Mapping[str, Any]
) -> list[Path]:
    """Write ``path.safetensors`` and ``path.json``; needs the package safetensors.

    Args:
        path: file name with or without ``.safetensors``.
        weights: state dict for each of :data:`DIRECTIONS`.
        description: see :func:`basis_description`.

    Raises:
        InputError, ImportError: see :func:`monai_locor.io.weights.write_weights`.
    """
    tensors = {f"{direction}.{name}": value for direction, state in weights.items() for name, value in state.items()}
    return write_weights(path, tensors, description)


def read_basis(path: str | PathLike[str]) -> dict[str, Any]:
    """Read the fields of :class:`monai_locor.registration.BasisPair` from its two files.

    Raises:
        InputError: if a file is missing or is not a file of this kind.
        ImportError: if safetensors is not installed; the message names the extra to install.
    """
    tensors, description = read_weights(path)
    try:
        settings = _settings(description)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        _, json_file = weights_paths(path)
        raise InputError(f"{json_file}: does not describe a learned basis ({reason}); save the basis again") from error
    states: dict[str, dict[str, torch.Tensor]] = {direction: {} for direction in DIRECTIONS}
    for key, value in tensors.items():
        direction, _, name = key.partition(".")
        states.setdefault(direction, {})[name] = value
    return {**states, **settings}


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    if description["format"] != FILE_FORMAT:
        raise ValueError(f"format {description['format']!r}, this version reads {FILE_FORMAT!r}")
    contrasts, limits = description["contrasts"], description["normalization"]["limits"]
    return {
        "in_channels": int(description["in_channels"]),
        "num_basis": int(description["num_basis"]),
        "hidden_channels": tuple(int(n) for n in description["hidden_channels"]),
        "derivative": str(description["derivative"]),
        "quantile": description["normalization"]["quantile"],
        "limits": None if limits is None else (float(limits[0]), float(limits[1])),
        "contrasts": None if contrasts is None else (str(contrasts["moving"]), str(contrasts["fixed"])),
        "version": str(description["version"]),
    }
