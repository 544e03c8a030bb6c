# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The last few of things that are costly to make and depend on a shape, a device or a dtype."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

__all__ = ["Recent"]

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps the values of the keys that were asked for last.

    Copies and pickles of it are empty: what it holds can be made again, and may lie on another device.

    Args:
        limit: how many are kept.

    >>> squares = Recent[int](limit=2)
    >>> [squares.get(n, lambda: n * n) for n in (3, 4, 3)]
    [9, 16, 9]
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made if need be; tensors in it are never inference tensors, which autograd refuses."""
        found = self._values.pop(key, None)  # one operation: threads may share this
        if found is None:
            with torch.inference_mode(False), torch.no_grad():
                found = make()
        self._values[key] = found
        while len(self._values) > self.limit:
            self._values.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._values)

    def __deepcopy__(self, memo: dict[int, object]) -> Recent[T]:
        return Recent(self.limit)

    def __reduce__(self) -> tuple[type[Recent[T]], tuple[int]]:
        return Recent, (self.limit,)
