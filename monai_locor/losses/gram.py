# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local Gram matrices: window averages of products of voxel-wise features.

One primitive serves every measure made of local second moments. With the features ``[psi, t]`` it gives the ``A``, ``c``
and ``b`` of the local least squares fit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..autograd import StreamedFunction, transforms_active
from ..networks.basis_tape import BasisTape, basis_tape, tape_numbers_per_voxel
from ..recent import Recent
from .kernels import fused_average, fused_gradients
from .streaming import Portion, StreamedWindows

__all__ = ["Features", "LocalGram", "local_gram"]

Images = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # prediction, target, weights


@dataclass(frozen=True)
class Features:
    """The features of the voxels of G slabs, multiplied by the weights of the voxels.

    Attributes:
        plain: psi without weights, ``(G, J, *slab)``.
        psi: with weights, ``(G, J + J // 2, *slab)``: the rows beyond J repeat the first ones.
        target: t with weights, ``(G, T, *slab)``.
        plain_target: t without weights.
        weight: ``(G or 1, 1, *slab)``; None where all voxels count.
    """

    plain: torch.Tensor
    psi: torch.Tensor
    target: torch.Tensor
    plain_target: torch.Tensor
    weight: torch.Tensor | None

    @classmethod
    def make(cls, plain: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> Features:
        """From basis values and target without weights."""
        size = plain.shape[1]
        psi = plain.new_empty(len(plain), size + size // 2, *plain.shape[2:])
        if weight is None:
            psi[:, :size].copy_(plain)
        else:
            torch.mul(plain, weight, out=psi[:, :size])
        if size > 1:
            psi[:, size:].copy_(psi[:, : size // 2])
        return cls(plain, psi, target if weight is None else target * weight, target, weight)


class LocalGram:
    """The products whose window averages make up a local Gram matrix.

    Args:
        basis: voxel-wise module, ``(B, C, *spatial)`` to ``(B, num_basis, *spatial)``.
        num_basis: J.
        channels: channels T of the target.
        masked: whether voxels carry weights; adds the map ``mass``.
        first_moments: adds the maps ``psi`` and ``t``, plain averages.
        kept: keeps between calls what depends on the sizes.
        fused: whether Triton kernels compute them; None where they can and the images are on a GPU, see
            :mod:`monai_locor.losses.kernels`.

    Attributes:
        layout: rows of the maps by name: ``psi_psi``, ``psi_i psi_j`` in the order of :func:`.ridge.gram_pairs`; ``psi_t``,
            ``psi_j t_c`` with j outer; ``t_t``, ``t_c t_c``; and the optional ones.
        count: number of maps P.
    """

    def __init__(
        self,
        basis: Callable[[torch.Tensor], torch.Tensor],
        num_basis: int,
        channels: int,
        masked: bool = False,
        first_moments: bool = False,
        kept: Recent[Any] | None = None,
        fused: bool | None = None,
    ) -> None:
        self.basis, self.num_basis, self.channels, self.kept = basis, num_basis, channels, kept
        self.masked, self.first_moments, self.fused = masked, first_moments, fused
        sizes = {"psi_psi": num_basis * (num_basis + 1) // 2, "psi_t": num_basis * channels, "t_t": channels}
        sizes |= {"psi": num_basis, "t": channels} if first_moments else {}
        sizes |= {"mass": 1} if masked else {}
        stops = list(itertools.accumulate(sizes.values()))
        self.layout = {name: slice(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}
        self.count = stops[-1]

    def numbers_per_voxel(self, windows: StreamedWindows) -> int:
        """Numbers that the forward or the backward pass holds per voxel of a slab, at most."""
        features = self.num_basis + self.num_basis // 2 + 2 * self.channels
        filtering = windows.filter_numbers(self.count)
        gradients = self.count + self.num_basis + self.channels  # of the maps, of psi and t
        channels = getattr(self.basis, "in_channels", self.num_basis)
        return channels + tape_numbers_per_voxel(self.basis, self.num_basis) + features + max(filtering, gradients)

    def products(self, features: Features) -> torch.Tensor:
        """All maps of slabs, ``(G, P, *slab)``."""
        size, psi, target = self.num_basis, features.psi, features.target
        out = psi.new_empty(len(psi), self.count, *psi.shape[2:])
        whole = (size + 1) // 2  # diagonals of full length
        # psi_i psi_(i + d) for all i and d: the second factors are overlapping parts of the doubled rows
        shifted = psi.unfold(1, size, 1).movedim(-1, 2)
        torch.mul(features.plain[:, None], shifted[:, :whole], out=out[:, : whole * size].unflatten(1, (whole, size)))
        if size % 2 == 0:
            rest = slice(whole * size, self.layout["psi_psi"].stop)
            torch.mul(features.plain[:, : size // 2], psi[:, size // 2 : size], out=out[:, rest])
        torch.mul(features.plain[:, :, None], target[:, None], out=out[:, self.layout["psi_t"]].unflatten(1, (size, -1)))
        torch.mul(features.plain_target, target, out=out[:, self.layout["t_t"]])
        if self.first_moments:
            out[:, self.layout["psi"]].copy_(psi[:, :size])
            out[:, self.layout["t"]].copy_(target)
        if features.weight is not None:
            out[:, self.layout["mass"]].copy_(features.weight)
        return out

    def psi_gradient(self, grad: torch.Tensor, features: Features) -> torch.Tensor:
        """Adjoint of :meth:`products` in psi without weights, ``(G, J, *slab)``, from the gradients of the maps."""
        size, psi, half = self.num_basis, features.psi, self.num_basis // 2
        cross = grad[:, self.layout["psi_t"]].unflatten(1, (size, -1))
        out = cross[:, :, 0] * features.target[:, :1]
        for c in range(1, self.channels):
            out.addcmul_(cross[:, :, c], features.target[:, c, None])
        out.addcmul_(grad[:, :size], psi[:, :size], value=2)
        for d in range(1, (size + 1) // 2):
            part = grad[:, d * size : (d + 1) * size]
            out.addcmul_(part, psi[:, d : d + size])
            out[:, d:].addcmul_(part[:, :-d], psi[:, : size - d])
            out[:, :d].addcmul_(part[:, -d:], psi[:, size - d : size])
        if size % 2 == 0:
            part = grad[:, self.layout["psi_psi"]][:, -half:]
            out[:, :half].addcmul_(part, psi[:, half:size])
            out[:, half:].addcmul_(part, psi[:, :half])
        return self._add_mean(out, grad, "psi", features.weight)

    def target_gradient(self, grad: torch.Tensor, features: Features) -> torch.Tensor:
        """Adjoint of :meth:`products` in the target without weights, ``(G, T, *slab)``."""
        out = 2 * grad[:, self.layout["t_t"]] * features.target
        cross = grad[:, self.layout["psi_t"]].unflatten(1, (self.num_basis, -1))
        for j in range(self.num_basis):
            out.addcmul_(cross[:, j], features.psi[:, j, None])
        return self._add_mean(out, grad, "t", features.weight)

    def _add_mean(self, out: torch.Tensor, grad: torch.Tensor, name: str, weight: torch.Tensor | None) -> torch.Tensor:
        """Add the gradient through the plain averages, if there are any."""
        if not self.first_moments:
            return out
        part = grad[:, self.layout[name]]
        return out.add_(part) if weight is None else out.addcmul_(part, weight)


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
    """What a call of :func:`local_gram` consists of beside its tensors.

    Attributes:
        slabs: of the forward pass, if the whole batch is one portion and a backward pass follows: the features are then not
            calculated again. Within the memory budget, until the first backward pass.
    """

    def __init__(self, gram: LocalGram, windows: StreamedWindows, names: tuple[str, ...], keep: bool) -> None:
        self.gram, self.windows, self.names, self.keep = gram, windows, names, keep
        self.slabs: _Slabs | None = None

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
        self.single = len(portions) == 1
        planes = max((items.stop - items.start) * (part.stop - part.start) for items, part in portions)
        voxels = planes * math.prod(windows.shape[1:])
        self.tape: BasisTape = basis_tape(gram.basis, parameters, self.pred, voxels, gram.kept)
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
        fused = fused_average(call.gram, call.windows, images, call.named(parameters))
        if fused is not None:
            return fused
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
        fused = fused_gradients(call.gram, call.windows, images, call.named(parameters), grad, needs)
        if fused is not None:
            return None, *fused[:2], None, *fused[2]
        need_pred, need_target = needs
        slabs = call.taken(images, parameters)
        dpred = torch.empty_like(pred, memory_format=torch.contiguous_format) if need_pred else None
        dtarget = torch.empty_like(target) if need_target else None

        def consume(portion: Portion, maps: torch.Tensor) -> None:
            slabs.add_gradients(maps, portion, dpred, dtarget, bool(parameters))

        # the maps of the target and of the mass come last, and only the gradient of the target needs them
        used = slice(0, None if need_target or call.gram.first_moments else call.gram.layout["psi_t"].stop)
        call.windows.pull_back(call.gram, pred, grad[:, used], consume)
        return None, dpred, dtarget, None, *(slabs.tape.gradients() if parameters else ())
