# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Full precision where it matters, whatever the caller has switched on."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

__all__ = ["full_precision", "guarded", "optimized", "optimizing", "undisturbed"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

# Backend and operation, as torch names the settings that it has since 2.9. One that is "none" follows what is above it.
# The public setter of torch.backends.mkldnn.fp32_precision writes that of torch.backends: here the private ones are used.
Key = tuple[str, str]
ABOVE: Sequence[Key] = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))  # the first is above the others
CPU: Sequence[Key] = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"))
CUDA: Sequence[Key] = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"))

Old = tuple[str, bool]  # the settings before: of products, and whether cuDNN may use TF32
OLD_FULL: Old = ("highest", False)

Restore = Callable[[], None]


@contextlib.contextmanager
def full_precision(*devices: torch.device) -> Iterator[None]:
    """Compute float32 in float32: without autocast, TF32 and bfloat16 products, whatever the caller has switched on.

    It concerns matrix products, convolutions and recurrent layers, of the devices given and of the CPU. The guard may be
    nested, and many threads may be inside. Where everything is at full precision already nothing is set. Otherwise the
    first one in sets it, and the last one out puts back exactly what was there: what had followed a setting above it, such
    as ``torch.backends.fp32_precision``, follows it again.

    Autocast belongs to the thread. The other settings belong to the process, torch has no local form of them: other
    threads that compute meanwhile do so in full precision, and what they set meanwhile may be lost.

    Args:
        devices: where is computed; the CPU is always included.
    """
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", *{device.type for device in devices if device.type != "cpu"}):  # CUDA's settings need the CPU's
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if kind in _SHARED and not torch.compiler.is_compiling():  # what is compiled has no settings of the process
                stack.enter_context(_SHARED[kind])
        yield


@contextlib.contextmanager
def undisturbed(*devices: torch.device) -> Iterator[None]:
    """:func:`full_precision`; and what is made without a device is made on the host, whatever the caller's default is."""
    with full_precision(*devices), contextlib.ExitStack() as stack:
        if not torch.compiler.is_compiling() and _default_device_type() != "cpu":
            stack.enter_context(torch.device("cpu"))  # costs something at every call of torch
        yield


def _default_device_type() -> str:
    try:
        return torch.get_default_device().type
    except AttributeError:  # torch 2.8 after torch.set_default_device(None)
        return "cpu"


@contextlib.contextmanager
def optimizing(*devices: torch.device) -> Iterator[None]:
    """:func:`undisturbed`, with gradients, under ``torch.no_grad`` and ``torch.inference_mode`` as well."""
    with undisturbed(*devices), torch.inference_mode(False), torch.enable_grad():
        yield


def optimized(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorator for methods of what has a ``device``: :func:`optimizing` there."""

    @functools.wraps(method)
    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with optimizing(self.device):  # type: ignore[attr-defined]
            return method(self, *args, **kwargs)

    return wrapper


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: :func:`undisturbed` on the devices of the arguments, as far as they say which, also those in a sequence."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with undisturbed(*_devices((*args, *kwargs.values()))):
            return function(*args, **kwargs)

    return wrapper


def _devices(values: Iterable[Any]) -> set[torch.device]:
    found: set[torch.device] = set()
    for value in values:
        places = [getattr(item, "device", None) for item in (value if isinstance(value, list | tuple) else (value,))]
        found |= {place for place in places if isinstance(place, torch.device)}
    return found


class _Shared:
    """Settings of the process, at full precision while anybody is inside.

    Args:
        full: whether they are at full precision.
        fill: sets them; returns what undoes it.
    """

    lock = threading.RLock()  # one for all settings: some can only be read while others are set

    def __init__(self, full: Callable[[], bool], fill: Callable[[], Restore]) -> None:
        self.full, self.fill, self.inside = full, fill, 0
        self.restore: Restore | None = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.full():
                restore = self.fill()
                self.restore = self.restore or restore  # who set something meanwhile is overruled, not remembered
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.restore is not None:
                restore, self.restore = self.restore, None
                restore()


def _read(key: Key) -> str:
    """What is in force."""
    return torch._C._get_fp32_precision_getter(*key)


def _write(values: dict[Key, str]) -> None:
    for key, value in values.items():
        torch._C._set_fp32_precision_setter(*key, value)


def _own(keys: Sequence[Key]) -> dict[Key, str]:
    """What was written into settings, whatever is above them: for a moment there is nothing above."""
    above: dict[Key, str] = {}
    try:
        for key in ABOVE:
            above[key] = _read(key)
            _write({key: "none"})
        return {key: _read(key) for key in keys}
    finally:
        _write(above)


def _is_full(keys: Sequence[Key]) -> bool:
    return all(_read(key) in ("ieee", "none") for key in keys)


def _fill(keys: Sequence[Key]) -> Restore:
    before = _own([key for key in keys if not _is_full([key])])
    _write(dict.fromkeys(before, "ieee"))
    return functools.partial(_write, before)


def _old() -> Old:
    """The old settings; where there are new ones, these must be at full precision."""
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # torch refuses to tell when it contradicts the new ones
        cudnn = True
    return torch.get_float32_matmul_precision(), cudnn


def _write_old(old: Old, new: bool = True) -> None:
    """Torch writes some of the new settings along: they stay as they are."""
    kept = _own([*CPU, *CUDA]) if new else {}
    torch.set_float32_matmul_precision(old[0])
    torch.backends.cudnn.allow_tf32 = old[1]
    _write(kept)


def _cuda_is_full() -> bool:
    return _is_full(CUDA) and _old() == OLD_FULL


def _fill_cuda() -> Restore:
    restore, old = _fill(CUDA), _old()
    _write_old(OLD_FULL)

    def both() -> None:
        _write_old(old)
        restore()

    return both


def _is_full_old(part: int) -> bool:
    return _old()[part] == OLD_FULL[part]


def _fill_old(part: int) -> Restore:
    def change(value: str | bool) -> None:
        old: list = [*_old()]
        old[part] = value
        _write_old((old[0], old[1]), new=False)

    before = _old()[part]
    change(OLD_FULL[part])
    return functools.partial(change, before)


def _shared(new: bool) -> dict[str, _Shared]:
    """The settings that matter to each type of device, by the interface of torch since 2.9 or the one before."""
    if new:
        return {
            "cpu": _Shared(functools.partial(_is_full, CPU), functools.partial(_fill, CPU)),
            "cuda": _Shared(_cuda_is_full, _fill_cuda),
        }
    return {
        kind: _Shared(functools.partial(_is_full_old, part), functools.partial(_fill_old, part))
        for part, kind in enumerate(("cpu", "cuda"))
    }


_SHARED = _shared(new=hasattr(torch._C, "_set_fp32_precision_setter"))
