# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration of images that do not fit memory, block by block. Requires the extra ``cohort`` (Dask, zarr)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .api import register_blockwise
    from .images import BlockImage
    from .outcome import BlockwiseResult

__all__ = ["BlockImage", "BlockwiseResult", "register_blockwise"]

__getattr__, __dir__ = lazy(
    __name__,
    {"api": ["register_blockwise"], "images": ["BlockImage"], "outcome": ["BlockwiseResult"]},
)
