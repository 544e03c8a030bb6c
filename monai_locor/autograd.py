# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Base of autograd functions with a written gradient: support of `torch.func`, no second derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

__all__ = ["StreamedFunction", "transforms_active"]


def transforms_active() -> bool:
    """Whether a transform of ``torch.func`` is active: a tensor may then not have a single value."""
    return bool(torch._C._are_functorch_transforms_active())


class StreamedFunction(torch.autograd.Function):
    """An autograd function of tensors with a leading batch axis and an explicit, exact gradient.

    Subclasses implement ``forward`` without a context; ``setup_context``, which saves tensors by ``save_for_backward`` and
    everything else in the mapping ``ctx.options``; and :meth:`gradients` instead of ``backward``. They then work under
    ``torch.func.grad`` and ``torch.func.vmap``, which folds the vmapped axis into the batch axis.

    The gradient itself cannot be differentiated. A second backward pass (a gradient penalty, a Hessian) raises an error,
    since treating the gradient as a constant would be silently wrong.

    Attributes:
        leading: positions of the arguments whose first axis is the batch axis or has length one: tensors or None. The other
            arguments are options or tensors shared by all items.
        differentiable: positions of the arguments for which :meth:`gradients` returns a gradient.
        shared_from: position of the first of any number of further tensors, shared by all items, that have gradients.
        saved_leading: number of saved tensors, the first ones, that have the batch axis; None for all.
    """

    leading: ClassVar[Sequence[int]] = ()
    differentiable: ClassVar[Sequence[int]] = ()
    shared_from: ClassVar[int | None] = None
    saved_leading: ClassVar[int | None] = None

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> Sequence[torch.Tensor | None]:
        """The gradients of all arguments, from that of the first output; None where not needed.

        The context has ``saved_tensors``, ``needs_input_grad`` and ``options``.
        """
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()

        def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
            return _backward(cls, ctx, grads[0])

        cls.backward = staticmethod(backward)  # type: ignore[method-assign]  # torch.compile does not accept a class method

    @classmethod
    def wanted(cls, needs: Sequence[bool]) -> list[int]:
        """Positions of the arguments whose gradients are needed."""
        first = len(needs) if cls.shared_from is None else cls.shared_from
        return [i for i, need in enumerate(needs) if need and (i in cls.differentiable or i >= first)]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        """The rule of ``torch.func.vmap``: one call for all items, or one for each where shared arguments differ."""
        apart = any(isinstance(dim, int) for i, dim in enumerate(in_dims) if i not in cls.leading)
        return _mapped(cls.apply, info.batch_size, in_dims, args, cls.leading, apart)


def _backward(function: type[StreamedFunction], ctx: Any, grad: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The gradients; if autograd records (``create_graph=True``), by an operation that cannot be differentiated."""
    needs = tuple(ctx.needs_input_grad)
    if grad is None:
        return (None,) * len(needs)
    compute = _Pullback.apply if torch.is_grad_enabled() or transforms_active() else _Pullback.forward
    found = iter(compute(function, ctx.options, needs, *ctx.saved_tensors, grad))
    wanted = function.wanted(needs)
    return tuple(next(found) if i in wanted else None for i in range(len(needs)))


@dataclass(frozen=True)
class _Context:
    """The part of a context that :meth:`StreamedFunction.gradients` may use."""

    saved_tensors: tuple[torch.Tensor | None, ...]
    needs_input_grad: tuple[bool, ...]
    options: dict[str, Any]


class _Pullback(torch.autograd.Function):
    """The needed gradients of a :class:`StreamedFunction`; differentiating them raises an error."""

    @staticmethod
    def forward(
        function: type[StreamedFunction], options: dict[str, Any], needs: tuple[bool, ...], *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            found = function.gradients(_Context(tensors[:-1], needs, options), tensors[-1])  # type: ignore[arg-type]
        return tuple(found[i] for i in function.wanted(needs))  # type: ignore[misc]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0].__name__.strip("_")

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        raise RuntimeError(
            f"the gradient of {ctx.name} in monai_locor has no derivative of its own: the losses and warps of this package can "
            "be differentiated once. Leave them out of gradient penalties and Hessians, or detach the gradient."
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], function: type[StreamedFunction], *args: Any) -> tuple[Any, Any]:
        needs, saved = args[1], len(args) - 3
        # the gradient of a shared argument is one sum over all items of a call
        apart = any(i not in function.leading for i in function.wanted(needs))
        shared = range(3 + (saved if function.saved_leading is None else function.saved_leading), 3 + saved)
        apart = apart or any(isinstance(in_dims[i], int) for i in shared)
        leading = [i for i in range(3, len(in_dims)) if i not in shared]
        return _mapped(_Pullback.apply, info.batch_size, in_dims, (function, *args), leading, apart)


def _mapped(
    call: Callable[..., Any], size: int, in_dims: Sequence[Any], args: Sequence[Any], leading: Sequence[int], apart: bool
) -> tuple[Any, Any]:
    """Outputs with the vmapped axis first, and its position in each of them; in one call, or item by item if ``apart``."""
    if apart:
        each = [call(*(_item(x, dim, n) for x, dim in zip(args, in_dims, strict=True))) for n in range(size)]
        single = not isinstance(each[0], tuple)
        outputs = [torch.stack(values) for values in zip(*map(_tuple, each), strict=True)]
    else:
        batch = max(_batch(args[i], in_dims[i]) for i in leading if args[i] is not None)
        folded = [_folded(args[i], in_dims[i], size, batch) if i in leading else args[i] for i in range(len(args))]
        found = call(*folded)
        single, outputs = not isinstance(found, tuple), [x.unflatten(0, (size, -1)) for x in _tuple(found)]
    return (outputs[0], 0) if single else (tuple(outputs), (0,) * len(outputs))


def _tuple(x: Any) -> tuple[torch.Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)


def _item(x: Any, dim: Any, n: int) -> Any:
    return x.select(dim, n) if isinstance(x, torch.Tensor) and dim is not None else x  # options have one dim for each part


def _batch(x: torch.Tensor, dim: int | None) -> int:
    """Length of the batch axis, apart from a vmapped one."""
    return x.shape[0 if dim is None or dim > 0 else 1]


def _folded(x: torch.Tensor | None, dim: int | None, size: int, batch: int) -> torch.Tensor | None:
    """``(size * batch, ...)``."""
    if x is None:
        return None
    every = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return every.expand(size, batch, *every.shape[2:]).flatten(0, 1)
