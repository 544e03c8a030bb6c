# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Prepare tensors for long computations: no metadata, usable by autograd, on the right device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

__all__ = ["as_tensor", "host_array", "lengths", "on_device", "plain", "squared_lengths"]

MaybeTensor = TypeVar("MaybeTensor", torch.Tensor, None)

_NARROWER = {np.longdouble: np.float64, np.clongdouble: np.complex128}  # types of NumPy that torch lacks
_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


def plain(x: MaybeTensor) -> MaybeTensor:
    """Convert a MetaTensor to a plain tensor and copy inference tensors; other values are returned unchanged.

    Computations on MetaTensors take about 15 % longer and copy the metadata of one operand to the result. Inference tensors
    are rejected by autograd. They are not copied while inference mode is active: a copy would be an inference tensor again.
    """
    return _plain(x) if isinstance(x, torch.Tensor) else x


def _plain(x: torch.Tensor) -> torch.Tensor:
    as_tensor = getattr(x, "as_tensor", None)  # of a MetaTensor, whose import takes seconds
    x = x if as_tensor is None else as_tensor()
    if torch.compiler.is_compiling():  # cannot be queried here; compiled training has no inference tensors
        return x
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def as_tensor(values: torch.Tensor | ArrayLike) -> torch.Tensor:
    """Convert an array with any strides, byte order and precision to a tensor, without a copy where torch can share its memory.

    Args:
        values: array or numbers; a tensor stays on its device and becomes plain, see :func:`plain`.

    Raises:
        TypeError: if the values are not numbers.
        ValueError: if they are rows of different lengths.

    >>> as_tensor(np.array([[1, 2]], dtype=">i2")[:, ::-1])
    tensor([[2, 1]], dtype=torch.int16)
    """
    if isinstance(values, torch.Tensor):
        return plain(values)
    array = np.asarray(values)
    kind = _NARROWER.get(array.dtype.type, array.dtype.newbyteorder("="))
    shared = array.flags.writeable and all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    return torch.from_numpy(array.astype(kind, copy=not shared))


def host_array(x: torch.Tensor) -> np.ndarray:
    """Convert a tensor on any device to an array; types that NumPy lacks, such as bfloat16, become float32."""
    x = plain(x).detach().cpu().resolve_conj().resolve_neg()
    out: np.ndarray = (x.float() if x.is_floating_point() and x.dtype not in _OF_NUMPY else x).numpy()
    return out


def on_device(values: np.ndarray | Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """A few host numbers as a tensor with dtype and device of ``like``, without synchronizing the device."""
    host = torch.from_numpy(np.array(values, dtype=np.float64))
    return host.to(like.dtype).to(like.device, non_blocking=True)


def squared_lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Squared lengths ``(*any)`` of vectors ``(D, *any)``; a norm along the first axis by torch is ten times slower."""
    out = vectors[0].square()
    for component in vectors[1:]:
        out.addcmul_(component, component)
    return out


def lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths ``(*any)`` of vectors ``(D, *any)``."""
    return squared_lengths(vectors).sqrt_()
