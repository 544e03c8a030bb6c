# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What the autograd functions of the losses have in common: `torch.func` and the refusal of a second derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

__all__ = ["StreamedFunction"]


class StreamedFunction(torch.autograd.Function):
    """An autograd function of tensors with a leading batch axis, whose gradient is written down and exact.

    Subclasses implement ``forward`` without a context, ``setup_context``, and :meth:`gradients` in place of ``backward``.
    They then work under ``torch.func.grad`` and ``torch.func.vmap``: the vmapped axis is folded into the batch axis.

    The gradient itself has no derivative. A second backward pass (a gradient penalty, a Hessian) raises instead of
    treating the gradient as a constant, which would be wrong without a word.

    Attributes:
        leading: positions of the arguments whose first axis is the batch axis, or has length one. They must be tensors or
            None. The other arguments are options or tensors that all items share.
    """

    leading: ClassVar[Sequence[int]] = ()

    @staticmethod
    def gradients(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of all arguments, None for those without."""
        raise NotImplementedError

    @classmethod
    def backward(cls, ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """:meth:`gradients`, with a refusal attached where autograd records (``create_graph=True``)."""
        with torch.no_grad():
            found = cls.gradients(ctx, *grad_outputs)
        if not torch.is_grad_enabled():
            return found
        tensors = [x for x in found if x is not None]
        sources = [x for x in (*ctx.saved_tensors, *grad_outputs) if isinstance(x, torch.Tensor)]
        refusing = iter(_OnlyOnce.apply(cls.__name__.strip("_"), len(tensors), *tensors, *sources))
        return tuple(None if x is None else next(refusing) for x in found)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        """The rule of ``torch.func.vmap``: one call for all items, or one for each where shared arguments differ."""
        size = info.batch_size
        shared = [i for i, dim in enumerate(in_dims) if dim is not None and i not in cls.leading]
        if shared:
            each = [cls.apply(*(_item(x, dim, n) for x, dim in zip(args, in_dims, strict=True))) for n in range(size)]
            outputs = [torch.stack(x) for x in zip(*(e if isinstance(e, tuple) else (e,) for e in each), strict=True)]
        else:
            batch = max(_batch(args[i], in_dims[i]) for i in cls.leading if args[i] is not None)
            folded = [_folded(x, d, size, batch) if i in cls.leading else x for i, (x, d) in enumerate(zip(args, in_dims))]
            found = cls.apply(*folded)
            outputs = [x.unflatten(0, (size, -1)) for x in (found if isinstance(found, tuple) else (found,))]
        return (outputs[0], 0) if len(outputs) == 1 else (tuple(outputs), (0,) * len(outputs))


def _item(x: Any, dim: int | None, n: int) -> Any:
    return x if dim is None else x.select(dim, n)


def _batch(x: torch.Tensor, dim: int | None) -> int:
    """Length of the batch axis beside a vmapped one."""
    return x.shape[0 if dim is None or dim > 0 else 1]


def _folded(x: torch.Tensor | None, dim: int | None, size: int, batch: int) -> torch.Tensor | None:
    """``(size * batch, ...)``."""
    if x is None:
        return None
    every = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return every.expand(size, batch, *every.shape[2:]).flatten(0, 1)


class _OnlyOnce(torch.autograd.Function):
    """The first ``count`` tensors; whatever asks for their derivative in any of the tensors is refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        raise RuntimeError(
            f"the gradient of {ctx.name} in monai_locor has no derivative of its own: a loss of this package can be "
            "differentiated once. Leave it out of gradient penalties and Hessians, or detach its gradient."
        )
