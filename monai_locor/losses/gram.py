# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local Gram matrices: window averages of products of voxel-wise features.

One primitive serves every measure made of local second moments. With the features ``[psi, t]`` it gives the ``A``, ``c``
and ``b`` of the local least squares fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..autograd import StreamedFunction, transforms_active
from ..networks.basis_tape import BasisTape, LearnedBasisTape, basis_tape
from .kernels import fused_average, fused_gradients
from .products import Features, LocalGram
from .streaming import Portion, StreamedWindows

if TYPE_CHECKING:
    from .kernels.launch import FusedGram

__all__ = ["local_gram"]

Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # prediction, target, weights


def local_gram(
    gram: LocalGram,
    windows: StreamedWindows,
    pred: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    parameters: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Window averages of the products of ``[basis(pred), target]``, differentiable in pred, target and the basis.

    Args:
        gram: the products.
        windows: where they are averaged.
        pred: ``(B, C, *spatial)``, input of the basis functions.
        target: ``(B, T, *spatial)``.
        weight: of the voxels, ``(1 or B, 1, *spatial)``, or None; not differentiated.
        parameters: those of the basis that need a gradient, by name.

    Returns:
        ``(B, P, *windows)``, rows as in ``gram.layout``.
    """
    parameters = parameters or {}
    needed = any(x.requires_grad for x in (pred, target, *parameters.values()))
    call = _Call(gram, windows, tuple(parameters), needed and torch.is_grad_enabled() and not transforms_active())
    return _LocalGramFunction.apply(call, pred, target, weight, *parameters.values())


class _Call:
    """The arguments of a call of :func:`local_gram` that are not tensors.

    Attributes:
        slabs: of the forward pass, if the basis is learned, the whole batch is one portion and a backward pass follows: the
            features are then not calculated again. Within the memory budget, until the first backward pass.
        fused: what the kernels of a GPU have prepared, likewise.
    """

    def __init__(self, gram: LocalGram, windows: StreamedWindows, names: tuple[str, ...], keep: bool) -> None:
        self.gram, self.windows, self.names, self.keep = gram, windows, names, keep
        self.slabs: _Slabs | None = None
        self.fused: FusedGram | None = None

    def named(self, parameters: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters by name."""
        return dict(zip(self.names, parameters, strict=True))

    def made(self, images: Images, parameters: Sequence[torch.Tensor]) -> _Slabs:
        """The slabs of the forward pass."""
        slabs = _Slabs(self.gram, self.windows, images, self.named(parameters))
        if self.keep and slabs.single:
            self.slabs = slabs
        return slabs

    def taken(self, images: Images, parameters: Sequence[torch.Tensor]) -> _Slabs:
        """Those for the backward pass."""
        slabs, self.slabs, self.keep = self.slabs, None, False
        return slabs or self.made(images, parameters)


class _Slabs:
    """Weighted features of the slabs of some images, and the gradients that come back through them."""

    def __init__(
        self,
        gram: LocalGram,
        windows: StreamedWindows,
        images: Images,
        parameters: Mapping[str, torch.Tensor],
    ) -> None:
        self.gram, (self.pred, self.target, self.weight) = gram, images
        portions = windows.portions(gram, self.pred)
        planes = max((items.stop - items.start) * (part.stop - part.start) for items, part in portions)
        voxels = planes * math.prod(windows.shape[1:])
        self.tape: BasisTape = basis_tape(gram.basis, parameters, self.pred, voxels, gram.kept)
        # features that a network makes are worth keeping between forward and backward pass
        self.single = len(portions) == 1 and isinstance(self.tape, LearnedBasisTape)
        self.found: Features | None = None

    def features(self, portion: Portion) -> Features:
        """The features of a portion."""
        items, part = portion
        pred, target = self.pred[items, :, part], self.target[items, :, part]
        psi = self.tape(pred.flatten(2), items).unflatten(2, pred.shape[2:])
        weight = None
        if self.weight is not None:
            weight = (self.weight[items] if len(self.weight) > 1 else self.weight)[:, :, part]
        return Features.make(psi, target, weight)

    def products(self, portion: Portion) -> torch.Tensor:
        """The maps of a portion."""
        features = self.features(portion)
        if self.single:
            self.found = features
        return self.gram.products(features)

    def add_gradients(
        self, maps: torch.Tensor, portion: Portion, dpred: torch.Tensor | None, dtarget: torch.Tensor | None, learned: bool
    ) -> None:
        """From the gradient of the maps of a portion, write those of both images there, and add those of the parameters."""
        items, part = portion
        features, self.found = self.found or self.features(portion), None
        if dtarget is not None:
            dtarget[items, :, part] = self.gram.target_gradient(maps, features)
        if dpred is None and not learned:
            return
        dpsi = self.gram.psi_gradient(maps, features).flatten(2)
        out = None if dpred is None else dpred[items, :, part].view(len(dpsi), dpred.shape[1], -1)
        self.tape.pullback(dpsi, maps.view(-1), out)


class _LocalGramFunction(StreamedFunction):
    leading = (1, 2, 3)
    differentiable = (1, 2)
    shared_from = 4
    saved_leading = 3

    @staticmethod
    def forward(
        call: _Call, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, *parameters: torch.Tensor
    ) -> torch.Tensor:
        images = pred, target, weight
        found = fused_average(call.gram, call.windows, images, call.named(parameters))
        if found is not None:
            call.fused = found[1] if call.keep else None
            return found[0]
        slabs = call.made(images, parameters)
        return call.windows.average(call.gram, pred, slabs.products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.options = {"call": inputs[0]}
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call: _Call = ctx.options["call"]
        pred, target, weight, *parameters = ctx.saved_tensors
        images, needs = (pred, target, weight), ctx.needs_input_grad[1:3]
        made, call.fused = call.fused, None
        fused = fused_gradients(call.gram, call.windows, images, call.named(parameters), grad, needs, made)
        if fused is not None:
            return None, *fused[:2], None, *fused[2]
        need_pred, need_target = needs
        slabs = call.taken(images, parameters)
        dpred = _room_for_gradient(pred, call.gram.overwrite) if need_pred else None
        dtarget = torch.empty_like(target) if need_target else None

        def consume(portion: Portion, maps: torch.Tensor) -> None:
            slabs.add_gradients(maps, portion, dpred, dtarget, bool(parameters))

        # the maps of the target and of the mass come last, and only the gradient of the target needs them
        means = call.gram.first_moments and not call.gram.constant_means
        used = slice(0, None if need_target or means else call.gram.layout["psi_t"].stop)
        call.windows.pull_back(call.gram, pred, grad[:, used], consume)
        return None, dpred, dtarget, None, *(slabs.tape.gradients() if parameters else ())


def _room_for_gradient(pred: torch.Tensor, overwrite: bool) -> torch.Tensor:
    """Memory for the gradient of the prediction: its own, where nothing reads a portion after its gradient is written."""
    if overwrite and pred.is_contiguous():
        return pred.detach()
    return torch.empty_like(pred, memory_format=torch.contiguous_format)
