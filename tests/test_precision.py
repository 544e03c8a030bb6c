# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The guard that keeps float32 at full precision: what is inside, what others see, what is put back."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from monai_locor import precision
from monai_locor.precision import full_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NEW = hasattr(torch.backends, "fp32_precision")  # since torch 2.9

backends = torch.backends
PARENTS: dict[str, tuple[Callable[[], str], Callable[[str], Any]]] = {
    "generic": (lambda: backends.fp32_precision, lambda v: setattr(backends, "fp32_precision", v)),
    "cuda": (lambda: backends.cudnn.fp32_precision, lambda v: setattr(backends.cudnn, "fp32_precision", v)),
    # the property writes the generic one
    "mkldnn": (lambda: backends.mkldnn.fp32_precision, lambda v: backends.mkldnn.set_flags(_fp32_precision=v)),
}
CUDA_LEAVES = {
    "cuda.matmul": lambda: backends.cuda.matmul,
    "cudnn.conv": lambda: backends.cudnn.conv,
    "cudnn.rnn": lambda: backends.cudnn.rnn,
}
CPU_LEAVES = {
    "mkldnn.matmul": lambda: backends.mkldnn.matmul,
    "mkldnn.conv": lambda: backends.mkldnn.conv,
    "mkldnn.rnn": lambda: backends.mkldnn.rnn,
}
LEAVES = CUDA_LEAVES | CPU_LEAVES
OLD = {
    "cuda.matmul.allow_tf32": lambda: backends.cuda.matmul.allow_tf32,
    "cudnn.allow_tf32": lambda: backends.cudnn.allow_tf32,
    "matmul precision": torch.get_float32_matmul_precision,
}


def read(getter: Callable[[], Any]) -> Any:
    """A setting, or that torch refuses to tell it because the old and the new ones contradict each other."""
    try:
        return getter()
    except RuntimeError:
        return "refused"


def settings() -> dict[str, Any]:
    """Everything that can be read."""
    found = {name: read(getter) for name, getter in OLD.items()}
    if NEW:
        found |= {name: getter() for name, (getter, _) in PARENTS.items()}
        found |= {name: owner().fp32_precision for name, owner in LEAVES.items()}
    return found


def reaction() -> list[dict[str, Any]]:
    """All settings, as they are and as they become when one after the other that others may follow is changed."""
    found = [settings()]
    for _, setter in PARENTS.values() if NEW else ():
        for value in ("ieee", "tf32", "none"):
            setter(value)
            found.append(settings())
    return found


def reset() -> None:
    """What torch starts with."""
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    if NEW:
        for _, setter in PARENTS.values():
            setter("none")
        for name, owner in LEAVES.items():
            owner().fp32_precision = "tf32" if name in ("cudnn.conv", "cudnn.rnn") else "none"


@pytest.fixture(autouse=True)
def settings_after() -> Iterator[None]:
    """Undo what a test does to the process."""
    yield
    reset()


def set_leaf(name: str, value: str) -> Callable[[], None]:
    return lambda: setattr(LEAVES[name](), "fp32_precision", value)


def set_parent(name: str, value: str) -> Callable[[], None]:
    return lambda: PARENTS[name][1](value)


CHANGES: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": lambda: setattr(backends.cuda.matmul, "allow_tf32", True),
    "no tf32 in cudnn": lambda: setattr(backends.cudnn, "allow_tf32", False),
}
if NEW:
    CHANGES |= {
        f"{name}={value}": set_parent(name, value)
        for name, value in itertools.product(PARENTS, ("ieee", "tf32", "bf16"))
        if (name, value) != ("cuda", "bf16")
    }
    CHANGES |= {
        f"{name}={value}": set_leaf(name, value)
        for name, value in itertools.product(LEAVES, ("none", "ieee", "tf32", "bf16"))
        if name in CPU_LEAVES or value != "bf16"
    }
    CHANGES["public mkldnn"] = lambda: setattr(backends.mkldnn, "fp32_precision", "bf16")
FIRST = [name for name in ("nothing", "medium", "generic=bf16") if name in CHANGES]


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
class TestSettings:
    """After one change and any second one."""

    def test_inside_all_is_full_and_readable_and_afterwards_as_before(self, device, first):
        for second, change in CHANGES.items():
            reset()
            CHANGES[first](), change()
            before = settings()
            with full_precision(device):
                inside = settings()
            assert settings() == before, second
            if NEW:
                leaves = LEAVES if device == CUDA else CPU_LEAVES
                assert {inside[name] for name in leaves} <= {"ieee", "none"}, second
            if device == CUDA:
                assert [inside[name] for name in OLD] == [False, False, "highest"], second
            else:  # what concerns CUDA alone is left alone, and torch tells as much of it as it did
                assert all(inside[name] != "refused" for name in OLD if before[name] != "refused"), second
                kept = [name for name in (*CUDA_LEAVES, "cudnn.allow_tf32") if name in before]
                assert [inside[name] for name in kept] == [before[name] for name in kept], second

    def test_what_followed_follows_again(self, device, first):
        for second, change in CHANGES.items():
            reset()
            CHANGES[first](), change()
            expected = reaction()
            reset()
            CHANGES[first](), change()
            with full_precision(device):
                pass
            assert reaction() == expected, second


class TestUse:
    @pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
    def test_nested_and_left_by_an_error(self, device):
        torch.set_float32_matmul_precision("medium")
        before = settings()
        with pytest.raises(KeyError), full_precision(device):
            inside = settings()
            with full_precision(device), full_precision(CPU), full_precision(CUDA):
                pass
            assert settings() == inside
            raise KeyError
        assert settings() == before

    def test_as_a_decorator(self):
        torch.set_float32_matmul_precision("medium")

        @full_precision(CUDA)
        def precision_of(n: int) -> list[str]:
            return [torch.get_float32_matmul_precision()] + (precision_of(n - 1) if n else [])

        assert precision_of(2) == ["highest"] * 3
        assert torch.get_float32_matmul_precision() == "medium"

    def test_what_is_full_is_not_touched(self, monkeypatch):
        if not NEW:
            pytest.skip("no tree of settings in this version of torch")

        def refuse(*args: Any) -> None:
            raise AssertionError(args)

        backends.fp32_precision = "ieee"
        monkeypatch.setattr(precision, "_write", refuse)
        with full_precision(CPU):
            pass

    def test_autocast(self):
        x = torch.ones(2, 2)
        with torch.autocast("cpu", torch.bfloat16), full_precision(CPU):
            assert (x @ x).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16), full_precision(CUDA):  # what is done on the host for a GPU
            assert (x @ x).dtype == torch.float32

    @pytest.mark.parametrize("kind", ["meta", "mps"])
    def test_other_devices(self, kind):
        with full_precision(torch.device(kind)):
            pass

    @pytest.mark.parametrize("value", ["high", "medium"])
    def test_the_settings_of_older_versions(self, value, monkeypatch):
        monkeypatch.setattr(precision, "_SHARED", precision._shared(new=False))
        torch.set_float32_matmul_precision(value)
        with full_precision(CPU):
            assert (torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32) == ("highest", True)
            with full_precision(CUDA):
                assert (torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32) == ("highest", False)
        assert (torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32) == (value, True)


def in_another_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class TestThreads:
    @pytest.mark.parametrize("change", ["medium", "generic=bf16", "nothing"])
    @pytest.mark.parametrize("devices", [(CPU, CPU), (CPU, CUDA), (CUDA, CPU), (CUDA, CUDA)])
    def test_who_leaves_first_takes_nothing_from_the_other(self, devices, change):
        if change not in CHANGES:
            pytest.skip("not in this version of torch")
        CHANGES[change]()
        before = settings()
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with full_precision(devices[1]):
                entered.set()
                leave.wait(30)

        with full_precision(devices[0]):
            inside = settings()
            thread = in_another_thread(other)
            assert entered.wait(30)
            leave.set()
            thread.join(30)
            assert settings() == inside  # the second one left first
        assert settings() == before
        entered.clear(), leave.clear()
        with full_precision(devices[1]):
            inside = settings()
        with full_precision(devices[0]):
            thread = in_another_thread(other)
            assert entered.wait(30)
        assert settings() == inside  # the first one left first
        leave.set()
        thread.join(30)
        assert settings() == before

    def test_many_at_once(self):
        torch.set_float32_matmul_precision("medium")
        before, seen = settings(), []

        def work() -> None:
            for n in range(200):
                with full_precision(CUDA if n % 3 else CPU):
                    seen.append(n % 3 and torch.get_float32_matmul_precision() != "highest")

        threads = [in_another_thread(work) for _ in range(4)]
        for thread in threads:
            thread.join(60)
        assert len(seen) == 800 and not any(seen)
        assert settings() == before
