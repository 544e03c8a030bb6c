# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The features of voxels and the products of them whose window averages make up local Gram matrices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..networks.basis_tape import tape_numbers_per_voxel
from ..recent import Recent
from .streaming import StreamedWindows

__all__ = ["Features", "LocalGram"]


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
        constant_means: whether the averages ``psi`` are not used, so that their gradient need not be computed.
        overwrite: whether the gradient of the prediction may take its memory, which saves that of a gradient.

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
        constant_means: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.constant_means, self.overwrite = constant_means, overwrite
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
        return out if self.constant_means else self._add_mean(out, grad, "psi", features.weight)

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
