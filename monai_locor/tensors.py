# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tensors as long computations want them: without metadata, fit for autograd, on the device that computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

__all__ = ["on_device", "plain"]

MaybeTensor = TypeVar("MaybeTensor", torch.Tensor, None)


def plain(x: MaybeTensor) -> MaybeTensor:
    """A MetaTensor as an ordinary tensor, one of ``torch.inference_mode`` as a copy; anything else as it is.

    Long computations on MetaTensors cost about 15 % more and hand the metadata of one operand to the result. What was made in
    inference mode is refused by autograd; while that mode is on there is no other kind.
    """
    return _plain(x) if isinstance(x, torch.Tensor) else x


def _plain(x: torch.Tensor) -> torch.Tensor:
    as_tensor = getattr(x, "as_tensor", None)  # of a MetaTensor, whose import takes seconds
    x = x if as_tensor is None else as_tensor()
    if torch.compiler.is_compiling():  # which cannot ask, and is given nothing of inference mode in training
        return x
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def on_device(values: np.ndarray | Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """A few numbers of the host with dtype and device of ``like``; a GPU is not waited for."""
    host = torch.from_numpy(np.array(values, dtype=np.float64))
    return host.to(like.dtype).to(like.device, non_blocking=True)
