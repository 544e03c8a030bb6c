# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A small cache for objects that are expensive to build and depend on a shape, device or dtype."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

__all__ = ["Recent"]

T = TypeVar("T")


class Recent(Generic[T]):
    """Least-recently-used cache.

    Copies and pickles are empty: the values can be rebuilt, and may be on another device.

    Args:
        limit: maximum number of values.

    >>> squares = Recent[int](limit=2)
    >>> [squares.get(n, lambda: n * n) for n in (3, 4, 3)]
    [9, 16, 9]
    """

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, built by ``make`` if missing; never with inference tensors, which autograd rejects."""
        found = self._values.pop(key, None)  # atomic, since threads may share the cache
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
