# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Independent calls on the threads of the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["each"]

S = TypeVar("S")
T = TypeVar("T")


def each(function: Callable[[S], T], items: Sequence[S], device: torch.device) -> list[T]:
    """Call a function with each item, on a CPU with several threads at the same time, with one thread each.

    For operations that are too small to gain from a second thread. The function must set the grad mode that it needs, since a
    new thread has torch's default.

    Args:
        function: must not depend on the order of the calls.
        items: its arguments.
        device: device that it computes on.

    Returns:
        the results in the order of the items.
    """
    before = torch.get_num_threads()
    threads = min(before, len(items))
    # a dispatch mode, for instance a counter of operations, does not see other threads
    if threads < 2 or device.type != "cpu" or _get_current_dispatch_mode() is not None:
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, "each", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(before)  # new threads start with the number that was set last
