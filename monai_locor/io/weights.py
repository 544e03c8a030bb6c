# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Weights of a small network: a safetensors file with a descriptive JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, one_line
from .paths import atomic_path, check_output_dir, expanded, read_json

__all__ = ["read_weights", "weights_paths", "write_weights"]


def weights_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The safetensors and JSON file names for a base name, which may end in ``.safetensors``.

    >>> [str(p) for p in weights_paths("basis.v2")]
    ['basis.v2.safetensors', 'basis.v2.json']

    Raises:
        InputError: if it names a folder.
    """
    name = expanded(path, f"weights {os.fspath(path)}")
    if not name.name or os.fspath(path).endswith(("/", os.sep)):
        raise InputError(f"weights {os.fspath(path)!r}: names a folder; give the name of a file, with or without .safetensors")
    stem = name.name.removesuffix(".safetensors")  # not Path.with_suffix, as the name may contain dots
    return name.with_name(f"{stem}.safetensors"), name.with_name(f"{stem}.json")


def write_weights(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]
) -> list[Path]:
    """Write both files atomically; missing folders are created.

    Args:
        path: see :func:`weights_paths`.
        tensors: weights by name, on the CPU.
        description: JSON-serializable values.

    Raises:
        InputError: if the files cannot be written.
        ImportError: if safetensors is not installed; the message names the extra to install.
    """
    encoded = _safetensors().save(dict(tensors))
    weights, beside = weights_paths(path)
    check_output_dir(weights.parent)
    for target, content in ((weights, encoded), (beside, (json.dumps(dict(description), indent=1) + "\n").encode())):
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
    return [weights, beside]


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the files of :func:`write_weights`, to the CPU.

    Raises:
        InputError: if a file is missing or of another format, or a weight is not finite.
        ImportError: if safetensors is not installed; the message names the extra to install.
    """
    decode = _safetensors().load
    weights, beside = weights_paths(path)
    for file in (weights, beside):
        if not file.is_file():
            raise InputError(f"{file}: no such file; weights are a .safetensors file and the .json of its name beside it")
    try:
        tensors = decode(weights.read_bytes())
    except Exception as error:  # SafetensorError derives directly from Exception
        raise InputError(f"{weights}: not a safetensors file ({one_line(error)}); save it again") from error
    try:
        description = read_json(beside)
    except (OSError, ValueError) as error:
        raise InputError(f"{beside}: not a JSON file ({one_line(error)}); save it again") from error
    if not isinstance(description, dict):
        raise InputError(f"{beside}: expected an object, got {type(description).__name__}; save it again")
    if not all(value.isfinite().all() for value in tensors.values()):
        raise InputError(f"{weights}: holds NaN or infinite values; learn them again")
    return tensors, description


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("files of weights need safetensors: pip install 'monai-locor[formats]'") from error
    return safetensors.torch
