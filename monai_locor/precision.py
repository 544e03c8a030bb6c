# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Full float32 precision, independent of the caller's autocast, TF32 and bfloat16 settings."""

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

# Backend and operation, the keys of torch's precision settings since 2.9. The value "none" inherits from the parent.
# The public setter of torch.backends.mkldnn.fp32_precision writes that of torch.backends, so the private ones are used.
Key = tuple[str, str]
PARENT_KEYS: Sequence[Key] = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))  # the first is parent of the others
CPU_KEYS: Sequence[Key] = (("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"))
CUDA_KEYS: Sequence[Key] = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"))

LegacySettings = tuple[str, bool]  # torch before 2.9: matmul precision, and whether cuDNN may use TF32
LEGACY_FULL: LegacySettings = ("highest", False)

Restore = Callable[[], None]


@contextlib.contextmanager
def full_precision(*devices: torch.device) -> Iterator[None]:
    """Context manager: compute float32 in float32, without autocast, TF32 or bfloat16, regardless of the caller's settings.

    Applies to matrix products, convolutions and recurrent layers on the given devices and on the CPU. It can be nested and
    entered by several threads. If full precision is already in force, nothing is changed. Otherwise the first to enter sets
    it, and the last to leave restores the exact previous state: a setting that inherited from a parent, such as
    ``torch.backends.fp32_precision``, inherits again.

    Autocast is local to the thread. The other settings are global to the process, since torch has no local ones: other
    threads compute in full precision in the meantime, and settings that they change in the meantime may be lost.

    Args:
        devices: devices used in the computation; the CPU is always included.
    """
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", *{device.type for device in devices if device.type != "cpu"}):  # CUDA needs those of the CPU
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if kind in _SHARED and not torch.compiler.is_compiling():  # compiled code cannot change process settings
                stack.enter_context(_SHARED[kind])
        yield


@contextlib.contextmanager
def undisturbed(*devices: torch.device) -> Iterator[None]:
    """:func:`full_precision`, and the CPU as default device for new tensors, regardless of the caller's default."""
    with full_precision(*devices), contextlib.ExitStack() as stack:
        if not torch.compiler.is_compiling() and _default_device_type() != "cpu":
            stack.enter_context(torch.device("cpu"))  # only if needed: it slows down every torch call
        yield


def _default_device_type() -> str:
    try:
        return torch.get_default_device().type
    except AttributeError:  # torch 2.8 after torch.set_default_device(None)
        return "cpu"


@contextlib.contextmanager
def optimizing(*devices: torch.device) -> Iterator[None]:
    """:func:`undisturbed` with gradients enabled, even inside ``torch.no_grad`` and ``torch.inference_mode``."""
    with undisturbed(*devices), torch.inference_mode(False), torch.enable_grad():
        yield


def optimized(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorator for methods of objects with a ``device`` attribute: run the method in :func:`optimizing`."""

    @functools.wraps(method)
    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with optimizing(self.device):  # type: ignore[attr-defined]
            return method(self, *args, **kwargs)

    return wrapper


def guarded(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: run a function in :func:`undisturbed` on the devices of its tensor arguments, including sequences."""

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
    """Process-wide settings that are held at full precision while at least one thread is inside.

    Args:
        full: returns whether the settings are at full precision.
        fill: sets full precision and returns a function that undoes it.
    """

    lock = threading.RLock()  # one lock for all settings: some can only be read while others are changed

    def __init__(self, full: Callable[[], bool], fill: Callable[[], Restore]) -> None:
        self.full, self.fill, self.inside = full, fill, 0
        self.restore: Restore | None = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.full():
                restore = self.fill()
                self.restore = self.restore or restore  # settings changed by others in the meantime are overridden
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.restore is not None:
                restore, self.restore = self.restore, None
                restore()


def _read(key: Key) -> str:
    """The value in force, inherited ones included."""
    return torch._C._get_fp32_precision_getter(*key)


def _write(values: dict[Key, str]) -> None:
    for key, value in values.items():
        torch._C._set_fp32_precision_setter(*key, value)


def _own(keys: Sequence[Key]) -> dict[Key, str]:
    """The values written to settings, without inheritance: the parents are cleared for a moment."""
    above: dict[Key, str] = {}
    try:
        for key in PARENT_KEYS:
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


def _legacy() -> LegacySettings:
    """The legacy settings. If the new ones exist, they must be at full precision."""
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # raised by torch if it contradicts the new settings
        cudnn = True
    return torch.get_float32_matmul_precision(), cudnn


def _write_legacy(values: LegacySettings, new: bool = True) -> None:
    """Write the legacy settings. Torch also changes some of the new ones, which are restored."""
    kept = _own([*CPU_KEYS, *CUDA_KEYS]) if new else {}
    torch.set_float32_matmul_precision(values[0])
    torch.backends.cudnn.allow_tf32 = values[1]
    _write(kept)


def _cuda_is_full() -> bool:
    return _is_full(CUDA_KEYS) and _legacy() == LEGACY_FULL


def _fill_cuda() -> Restore:
    restore, before = _fill(CUDA_KEYS), _legacy()
    _write_legacy(LEGACY_FULL)

    def both() -> None:
        _write_legacy(before)
        restore()

    return both


def _is_legacy_full(part: int) -> bool:
    return _legacy()[part] == LEGACY_FULL[part]


def _fill_legacy(part: int) -> Restore:
    def change(value: str | bool) -> None:
        values: list = [*_legacy()]
        values[part] = value
        _write_legacy((values[0], values[1]), new=False)

    before = _legacy()[part]
    change(LEGACY_FULL[part])
    return functools.partial(change, before)


def _shared(new: bool) -> dict[str, _Shared]:
    """The settings of each device type, by the interface of torch 2.9 or the legacy one."""
    if new:
        return {
            "cpu": _Shared(functools.partial(_is_full, CPU_KEYS), functools.partial(_fill, CPU_KEYS)),
            "cuda": _Shared(_cuda_is_full, _fill_cuda),
        }
    return {
        kind: _Shared(functools.partial(_is_legacy_full, part), functools.partial(_fill_legacy, part))
        for part, kind in enumerate(("cpu", "cuda"))
    }


_SHARED = _shared(new=hasattr(torch._C, "_set_fp32_precision_setter"))
