# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tensors that say they lie on a GPU and compute on the CPU.

Inside :class:`PretendedCuda` whatever is made on ``cuda``, or moved there, is such a tensor. An operation on tensors of two
devices raises where CUDA raises, and what the operations ask of the device is recorded. The rules are those of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from torch.utils._python_dispatch import TorchDispatchMode

from .record import INDEXING, Record, is_filled, project_line

__all__ = ["PretendedCuda", "PretendedTensor", "TwoDevicesError"]

CPU = torch.device("cpu")
COPIES = {"_to_copy", "copy_"}
# what becomes of a number, a tensor without axes, on the host
SCALARS_ARE_COPIED = {"where", "masked_fill", "masked_fill_"}  # to the device, which blocks
SCALARS_ARE_READ = {"fill", "fill_"}  # on the host


class TwoDevicesError(RuntimeError):
    """An operation got tensors of two devices, or a random generator of another one."""


class PretendedTensor(torch.Tensor):
    """Has a device, ``cuda:0`` for instance, and keeps its values in a tensor on the CPU.

    Attributes:
        inner: the values, ``(*shape)`` on the CPU.
        known_to: the record that has counted its storage.
    """

    __slots__ = ("inner", "known_to")  # a MetaTensor hands on what is in __dict__

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> PretendedTensor:
        # strides and offset are those of the values, so that views and shapes follow the same rules
        new = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        new.inner, new.known_to = inner, None
        return new

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        # torch sets the mode aside in a few places, like `as_subclass`
        return _Call(func, args, kwargs or {}).executed(Record())

    def as_subclass(self, cls: type) -> Any:
        """What ``MetaTensor(tensor)`` calls: a MetaTensor on the pretended device is of a class of its own."""
        if not issubclass(cls, MetaTensor):
            return super().as_subclass(cls)
        if self.requires_grad:
            raise NotImplementedError("a MetaTensor that requires a gradient, on the pretended device")
        return _PretendedMetaTensor.__new__(_PretendedMetaTensor, self.inner, self.device)

    def tolist(self) -> Any:
        """Waits, as that of a GPU's tensor does."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as that of a GPU's tensor is."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first @ {project_line(3)}")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.inner!r}, device='{self.device}')"


class _PretendedMetaTensor(PretendedTensor, MetaTensor):
    """A MetaTensor on the device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        # a result on the host has to be an ordinary MetaTensor
        types = [MetaTensor if kind is cls else kind for kind in types]
        return MetaTensor.__torch_function__.__func__(MetaTensor, func, types, args, kwargs)


class PretendedCuda(TorchDispatchMode):
    """Inside, ``cuda`` exists.

    Attributes:
        record: what was asked of the device since :meth:`forget`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()

    def forget(self) -> Record:
        """A new record, for what follows."""
        self.record = Record()
        return self.record

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _Call(func, args, kwargs or {}).executed(self.record)


class _Call:
    """One operation of aten."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, dict(kwargs)
        self.name = func.overloadpacket.__name__
        self.there: list[PretendedTensor] = []
        self.here: list[torch.Tensor] = []
        self.bare = self._bared(args), self._bared(self.kwargs)
        self.target = self._target()

    def _bared(self, value: Any) -> Any:
        """Arguments with values instead of tensors on the device; notes which tensors lie here and which there."""
        if isinstance(value, torch.Tensor):
            if not isinstance(value, PretendedTensor):
                self.here.append(value)
                return value
            self.there.append(value)
            return value.inner
        if type(value) in (list, tuple):
            return type(value)(self._bared(v) for v in value)
        if type(value) is dict:
            return {key: self._bared(v) for key, v in value.items()}
        return value

    def _target(self) -> torch.device:
        """Where the result lies."""
        asked = self.kwargs.get("device")
        if asked is not None:
            asked = torch.device(asked)
            return torch.device("cuda", asked.index or 0) if asked.type == "cuda" else asked
        if self.name == "copy_":
            return self.args[0].device
        return self.there[0].device if self.there else CPU

    def executed(self, record: Record) -> Any:
        if self.func is torch.ops.prim.device.default:
            return self.target
        if self.there or self.target != CPU:
            self._check_devices(record)
            self._check_generator()
            record.executed(self.func, self.args, self.kwargs)
            if self.name in COPIES:
                self._note_copy(record)
        out = self._result()
        self._follow_shapes()
        for tensor in self.there:
            self._note(tensor, record)
        return self._placed(out, record) if self.target.type == "cuda" else out

    def _result(self) -> Any:
        """What the operation returns on the CPU."""
        args, kwargs = self.bare
        if self.kwargs.get("device") is not None:
            kwargs["device"] = CPU
        out = self.func(*args, **kwargs)
        if self.there and isinstance(out, torch.Tensor) and out.is_conj():
            return out.resolve_conj()  # torch conjugates when it is read, and has a flag for that; a wrapper has none
        return out

    def _check_devices(self, record: Record) -> None:
        devices = {tensor.device for tensor in self.there}
        if self.name in COPIES:
            return
        if len(devices) > 1:
            self._refuse()
        if not self.there or not self.here:
            return
        if self.name in INDEXING and isinstance(self.args[0], PretendedTensor):
            if not is_filled(self.args):
                record.wait("an index or value from the host")
        elif any(tensor.dim() for tensor in self.here) or self._written_on_the_host():
            self._refuse()
        elif self.name in SCALARS_ARE_COPIED:
            record.wait("a number from the host")
        elif self.name not in SCALARS_ARE_READ and (len(self.here) > 1 or torch.Tag.pointwise not in self.func.tags):
            self._refuse()

    def _written_on_the_host(self) -> bool:
        arguments = self.func._schema.arguments
        written = [a.alias_info is not None and a.alias_info.is_write for a in arguments]
        given = [*self.args, *(self.kwargs.get(a.name) for a in arguments[len(self.args) :])]
        return any(w and any(g is tensor for tensor in self.here) for w, g in zip(written, given))

    def _refuse(self) -> None:
        what = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in [*self.there, *self.here])
        raise TwoDevicesError(f"{self.name} of tensors on two devices: {what} @ {project_line(3)}")

    def _check_generator(self) -> None:
        generator = self.kwargs.get("generator")
        if generator is not None and generator.device.type != self.target.type:
            raise TwoDevicesError(f"{self.name} on {self.target} with a generator of {generator.device} @ {project_line(3)}")

    def _note_copy(self, record: Record) -> None:
        source = self.args[1] if self.name == "copy_" else self.args[0]
        blocking = not (self.kwargs.get("non_blocking") or (self.name == "copy_" and self.args[2:] == (True,)))
        # a copy to pageable memory waits in any case
        if source.device != self.target and (blocking or self.target == CPU):
            record.wait(f"copy from {source.device.type} to {self.target.type}")

    def _placed(self, out: Any, record: Record) -> Any:
        """The result as tensors on the device; an argument that is returned is returned itself."""
        if isinstance(out, torch.Tensor):
            for tensor in self.there:
                if tensor.inner is out:
                    return tensor
            placed = PretendedTensor(out, self.target)
            self._note(placed, record)
            return placed
        if type(out) in (list, tuple):
            return type(out)(self._placed(value, record) for value in out)
        return out

    def _note(self, tensor: PretendedTensor, record: Record) -> None:
        if tensor.known_to is not record:
            tensor.known_to = record
            record.alive([tensor.inner])

    def _follow_shapes(self) -> None:
        """An operation like ``squeeze_`` changes the shape of the values: the wrapper gets the same."""
        for tensor in self.there:
            if tensor.shape != tensor.inner.shape:
                with torch._C._DisableTorchDispatch():
                    tensor.data = PretendedTensor(tensor.inner, tensor.device)
