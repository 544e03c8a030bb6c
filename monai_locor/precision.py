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

"""Full precision where it matters, whatever the caller has switched on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["full_precision"]


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast, TF32 and the CPU's bfloat16 products out of it, whatever the caller has switched on.

    Restored on leaving. ``torch.set_float32_matmul_precision("high")`` concerns the CPU too.
    """
    owner, name, full = _precision_setting(device)
    before = getattr(owner, name)
    with torch.autocast(device.type, enabled=False):
        if before in (full, "none"):
            yield
            return
        setattr(owner, name, full)
        try:
            yield
        finally:
            setattr(owner, name, before)


class _LegacyPrecision:
    """The one setting that torch before 2.9 has for all devices, as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


def _precision_setting(device: torch.device) -> tuple[Any, str, str]:
    """Owner and name of the precision of float32 matrix products on a device, and its value for full precision."""
    matmul = getattr(torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn, "matmul", None)
    if hasattr(matmul, "fp32_precision"):
        return matmul, "fp32_precision", "ieee"
    return _LegacyPrecision(), "precision", "highest"
