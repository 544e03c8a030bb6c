# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Amounts of memory: their notation, the free memory of a device, and that of this process."""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

__all__ = ["MemoryPeak", "free_bytes", "gibibytes", "parsed_bytes", "return_freed_memory"]

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}  # with "b", powers of 1000
AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(i?b)?\s*", re.IGNORECASE)
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def parsed_bytes(amount: str | int) -> int:
    """Return the number of bytes of an amount of memory.

    Args:
        amount: a number of bytes, or a number with a unit: ``"4GiB"``, ``"4G"`` (the same), ``"4 GB"`` (4e9 bytes).

    Raises:
        InputError: if it is not a positive amount.

    >>> parsed_bytes("1.5GiB"), parsed_bytes("800 MB"), parsed_bytes("64k")
    (1610612736, 800000000, 65536)
    """
    found = AMOUNT.fullmatch(str(amount))
    if found is None or isinstance(amount, bool):
        raise InputError(f"memory {amount!r}: is not an amount of memory; give a number with a unit, such as 4GiB or 800MB")
    number, prefix, unit = found.groups(default="")
    decimal = unit.lower() == "b" and prefix
    factor = 1000 ** "kmgt".index(prefix.lower()) * 1000 if decimal else UNITS[prefix.lower()]
    size = round(float(number) * factor)
    if size < 1:
        raise InputError(f"memory {amount!r}: must be positive; give a number with a unit, such as 4GiB or 800MB")
    return size


def gibibytes(size: float) -> str:
    """Return an amount of memory in GiB with two significant digits.

    >>> gibibytes(5 * 2**30), gibibytes(2**28), gibibytes(123 * 2**30)
    ('5.0 GiB', '0.25 GiB', '123 GiB')
    """
    number = size / 2**30
    digits = max(0, 1 - math.floor(math.log10(number))) if number > 0 else 0
    return f"{number:.{digits}f} GiB"


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that this process can still allocate on a device; None if it is unknown.

    On a CPU, the available memory of the machine, or what the control groups of the process (containers, batch systems) leave
    of their limits, if that is less. On a GPU, its free memory and what torch has reserved and does not use.
    """
    if device.type == "cuda":
        return _free_on_gpu(device)
    return min(_free_on_host(), default=None)


def _free_on_gpu(device: torch.device) -> int | None:
    import torch

    try:
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    except (RuntimeError, AssertionError, AttributeError):  # not a real device, or a driver that does not tell
        return None


def _free_on_host() -> Iterator[int]:
    try:
        for line in (PROC / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    except OSError:
        yield from _free_by_psutil()
    try:
        groups = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _left_by_groups(CGROUPS, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_by_groups(CGROUPS / "memory", path, names)


def _free_by_psutil() -> Iterator[int]:
    """The available memory of other systems than Linux, if psutil is installed."""
    try:
        import psutil
    except ImportError:
        return
    yield int(psutil.virtual_memory().available)


def _left_by_groups(root: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """The rest of the limits of a control group and of those above it; the cache of files can be freed."""
    limit_name, used_name, cache_name = names
    folder = root / path.lstrip("/")
    for group in (folder, *folder.parents):
        try:
            limit, used = ((group / name).read_text(encoding="ascii").strip() for name in (limit_name, used_name))
            statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            if limit != "max":
                yield max(0, int(limit) - int(used) + int(statistics.get(cache_name, 0)))
        except (OSError, ValueError):
            pass  # not a group: above the root, or outside a container
        if group == root:
            return


class MemoryPeak:
    """The peak of the memory of this process on a device above that at construction.

    On a CPU it is that of the resident set, on Linux only; on a GPU that of torch's allocator. No statistic is reset.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before, self.highest = self._used()

    def _used(self) -> tuple[int | None, int | None]:
        """The present memory and its peak since the start of the process."""
        if self.device.type != "cuda":
            return _status("VmRSS"), _status("VmHWM")
        import torch

        return torch.cuda.memory_allocated(self.device), torch.cuda.max_memory_allocated(self.device)

    def bytes(self) -> int | None:
        """Return the peak so far; None if it is unknown, also where it was higher before construction."""
        highest = self._used()[1]
        return None if highest is None or self.before is None or highest == self.highest else highest - self.before


def _status(name: str) -> int | None:
    """A line of /proc/self/status, bytes."""
    try:
        for line in (PROC / "self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def return_freed_memory(device: torch.device) -> None:
    """Return to the system what the C library keeps of freed tensors on a CPU, if it is glibc; otherwise do nothing.

    The tensors of the next part of a long calculation rarely fit into the gaps that those of the last part leave.
    """
    trim = _malloc_trim() if device.type == "cpu" else None
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The function of glibc; other C libraries have none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
