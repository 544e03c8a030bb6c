# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Independent calls on several threads: order, threads of torch, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monai_locor.threads import each

CPU = torch.device("cpu")


class Plain(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def seen(item: int) -> tuple[int, str, int]:
    return item, threading.current_thread().name, torch.get_num_threads()


def test_results_are_in_order_with_one_thread_each(three_threads):
    found = each(seen, range(20), CPU)
    assert [item for item, _, _ in found] == list(range(20))
    assert {threads for _, _, threads in found} == {1} and torch.get_num_threads() == 3
    assert threading.current_thread().name not in {name for _, name, _ in found}


@pytest.mark.parametrize(("items", "device"), [(1, CPU), (5, torch.device("meta"))], ids=str)
def test_nothing_to_gain(three_threads, items, device):
    assert each(seen, range(items), device) == [(k, threading.current_thread().name, 3) for k in range(items)]


def test_dispatch_modes_see_all_operations(three_threads):
    with Plain():
        assert {name for _, name, _ in each(seen, range(3), CPU)} == {threading.current_thread().name}


def test_errors_are_raised_and_threads_restored(three_threads):
    def fail(item: int) -> None:
        raise KeyError(item)

    with pytest.raises(KeyError):
        each(fail, range(4), CPU)
    assert torch.get_num_threads() == 3
