# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The steps of several engines in the operations of one.

Small images leave a device waiting for the next operation. Here the images, parameters and constants of B pairs are stacked,
and each operation of a step processes all of them. Pairs remain independent: each has its own basis, its own typical
gradients in the optimizer, and its own check for a gradient that is not finite.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..geometry import sample_planar, separable
from ..losses.base import PairLoss
from ..losses.bending import bending_energies
from ..losses.compare import channels_of
from ..precision import optimized
from .engine import RegistrationEngine
from .optimizer import DampedAdam, ParameterGroup, highest_loss

__all__ = ["BatchStep"]


class BatchStep:
    """Performs the steps of a stage for several engines at once.

    Each step has the results of :meth:`.RegistrationEngine.step` to rounding. The window shifts are those of the first
    engine; :func:`.batch_group.partition` combines only engines that would draw the same ones.

    Args:
        engines: engines that have entered the same stage, alike in the sense of :func:`.batch_group.partition` and sorted by
            their number of squarings. Their parameters change in :meth:`finish` only; the first one counts the
            steps.
        steps: number of steps of the stage.
    """

    def __init__(self, engines: Sequence[RegistrationEngine], steps: int) -> None:
        self.engines, self.first, self.device = list(engines), engines[0], engines[0].device
        count = len(engines)
        self.stacks = _Stacks(engines)
        self.optimizer = self._make_optimizer(steps)
        self.affine = _Affine(engines, self.stacks)
        self.velocity = _Velocity(engines, self.stacks) if self.first.deformable else None
        self.sides = [_Side(k, engines, self.stacks) for k in self.first.directions]
        self.values = torch.zeros(2, count, dtype=torch.float32, device=self.device)
        self.highest_loss = torch.zeros(count, dtype=torch.float32, device=self.device)
        shares = torch.tensor([[0.5], [1.0]], dtype=torch.float32, device="cpu").to(self.device).expand(-1, count)
        self.half, self.whole = shares.contiguous()
        self.bending = torch.tensor([e.bending_weight for e in engines], dtype=torch.float32, device="cpu").to(self.device)

    def _make_optimizer(self, steps: int) -> DampedAdam | None:
        if self.first.optimizer is None:
            return None
        groups = [
            ParameterGroup([self.stacks.of(p) for p in g.parameters], g.rate, g.factor, g.damping, g.active)
            for g in self.first.optimizer.groups
        ]
        return DampedAdam(groups, steps, items=len(self.engines))

    @optimized
    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one step; return similarity and weighted bending energy of each pair, ``(B,)`` on the device."""
        directions = self.first.directions_of_step()
        matrices = self.affine().unbind()
        shared = [matrices[k] for k in directions]
        if self.velocity is not None:
            shared.extend(self.velocity(directions).unbind())
        # each direction is backpropagated to these leaves and freed; the shared graph below them is backpropagated once
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in shared]
        fields: list[torch.Tensor | None] = [*leaves[len(directions) :]] or [None] * len(directions)
        for k, matrix, field in zip(directions, leaves, fields, strict=False):
            values = self.sides[k](matrix, field)
            values.backward((self.whole if len(directions) == 1 else self.half).to(values))
            self.values[k] = values.detach()
        bending = self._add_bending(fields[0])
        pairs = [(x, leaf.grad) for x, leaf in zip(shared, leaves, strict=True) if leaf.grad is not None]
        if pairs:
            torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])
        self.first.step_number += 1
        total = self.values.mean(0)
        self._update(total)
        return total, bending

    def _add_bending(self, field: torch.Tensor | None) -> torch.Tensor:
        if field is None or self.first.bending_weight == 0:
            return torch.zeros_like(self.bending)
        energies = bending_energies(field)
        if energies.requires_grad:
            energies.backward(self.bending)
        return energies.detach() * self.bending

    def _update(self, total: torch.Tensor) -> None:
        """Update the parameters of all pairs, see :meth:`.RegistrationEngine.step`. Does not synchronize with the device."""
        if self.optimizer is None:
            return
        if self.first.step_number == 1:
            self.highest_loss = highest_loss(total)
        gradient = self.optimizer.gradient()
        bad = gradient.mul(0).sum(1)  # NaN for an item with a value that is not finite, else 0
        self.optimizer.step(gradient, ((total + bad) <= self.highest_loss).logical_not_()[:, None])

    def failed_steps(self) -> list[int]:
        """Return how many steps of each pair were undone. Synchronizes with the device."""
        return [0] * len(self.engines) if self.optimizer is None else self.optimizer.failed_steps()

    @torch.no_grad()
    def finish(self) -> None:
        """Set the parameters and the random states of the engines to those after the last step."""
        self.stacks.write_back()
        for engine in self.engines:
            engine.step_number = self.first.step_number
            for own, used in zip(_generators(engine), _generators(self.first), strict=True):
                own.set_state(used.get_state())


def _generators(engine: RegistrationEngine) -> list[torch.Generator]:
    found = [getattr(loss, "generator", None) for loss in engine.losses]
    return [g for g in found if g is not None]


class _Stacks:
    """The parameters of all engines, stacked along a new first axis.

    Args:
        engines: with corresponding parameters.
    """

    def __init__(self, engines: Sequence[RegistrationEngine]) -> None:
        columns = list(zip(*(_parameters(engine) for engine in engines), strict=True))
        self.columns = {id(column[0]): column for column in columns}
        self.stacks = {key: _stacked(column) for key, column in self.columns.items()}

    def of(self, parameter: nn.Parameter | torch.Tensor) -> nn.Parameter:
        """The stack that a parameter of the first engine belongs to, ``(B, ...)``."""
        return self.stacks[id(parameter)]

    def write_back(self) -> None:
        """Copy the values to the parameters of the engines."""
        for key, column in self.columns.items():
            for own, value in zip(column, self.stacks[key], strict=True):
                own.copy_(value)


def _parameters(engine: RegistrationEngine) -> list[nn.Parameter]:
    return [*engine.losses.parameters(), *engine.transform_parameters()]


def _stacked(column: Sequence[nn.Parameter]) -> nn.Parameter:
    return nn.Parameter(torch.stack([p.detach() for p in column]), requires_grad=column[0].requires_grad)


class _Affine:
    """:meth:`monai_locor.networks.affine.AffineMap.both` of all engines."""

    def __init__(self, engines: Sequence[RegistrationEngine], stacks: _Stacks) -> None:
        first = engines[0].affine
        self.generators, self.exponential = first.generators, first.exponential
        self.log_matrix = stacks.of(first.log_matrix)
        self.left = torch.stack([e.affine.left for e in engines], 1)
        self.right = torch.stack([e.affine.right for e in engines], 1)

    def __call__(self) -> torch.Tensor:
        """The matrices and their inverses, ``(2, B, D + 1, D + 1)``, float64."""
        _, count, size, _ = self.left.shape
        logs = (self.generators @ self.log_matrix.double().flatten(1).T).view(2, size, size, count).permute(0, 3, 1, 2)
        return self.left @ self.exponential(logs.reshape(self.left.shape)) @ self.right


class _Velocity:
    """:meth:`monai_locor.networks.velocity.SplineVelocity.reversed` of all engines."""

    def __init__(self, engines: Sequence[RegistrationEngine], stacks: _Stacks) -> None:
        first = engines[0].velocity
        self.dims, self.shape = first.dims, first.shape
        self.coefficients = stacks.of(first.coefficients)
        self.matrices = [getattr(first, f"basis_{axis}") for axis in range(first.dims)]
        self.base = None if first.base is None else torch.stack([e.velocity.base for e in engines])  # type: ignore[misc]
        self.starts = first.starts.unflatten(0, (2, 1, self.dims))
        # engines in a row with the same number of squarings have one exponential
        self.parts: list[tuple[nn.Module, int]] = []
        for engine in engines:
            own = engine.velocity.exponential
            if self.parts and self.parts[-1][0].squarings == own.squarings:
                self.parts[-1] = (self.parts[-1][0], self.parts[-1][1] + 1)
            else:
                self.parts.append((own, 1))

    def __call__(self, directions: Sequence[int]) -> torch.Tensor:
        """Displacements in the order of ``grid_sample``, ``(directions, B, D, *lattice)``."""
        splines = separable(self.matrices, self.coefficients.flatten(0, 1)).view(-1, self.dims, *self.shape)
        velocity = splines if self.base is None else splines + self.base
        first = 0 if len(directions) == 2 else directions[0]
        starts = self.starts[first : first + len(directions)]
        fields = (starts @ velocity.flatten(2)).unflatten(3, self.shape)
        counts = [count for _, count in self.parts]
        out = [
            exponential(part.flatten(0, 1)).view(part.shape)
            for (exponential, _), part in zip(self.parts, fields.split(counts, 1), strict=True)
        ]
        return out[0] if len(out) == 1 else torch.cat(out, 1)


class _Side:
    """The similarity of one direction, of all engines.

    Args:
        k: direction.
        engines: engines that have entered a stage.
        stacks: their parameters.
    """

    def __init__(self, k: int, engines: Sequence[RegistrationEngine], stacks: _Stacks) -> None:
        levels = [engine.levels[k] for engine in engines]
        self.masked = levels[0].masked
        self.reference, self.other = (torch.cat([getattr(x, name) for x in levels]) for name in ("reference", "other"))
        self.shares = torch.tensor([level.share for level in levels], dtype=torch.float32, device="cpu").to(self.other.device)
        weights = [level.weight for level in levels if level.weight is not None]
        self.weight = torch.cat(weights) if weights else None
        self.nodes = _Nodes([engine.coordinates[k] for engine in engines])
        loss = engines[0].losses[k]
        self.named: dict[str, torch.Tensor] = {name: stacks.of(p) for name, p in loss.named_parameters()}
        self.loss = copy.copy(loss)  # shares parameters and generator; what it keeps of the batch is its own
        assert isinstance(self.loss, PairLoss)
        self.loss.reduction, self.channels = "none", channels_of(loss)

    def __call__(self, matrices: torch.Tensor, fields: torch.Tensor | None) -> torch.Tensor:
        """The loss of each pair, ``(B,)``, from ``(B, D + 1, D + 1)`` and ``(B, D, *lattice)``."""
        warped, weight = self._warped(self.nodes(matrices, fields))
        values, weights = functional_call(
            self.loss,
            self.named,
            (warped[:, : self.channels], self.reference.to(warped), weight),
            {"return_weights": True},
        )
        items = values.shape[:2]
        total = weights.reshape(*items, -1).sum(2)
        return (values.reshape(*items, -1).sum(2) / torch.where(total > 0, total, 1)).mean(1) * self.shares

    def _warped(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The other images at the samples, ``(B, C, *samples)``, and the weights of the samples, ``(B, 1, *samples)``."""
        warped = sample_planar(self.other, points)
        with torch.no_grad():
            weight = (points.abs().amax(1, keepdim=True) <= 1).to(warped)
            if self.masked:
                weight *= warped[:, -1:]
            if self.weight is not None:
                weight *= self.weight
        return warped, weight


class _Nodes:
    """The coordinates of one direction, of all engines, at the samples."""

    def __init__(self, coordinates: Sequence[Any]) -> None:
        first = coordinates[0]
        self.dims, self.index, self.upsample = first.dims, first.index, first.upsample
        self.shape, self.samples = first.nodes, first.shape

        def stack(get: Callable[[Any], torch.Tensor]) -> torch.Tensor:
            return torch.stack([get(c) for c in coordinates])

        self.product, self.product_shape = stack(lambda c: c.product), first.product_shape
        self.move = stack(lambda c: c.move) if hasattr(first, "move") else None

    def __call__(self, matrices: torch.Tensor, fields: torch.Tensor | None) -> torch.Tensor:
        """Normalized positions of the samples in the other images, ``(B, D, *samples)``, last axis first."""
        found = self._at_nodes(matrices, fields)
        return separable(self.upsample, found.reshape(-1, *self.shape)).view(-1, self.dims, *self.samples)

    def _at_nodes(self, matrices: torch.Tensor, fields: torch.Tensor | None) -> torch.Tensor:
        """The same at the nodes, ``(B, D, nodes)``."""
        columns = (self.product @ matrices.flatten(1)[..., None]).to(self.index).view(-1, *self.product_shape)
        sizes = [self.dims, 1, columns.shape[2] - self.dims - 1]
        linear, shift, move = columns.split(sizes, 2)
        points = torch.baddbmm(shift, linear, self.index.expand(len(columns), -1, -1))
        if fields is None:
            return points
        if self.move is None:
            return torch.baddbmm(points, move, fields.flatten(2))
        points, where = points.split(self.dims, 1)
        moved = sample_planar(fields, where.unflatten(2, self.shape), "border")
        return torch.baddbmm(points, self.move, moved.flatten(2))
