# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What operations ask of a device: launches, waiting, random numbers, memory."""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["INDEXING", "Record", "is_filled", "project_line"]

# these are no views and launch nothing all the same
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
WITHOUT_LAUNCH = {*ALLOCATIONS, "_unsafe_view", "is_same_size", "device"}  # the last is a query, which fake tensors record
TWO_LAUNCHES = {"slice_backward", "select_backward", "slice_scatter", "select_scatter", "constant_pad_nd"}  # fill and copy
# for these the host waits although no tag of torch says so
WAITING = {"equal", "is_nonzero", "_linalg_check_errors", "linalg_lstsq"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
MASKS = (torch.bool, torch.uint8)
HELPERS = {__name__, *(__name__.replace("record", other) for other in ("tensor", "fake"))}  # not what a line is looked for


def is_filled(args: Sequence[Any]) -> bool:
    """Whether indexing, ``(tensor, indices, values, ...)``, is ``tensor[mask] = number``, for which torch does not wait."""
    masks = [i for i in args[1] if i is not None]
    value = args[2] if len(args) > 2 else None
    number = value is not None and value.device.type == "cpu" and value.numel() == 1
    return number and len(masks) == 1 and masks[0].dtype in MASKS


def project_line(lines: int = 1) -> str:
    """The innermost lines of the package that are being executed, else of the tests, ``module:line < module:line``."""
    places: dict[str, list[str]] = {"monai_locor": [], "tests": []}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        found = places.get(module.partition(".")[0])
        if found is not None and module not in HELPERS:
            found.append(f"{module}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join((places["monai_locor"] or places["tests"] or ["?"])[:lines])


@functools.cache
def _known(func: Any) -> tuple[str, int, bool, bool]:
    """Name of an operation, its launches, whether it waits, whether it draws random numbers."""
    name, tags = func.overloadpacket.__name__, set(func.tags)
    launches = 0 if func.is_view or name in WITHOUT_LAUNCH else 2 if name in TWO_LAUNCHES else 1
    waits = name in WAITING or bool(tags & {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output})
    return name, launches, waits, torch.Tag.nondeterministic_seeded in tags


class Record:
    """Counts what the operations of a block ask of a device.

    Attributes:
        launches: by operation of aten; views and allocations are none, everything else is one, a few are two. That is a
            lower bound: some operations consist of several kernels.
        waits: what makes the host wait for the device, "operation @ line": values that come back, shapes that depend on
            values, blocking copies.
        draws: random numbers from the device's own generator, "operation @ line".
        peak: largest number of bytes in storages on the device that were alive at the end of an operation.
    """

    def __init__(self) -> None:
        self.launches: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.draws: collections.Counter[str] = collections.Counter()
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = 0

    def executed(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """An operation on the device."""
        name, launches, waits, draws = _known(func)
        if launches:
            self.launches[name] += launches
        if name in INDEXING:
            if not is_filled(args) and any(i is not None and i.dtype in MASKS for i in args[1]):
                self.wait(f"{name} with a mask")
        elif waits:
            self.wait(name)
        if draws and kwargs.get("generator") is None:
            self.draws[f"{name} @ {project_line()}"] += 1

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self.waits[f"{what} @ {project_line(2)}"] += 1

    def alive(self, tensors: Iterable[torch.Tensor]) -> None:
        """Storages on the device that exist now; those seen earlier may have gone."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)
            if reference.cdata not in self._storages:
                self._storages[reference.cdata] = reference, storage.nbytes()
                self._bytes += storage.nbytes()
        if self._bytes > self.peak:  # if those that have gone are counted as well
            self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
            self._bytes = sum(size for _, size in self._storages.values())
            self.peak = max(self.peak, self._bytes)
