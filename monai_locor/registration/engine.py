# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The engine: the state of one registration, advanced step by step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..geometry import Grid
from ..losses import LocalLearnedBasisCRLoss
from ..losses.bending import bending_energy
from ..losses.compare import channels_of, compare
from ..losses.parzen_loss import ParzenLoss
from ..networks import LearnedBasis
from ..networks.affine import AffineMap
from ..networks.composition import COMPOSITIONS
from ..networks.velocity import SplineVelocity
from ..precision import optimized
from .basis_pair import BasisPair
from .channels import foreign, single
from .config import RegistrationConfig
from .coordinates import ForwardCoordinates, InverseCoordinates
from .directions import DirectionThreads
from .fields import BidirectionalMap, forward_mm, inverse_mm
from .guides import guides_of
from .optimizer import DampedAdam, ParameterGroup, highest_loss
from .parallel import Exchange
from .pyramid import Level, distance_ratios, level_grid, make_level
from .resampling import Resampling, slab_samples
from .restriction import free_axes
from .schedule import DENSE_RATE, Stage, rate_factor
from .slab_limits import limit_slabs
from .start.prepare import SOFT_LIMITS
from .start.reach import parts_in_reach
from .start.start import Start
from .window_sizes import margins_of, relative_window_size, window_sizes

__all__ = ["RegistrationEngine"]

logger = logging.getLogger(__name__)

MAX_CONTROL_POINT_STEP = 0.05  # fraction of the field of view
VELOCITY_GROWTH = 0.25  # of the velocity in a stage, relative to steps that all go the same way


class RegistrationEngine(nn.Module):
    """Affine and diffeomorphic registration of one pair, in both directions simultaneously.

    A fixed world point x is mapped to ``A exp(v)(x)``, a moving world point y to ``exp(-v)(A^-1 y)``. The loss is evaluated
    on the samples of the fixed image and on those of the moving image, each with its own basis, and averaged; in a stage with
    ``directions="alternating"``, each step evaluates one of the two.

    Call :meth:`enter` for a stage and :meth:`step` for each of its iterations; :func:`.run.optimize` runs all stages of the
    settings.

    Args:
        start: images and initial state.
        config: settings.
        exchange: with two processes, provides the direction of this engine and the sum over both; None for one process.

    Attributes:
        history: one entry for each completed stage, see :func:`.history.stage_record`.
    """

    def __init__(self, start: Start, config: RegistrationConfig, exchange: Exchange | None = None) -> None:
        super().__init__()
        self.start, self.config, self.device = start.to(start.device), config, start.device
        self.exchange, self.directions = exchange, (0, 1) if exchange is None else (exchange.direction,)
        self.shared = exchange is None  # whether this process has the bases of both directions
        self.history: list[dict[str, Any]] = []
        self.direction_share = torch.tensor(0.5, dtype=torch.float32, device="cpu").to(self.device)
        self._begin()

    @optimized
    def _begin(self) -> None:
        start = self.start
        self.whole, self.initial_velocity = start.images, start.velocity
        given, predicted = (start.velocity, start.displacement), start.predict is not None
        self.fixed, self.moving = parts_in_reach(self.whole, start.affine, self.config.quantile, given, predicted)
        self.unweighted = self.fixed, self.moving  # without the weights of missing tissue
        self.unit = float(self.whole[0].grid.spacing.min())
        self.free = free_axes(self.config.restrict_deformation, self.whole[0])
        self._reset_velocity()
        self.affine = AffineMap(self.fixed.grid, start.affine, self.config.transform).to(self.device)
        self.losses = nn.ModuleList(start.losses.make(self.config, self.fixed.grid.dims)).to(self.device)
        # random numbers of other losses may depend on the order of the directions
        together = self.device.type == "cpu" and foreign(self.losses) is None and not start.thrifty
        self.threads = DirectionThreads(together)
        if start.thrifty:
            limit_slabs(self.losses, self.device.type)
        self.release()

    def _reset_velocity(self) -> None:
        self.velocity = self._make_velocity(4.0, 1.0, np.ones(self.fixed.grid.dims))  # only the initial deformation, if any
        self.deformable = self.initial_velocity is not None or self.start.displacement is not None

    @optimized
    def set_velocity(self, velocity: torch.Tensor) -> None:
        """Replace the deformation by a stationary velocity, ``(D, *fixed)`` in the prepared axis order, RAS mm."""
        self.initial_velocity = velocity
        self._reset_velocity()

    @optimized
    @torch.no_grad()
    def share_bases(self) -> None:
        """Exchange the learned bases between the processes of both directions; both must call it."""
        parameters = list(self.losses.parameters())
        if self.exchange is not None and parameters:
            for k, loss in enumerate(self.losses):
                for parameter in loss.parameters():
                    parameter.mul_(float(k in self.directions))
            self.exchange(parameters)
        self.shared = True

    @optimized
    def learned_bases(self) -> BasisPair | None:
        """Return the current bases; None if there are none or, with two processes, before :meth:`share_bases`."""
        found = [x for x in self.losses if isinstance(x, LocalLearnedBasisCRLoss) and isinstance(x.basis, LearnedBasis)]
        if len(found) < 2 or not self.shared:
            return None
        return BasisPair.of(*found, derivative=self._derivative(), quantile=self.config.quantile, limits=SOFT_LIMITS)

    def _derivative(self) -> str:
        """The setting ``derivative``, or ``"none"`` for measures that use intensities only."""
        return self.config.derivative if channels_of(single(self.losses[0])) > 1 else "none"

    def _make_velocity(self, spacing: float, factor: float, ratios: np.ndarray) -> SplineVelocity:
        """Return a velocity of zero with as many samples between two control points along every axis."""
        step = max(2.0, min(spacing / 2, 2 * factor)) * self.unit
        grid = self.fixed.grid
        # at least three lattice points along the longest axis
        step = min(step, float((grid.extent - grid.spacing).max()) / 2)
        velocity = COMPOSITIONS[self.config.composition](
            grid, spacing * self.unit * ratios, step, 2 * step, self.config.squarings, self.free
        )
        velocity = velocity.to(self.device)
        velocity.exponential.repeat = self.start.thrifty
        if self.initial_velocity is not None:
            velocity.set_base(self.initial_velocity)
        elif self.start.displacement is not None:
            left = velocity.fit_base(self.start.displacement)
            logger.info("initial displacement approximated to %.3f mm in 95 %% of the field of view", left)
        return velocity

    @optimized
    def enter(self, stage: Stage) -> None:
        """Prepare the images, the lattice and a new optimizer for a stage."""
        ratios = distance_ratios(self.fixed.grid, self.moving.grid, stage.factor, self.matrix())
        if stage.spacing is not None:
            velocity = self._make_velocity(stage.spacing, stage.factor, ratios)
            if self.deformable:
                velocity.take(self.velocity)
            self.velocity, self.deformable = velocity, True
        for module in self.losses.modules():
            if isinstance(module, ParzenLoss):
                module.reset_range()  # the range of the previous stage's samples
        self.release()  # free the images of the previous stage before allocating new ones
        images = [(self.fixed, self.moving), (self.moving, self.fixed)]
        for k in self.directions:
            options = self._derivative(), self.config.derivative_unit, self.config.region
            margins = margins_of(self.config, images[k][0].grid, stage.factor)
            self.levels[k] = make_level(*images[k], stage.factor, *options, margins)
            self.coordinates[k] = self._coordinates(k, self.levels[k].grid)
            samples = slab_samples(self.device.type, self.start.thrifty)
            self.resampling[k] = Resampling(self.coordinates[k].upsample, samples, self.coordinates[k].used)
            self._size_windows(k, images[k][0].grid, stage.factor)
        self._choose_squarings(stage)
        groups = self._parameter_groups(stage)
        self.optimizer = DampedAdam(groups, stage.iterations) if groups else None  # nothing to optimize
        self.alternates = self.exchange is None and stage.directions == "alternating"
        self.step_number, self.values = 0, torch.zeros(2, dtype=torch.float32, device=self.device)
        self.highest_loss = torch.zeros(1, dtype=torch.float32, device=self.device)
        # the geometric mean over the axes
        spacing = float(level_grid(self.fixed.grid, stage.factor).spacing.min() * np.prod(ratios) ** (1 / len(ratios)))
        self.bending_unit = (spacing / self.velocity.step) ** 2
        # a wider window resolves less of the deformation (benchmarks/results/histology.md)
        wider = relative_window_size(self.config, self.fixed.grid) ** 2
        self.bending_weight = self.config.effective_bending_weight * wider * self.bending_unit
        self.bending_share = self.direction_share * (2 * self.bending_weight)
        self.guides = guides_of(self.start, self.config, spacing, self.fixed.grid, self.velocity if self.deformable else None)

    def _size_windows(self, k: int, reference: Grid, factor: float) -> None:
        """Set the windows of the default measure in a direction."""
        if self.config.similarity != "locor":
            return
        sizes = window_sizes(self.config, reference, factor)
        for loss in self.losses[k].modules():
            if isinstance(loss, LocalLearnedBasisCRLoss):
                loss.kernel_sigma, loss.stride = sizes.sigma, sizes.stride
                loss.overwrite_pred = loss is self.losses[k]  # which alone reads the warped image

    def _choose_squarings(self, stage: Stage) -> None:
        """Take as many squarings as the deformation is likely to need until the end of a stage."""
        if not self.deformable:
            return
        growth = 0.0
        if stage.spacing is not None:
            rate, factor = self._rate_of_coefficients(stage), self._rate_factor(stage)
            path = sum(rate * factor(n) for n in range(stage.iterations))  # control-point spacings
            growth = VELOCITY_GROWTH * path * self.velocity.unit / self.velocity.step
        self.velocity.choose_squarings(growth)

    def release(self) -> None:
        """Free the images of the current stage."""
        self.levels: dict[int, Level] = {}
        self.coordinates: dict[int, ForwardCoordinates | InverseCoordinates] = {}
        self.resampling: dict[int, Resampling] = {}

    def _parameter_groups(self, stage: Stage) -> list[ParameterGroup]:
        """Return the bases, the affine and the coefficients; the rate of bases is constant."""
        config, factor = self.config, self._rate_factor(stage)
        self.affine.requires_grad_(config.affine)
        self.velocity.requires_grad_(stage.spacing is not None)
        groups = [ParameterGroup(self._own_bases(), config.learning_rate_basis)]
        if config.affine:
            own = stage.learning_rate if stage.spacing is None else None
            groups.append(ParameterGroup([self.affine.log_matrix], own or config.learning_rate_affine, factor))
        if stage.spacing is not None:
            rate = self._rate_of_coefficients(stage)
            groups.append(ParameterGroup([self.velocity.coefficients], rate, factor, config.damping, self.velocity.free_share))
        return [group for group in groups if group.parameters]

    def _rate_of_coefficients(self, stage: Stage) -> float:
        """Return the learning rate of a deformable stage, in control-point spacings."""
        assert stage.spacing is not None
        # for very coarse images, so that a step does not move one image out of the field of view of the other
        most = MAX_CONTROL_POINT_STEP * float(self.fixed.grid.extent.max()) / (stage.spacing * self.unit)
        return min(stage.learning_rate or DENSE_RATE, most)

    def _rate_factor(self, stage: Stage) -> Callable[[int], float]:
        config = self.config
        return rate_factor(stage.iterations, config.warmup, config.decay_start, config.decay_end)

    def _own_bases(self) -> list[nn.Parameter]:
        """Return the parameters of the losses of this process's directions."""
        return [p for k in self.directions for p in self.losses[k].parameters()]

    @optimized
    def step(self) -> tuple[torch.Tensor, ...]:
        """Run one step of the current stage; return similarity, weighted bending energy and the terms of the guides."""
        return self._step()

    def _step(self) -> tuple[torch.Tensor, ...]:
        directions = self.directions_of_step()
        matrices = self.affine.both().unbind()
        shared = [matrices[k] for k in directions]
        if self.deformable:
            shared.extend(self.velocity.reversed(directions).unbind())
        # each direction is backpropagated to these leaves and freed; the shared graph below them is backpropagated once
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in shared]
        fields: list[torch.Tensor | None] = [*leaves[len(directions) :]] or [None] * len(directions)
        share = 2 * self.direction_share if self.alternates and len(directions) == 1 else self.direction_share
        self.threads(self._evaluate, [(share, *job) for job in zip(directions, leaves, fields, strict=False)])
        total = self.values.mean()
        bending = self._add_bending(fields[0])
        pairs = [(x, leaf.grad) for x, leaf in zip(shared, leaves, strict=True) if leaf.grad is not None]
        if pairs:
            torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])
        self.step_number += 1
        return self._updated(total, bending, *self.guides.means())

    def recount(self, steps: int) -> None:
        """Set the number of steps of the stage so far, after a step was replayed or only recorded."""
        self.step_number = steps
        if self.optimizer is not None:
            self.optimizer.steps_done = steps

    @optimized
    def _evaluate(self, share: torch.Tensor, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> None:
        """Evaluate the loss of a direction and add its gradient, times its share, to those of its arguments and its basis."""
        value = self._similarity(k, matrix, displacement)
        self.values[k] = value.detach()
        value = self.guides.added(value, k, matrix, displacement)
        value.backward(share.to(value))

    def _add_bending(self, field: torch.Tensor | None) -> torch.Tensor:
        """Return the weighted bending energy of a forward displacement, and add its gradient to that of the displacement."""
        if field is None or self.bending_weight == 0 or self.directions[0] != 0:
            return torch.zeros((), dtype=torch.float32, device=self.device)
        energy = bending_energy(field[None])
        if energy.requires_grad:
            energy.backward(self.bending_share)
        return energy.detach() * self.bending_weight

    def failed_steps(self) -> int:
        """Return how many steps of the current stage were undone. Synchronizes with the device."""
        return 0 if self.optimizer is None else self.optimizer.failed_steps()[0]

    def directions_of_step(self) -> tuple[int, ...]:
        """Return the directions that the next step evaluates: at the start of a stage all, for the value of the loss there."""
        return (self.step_number % 2,) if self.alternates and self.step_number > 0 else self.directions

    def _updated(self, total: torch.Tensor, bending: torch.Tensor, *guides: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sum over the processes, if there are two, and update the parameters.

        If the loss or a gradient is not finite, or the loss has risen a lot in the stage, the last step is undone, see
        :class:`.optimizer.DampedAdam`. Does not synchronize with the device.
        """
        if self.optimizer is None:
            return total, bending, *guides
        gradient = self.optimizer.gradient()
        bad = gradient.mul(0).sum()  # NaN if one of them is not finite, else 0
        if self.exchange is not None:
            own = sum(p.numel() for p in self._own_bases())
            self.exchange([gradient[own:], total, bending, *guides, bad])
        if self.step_number == 1:
            self.highest_loss.copy_(sum(map(highest_loss, guides), highest_loss(total)))
        self.optimizer.step(gradient, ((sum(guides, total) + bad) <= self.highest_loss).logical_not_())
        return total, bending, *guides

    def _similarity(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        warped, weight = self._warped(k, matrix, displacement)
        value = compare(self.losses[k], warped, self.levels[k].reference, weight)
        if value.numel() != 1:
            raise InputError(f"the similarity must return one number, got shape {tuple(value.shape)}; see its reduction.")
        # the windows beyond a smaller margin count as windows without a gradient
        share = self.levels[k].share
        return value.reshape(()) if share == 1 else value.reshape(()) * share

    def _warped(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the other image at the samples of a direction, and the weights of the samples."""
        level = self.levels[k]
        return level.weighted(*self.resampling[k](level.other, self.coordinates[k](matrix, displacement)))

    @torch.no_grad()
    def sampled(self, k: int, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the other image at the samples of any level of a direction, ``(1, C, *grid)``, and the weights."""
        coordinates = self._coordinates(k, level.grid)
        displacement = self.velocity.reversed([k])[0] if self.deformable else None
        nodes = coordinates(self.affine(inverse=bool(k)), displacement)
        return level.weighted(*Resampling(coordinates.upsample, used=coordinates.used)(level.other, nodes))

    def weigh(self, fixed: torch.Tensor, moving: torch.Tensor) -> None:
        """Multiply the weights of the images, for the stages to come, by ``(1, *spatial)`` on their grids."""
        self.fixed, self.moving = (
            replace(image, weight=weight if image.weight is None else image.weight * weight)
            for image, weight in zip(self.unweighted, (fixed, moving), strict=True)
        )

    @optimized
    @torch.no_grad()
    def compared(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the inputs of the loss of a direction: warped image, target image, weights."""
        displacement = self.velocity.reversed([k])[0] if self.deformable else None
        warped, weight = self._warped(k, self.affine(inverse=bool(k)), displacement)
        return warped[:, : channels_of(self.losses[k])], self.levels[k].reference, weight

    def transform_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the affine and of the current control points."""
        return [*self.affine.parameters(), self.velocity.coefficients]

    @optimized
    @torch.no_grad()
    def matrix(self) -> np.ndarray:
        """Return the affine part, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm."""
        return self.affine().cpu().numpy()

    def _coordinates(self, direction: int, level: Grid) -> ForwardCoordinates | InverseCoordinates:
        """Return the coordinates from samples of the fixed image (direction 0) or of the moving image (direction 1)."""
        fixed, velocity = self.fixed.grid, self.velocity if self.deformable else None
        if direction == 0:
            return ForwardCoordinates(level, fixed, self.moving.grid, velocity, self.device)
        return InverseCoordinates(level, fixed, velocity, self.device)

    @optimized
    @torch.no_grad()
    def forward_mm(self) -> torch.Tensor:
        """Return the forward displacement including the affine, ``(D, *fixed)``, RAS mm; constant beyond the lattice."""
        return forward_mm(self._map())

    @optimized
    @torch.no_grad()
    def inverse_mm(self, forward: torch.Tensor) -> torch.Tensor:
        """Return the inverse displacement including the affine, ``(D, *moving)``, RAS mm.

        Args:
            forward: result of :meth:`forward_mm`.
        """
        return inverse_mm(self._map(), forward)

    def _map(self) -> BidirectionalMap:
        if self.deformable:
            self.velocity.choose_squarings()  # it may have grown more, or less, than expected
        whole, part = (self.whole[0].grid, self.whole[1].grid), (self.fixed.grid, self.moving.grid)
        return BidirectionalMap(self.affine, self.velocity if self.deformable else None, whole, part, self.device)
