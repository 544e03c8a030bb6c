# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Amounts of memory and the free memory of the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_locor import free_memory
from monai_locor.errors import InputError
from monai_locor.free_memory import MemoryPeak, free_bytes, gibibytes, parsed_bytes, return_freed_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("amount", "size"),
    [
        ("4GiB", 2**32),
        ("4 gib", 2**32),
        ("4G", 2**32),
        ("4GB", 4 * 10**9),
        ("0.5MiB", 2**19),
        ("100", 100),
        (7, 7),
        ("8kB", 8000),
    ],
)
def test_amounts(amount, size):
    assert parsed_bytes(amount) == size


@pytest.mark.parametrize("amount", ["", "much", "4 x", "-1GiB", "0", "0.1B", "1GiBit", True, "nan", "1e400"])
def test_what_is_no_amount_is_refused(amount):
    with pytest.raises(InputError, match=r"memory .* such as 4GiB"):
        parsed_bytes(amount)


def test_gibibytes_have_two_digits():
    assert [gibibytes(x * 2**30) for x in (0.0123, 1.26, 10, 0)] == ["0.012 GiB", "1.3 GiB", "10 GiB", "0 GiB"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A machine with 8 GiB available."""
    monkeypatch.setattr(free_memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "CGROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc/meminfo", "MemTotal: 99999999 kB\nMemAvailable:   8388608 kB\n")
    return tmp_path


def test_the_machine(host):
    assert free_bytes(CPU) == 2**33


def test_a_limit_of_a_group_above(host):
    """The outer group allows 3 GiB, of which 2 are used, half of that by the cache of files."""
    write(host / "proc/self/cgroup", "0::/jobs/one\n")
    for folder, limit in (("jobs", 3 * 2**30), ("jobs/one", "max")):
        write(host / "cgroup" / folder / "memory.max", f"{limit}\n")
        write(host / "cgroup" / folder / "memory.current", f"{2**31}\n")
        write(host / "cgroup" / folder / "memory.stat", f"anon 1\ninactive_file {2**30}\n")
    assert free_bytes(CPU) == 2**31


def test_a_limit_of_the_first_version_of_groups(host):
    write(host / "proc/self/cgroup", "5:cpu:/a\n3:hugetlb,memory:/a\n")
    write(host / "cgroup/memory/a/memory.limit_in_bytes", f"{2**30}")
    write(host / "cgroup/memory/a/memory.usage_in_bytes", f"{2**31}")
    write(host / "cgroup/memory/a/memory.stat", "total_inactive_file 0\n")
    assert free_bytes(CPU) == 0


def test_the_peak_of_the_process():
    """A peak below an earlier one is not visible."""
    peak = MemoryPeak(CPU)
    if peak.highest is None:
        pytest.skip("not Linux")
    assert peak.bytes() is None or peak.bytes() >= 0
    size = peak.highest - peak.before + 2**28
    torch.ones(size, dtype=torch.uint8)
    found = peak.bytes()  # earlier tests may free memory at any time
    assert found is not None and abs(found - size) < 2**27


def test_freed_memory_is_returned():
    """Small blocks between large ones keep the C library from returning these by itself."""
    before = free_memory._status("VmRSS")
    if before is None or free_memory._malloc_trim() is None:
        pytest.skip("not Linux with glibc")
    blocks = [torch.ones(2**size, dtype=torch.uint8) for _ in range(2**11) for size in (16, 4)]
    kept = blocks[1::2]
    del blocks
    held = free_memory._status("VmRSS")
    return_freed_memory(CPU)
    assert held - free_memory._status("VmRSS") > 2**26, len(kept)


def test_another_c_library_has_nothing_to_return(monkeypatch):
    class Other:
        def __init__(self, name: None) -> None:
            pass

    free_memory._malloc_trim.cache_clear()
    monkeypatch.setattr(free_memory.ctypes, "CDLL", Other)
    return_freed_memory(CPU)
    return_freed_memory(torch.device("cuda"))
    free_memory._malloc_trim.cache_clear()
