# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Prepare tensors for long computations: no metadata, usable by autograd, on the right device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

__all__ = ["lengths", "on_device", "plain", "squared_lengths"]

MaybeTensor = TypeVar("MaybeTensor", torch.Tensor, None)


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
