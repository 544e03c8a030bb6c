# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The engine: the state of one registration, advanced step by step."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..errors import InputError
from ..geometry import Grid
from ..losses import LocalLearnedBasisCRLoss
from ..losses.bending import bending_energy
from ..losses.compare import channels_of, compare, takes_mask
from ..losses.parzen_loss import ParzenLoss
from ..networks import LearnedBasis
from ..networks.affine import AffineMap
from ..networks.composition import COMPOSITIONS
from ..networks.velocity import SplineVelocity
from ..precision import optimized
from .basis_pair import BasisPair
from .channels import single
from .config import RegistrationConfig
from .coordinates import ForwardCoordinates, InverseCoordinates
from .correspondence import COARSE, fit_like_two_people
from .fields import forward_mm, inverse_mm
from .history import stage_record
from .optimizer import DampedAdam
from .parallel import Exchange
from .pyramid import Level, level_grid, make_level
from .resampling import Resampling
from .schedule import DENSE_RATE, Stage, rate_factor
from .similarity import OwnSimilarity, make_similarities
from .start.prepare import SOFT_LIMITS, PreparedImage
from .start.reach import parts_in_reach
from .starts import try_another_start

__all__ = ["RegistrationEngine"]

logger = logging.getLogger(__name__)

LONGEST_STEP = 0.05  # of a control point, share of the field of view
LAST = 5  # steps whose mean loss is what a stage has come to
SLACK = 0.02  # share of the loss: what the random windows alone may change


class RegistrationEngine(nn.Module):
    """Affine and diffeomorphic registration of one pair, in both directions at once.

    The map takes a fixed world point x to ``A exp(v)(x)`` and a moving one y to ``exp(-v)(A^-1 y)``. The loss is
    evaluated on the fixed image's samples and on the moving image's, each with a basis of its own, and averaged.

    Args:
        fixed, moving: see :func:`monai_locor.registration.start.prepare`.
        config: settings.
        initial: ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        seed: of the basis networks and of the window shifts.
        initial_velocity: stationary velocity to start from, ``(D, *fixed)`` in the prepared image's order, RAS mm; the
            optimized velocity adds to it.
        initial_displacement: displacement to start from, likewise, ``initial`` not included.
        exchange: where another process works on the other direction: this engine's direction, and the sum over both.
        search: whether the first affine is compared with other starts, see :func:`.start.search.better_start`.
        predict: called with the affine once its stages are through; gives an ``initial_velocity``.
        initial_basis: to start from, in both directions; they go on learning.
        similarity: instead of the settings' measure, see :func:`.similarity.make_similarity`.
        channel_weights: where the images have several channels, one for each pair of them.
        unmasked: gives both images as they are without masks, see :func:`.correspondence.fit_like_two_people`.
    """

    def __init__(
        self,
        fixed: PreparedImage,
        moving: PreparedImage,
        config: RegistrationConfig,
        initial: np.ndarray,
        seed: int = 0,
        initial_velocity: torch.Tensor | None = None,
        initial_displacement: torch.Tensor | None = None,
        exchange: Exchange | None = None,
        search: bool = False,
        predict: Callable[[np.ndarray], torch.Tensor] | None = None,
        initial_basis: BasisPair | None = None,
        similarity: OwnSimilarity | None = None,
        channel_weights: Sequence[float] = (1.0,),
        unmasked: Callable[[], tuple[PreparedImage, PreparedImage]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.asked, self.device = config, config, fixed.device
        self.unit = float(fixed.grid.spacing.min())
        self.initial, self.seed, self.search, self.predict = initial, seed, search, predict
        self.initial_velocity, self.initial_displacement = initial_velocity, initial_displacement
        self.initial_basis, self.similarity, self.unmasked = initial_basis, similarity, unmasked
        self.channel_weights = channel_weights
        self.unexplained: float | None = None
        self.exchange, self.directions = exchange, (0, 1) if exchange is None else (exchange.direction,)
        self.shared = exchange is None  # whether this process knows what both directions have learned
        self._take(fixed, moving)

    @optimized
    def _take(self, fixed: PreparedImage, moving: PreparedImage) -> None:
        """The images, on the device of the fixed one, and all that a registration of them begins with."""
        self.whole = fixed.to(self.device), moving.to(self.device)
        self.begin(self.initial)
        if self.masked and not takes_mask(single(self.losses[0])):
            logger.warning("%s takes no mask: it sees the whole images", type(single(self.losses[0])).__name__)

    @property
    def masked(self) -> bool:
        """Whether voxels of either image do not count."""
        return any(image.weight is not None for image in self.whole)

    def _straighten(self) -> None:
        self.velocity = self._make_velocity(4.0, 1.0)  # no deformation but the one to start from
        self.deformable = self.initial_velocity is not None or self.initial_displacement is not None

    @optimized
    def begin(self, initial: np.ndarray) -> None:
        """Start from a matrix, with bases that know nothing yet or what they were given, and what is in reach of it."""
        self.history: list[dict[str, Any]] = []
        given = self.initial_velocity, self.initial_displacement
        self.fixed, self.moving = parts_in_reach(self.whole, initial, self.config.quantile, given, self.predict is not None)
        self._straighten()
        self.affine = AffineMap(self.fixed.grid, initial, self.config.transform).to(self.device)
        # one generator each: what a direction draws must not depend on where the other one is computed
        generators = [torch.Generator("cpu").manual_seed(2 * self.seed + k) for k in range(2)]
        options = self.seed, self.similarity, self.channel_weights
        losses = make_similarities(self.config, self.fixed.grid.dims, generators, *options)
        self.losses = nn.ModuleList(losses).to(self.device)
        if self.initial_basis is not None:
            self.initial_basis.load_into(*self.losses)

    @optimized
    @torch.no_grad()
    def share_bases(self) -> None:
        """Two processes, each of which has learned one direction's basis, tell each other; both must call."""
        parameters = list(self.losses.parameters())
        if self.exchange is not None and parameters:
            for k, loss in enumerate(self.losses):
                for parameter in loss.parameters():
                    parameter.mul_(float(k in self.directions))
            self.exchange(parameters)
        self.shared = True

    @optimized
    def learned_bases(self) -> BasisPair | None:
        """The bases as they are now; None where there are none, or the other process has not told."""
        found = [x for x in self.losses if isinstance(x, LocalLearnedBasisCRLoss) and isinstance(x.basis, LearnedBasis)]
        if len(found) < 2 or not self.shared:
            return None
        return BasisPair.of(*found, derivative=self._derivative(), quantile=self.config.quantile, limits=SOFT_LIMITS)

    def _derivative(self) -> str:
        """What is needed of it: nothing where the measure sees the intensity alone."""
        return self.config.derivative if channels_of(single(self.losses[0])) > 1 else "none"

    def _make_velocity(self, spacing: float, factor: float) -> SplineVelocity:
        step = max(2.0, min(spacing / 2, 2 * factor)) * self.unit
        grid = self.fixed.grid
        # no coarser than the image allows: at least three lattice points along its longest axis
        step = min(step, float((grid.extent - grid.spacing).max()) / 2)
        velocity = COMPOSITIONS[self.config.composition](grid, spacing * self.unit, step, 2 * step, self.config.squarings)
        velocity = velocity.to(self.device)
        if self.initial_velocity is not None:
            velocity.set_base(self.initial_velocity)
        elif self.initial_displacement is not None:
            left = velocity.fit_base(self.initial_displacement)
            logger.info("initial displacement met to within %.3f mm in 95 %% of the field of view", left)
        return velocity

    @optimized
    def enter(self, stage: Stage) -> None:
        """Prepare the images, the lattice and a fresh optimizer for a stage."""
        if stage.spacing is not None:
            velocity = self._make_velocity(stage.spacing, stage.factor)
            if self.deformable:
                velocity.take(self.velocity)
            self.velocity, self.deformable = velocity, True
        for module in self.losses.modules():
            if isinstance(module, ParzenLoss):
                module.reset_range()  # those of the last stage's samples
        self._leave()  # the last stage's images are not needed beside the new ones
        images = [(self.fixed, self.moving), (self.moving, self.fixed)]
        for k in self.directions:
            options = self._derivative(), self.config.derivative_unit, self.config.region
            self.levels[k] = make_level(*images[k], stage.factor, *options)
            self.coordinates[k] = self._coordinates(k, self.levels[k].grid)
            self.resampling[k] = Resampling(self.coordinates[k].upsample)
        self.optimizer = DampedAdam(self._parameter_groups(stage))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rates(stage.iterations))
        spacing = float(level_grid(self.fixed.grid, stage.factor).spacing.min())
        self.bending_weight = self.config.effective_bending_weight * (spacing / self.velocity.step) ** 2

    def _leave(self) -> None:
        self.levels: dict[int, Level] = {}
        self.coordinates: dict[int, ForwardCoordinates | InverseCoordinates] = {}
        self.resampling: dict[int, Resampling] = {}

    def _parameter_groups(self, stage: Stage) -> list[dict]:
        groups: list[dict[str, Any]] = [
            {"params": [p for k in self.directions for p in self.losses[k].parameters()], "lr": self.config.learning_rate_basis}
        ]
        self.affine.requires_grad_(self.config.affine)
        self.velocity.requires_grad_(stage.spacing is not None)
        if self.config.affine:
            own = stage.learning_rate if stage.spacing is None else None
            groups.append({"params": list(self.affine.parameters()), "lr": own or self.config.learning_rate_affine})
        if stage.spacing is not None:
            # however coarse the image, no step throws the images out of each other's view
            most = LONGEST_STEP * float(self.fixed.grid.extent.max()) / (stage.spacing * self.unit)
            rate = min(stage.learning_rate or DENSE_RATE, most)
            groups.append({"params": [self.velocity.coefficients], "lr": rate, "damping": self.config.damping})
        return [g for g in groups if g["params"]]

    def _rates(self, iterations: int) -> list[Callable[[int], float]]:
        """Of each group's learning rate: what moves the images speeds up and slows down, the basis never stops learning."""
        basis = {id(p) for p in self.losses.parameters()}
        groups = self.optimizer.param_groups
        return [(lambda step: 1.0) if id(g["params"][0]) in basis else rate_factor(self.config, iterations) for g in groups]

    @optimized
    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One step of the stage entered last; returns similarity and weighted bending energy, on the device."""
        return self._step()

    def _step(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        shared = [self.affine(inverse=bool(k)) for k in self.directions]
        if self.deformable:
            shared.append(self.velocity(self.directions))
        # each direction is differentiated down to these leaves and forgotten; what lies below is differentiated once
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in shared]
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for i, k in enumerate(self.directions):
            value = self._similarity(k, leaves[i], leaves[-1][i] if self.deformable else None) / 2
            value.backward()
            total += value.detach()
        pairs = [(x, leaf.grad) for x, leaf in zip(shared, leaves, strict=True) if leaf.grad is not None]
        bending = torch.zeros_like(total)
        if self.deformable and self.bending_weight > 0 and self.directions[0] == 0:
            bending = bending_energy(shared[-1][:1]) * self.bending_weight
            if bending.requires_grad:
                pairs.append((bending, torch.ones_like(bending)))
        if pairs:
            torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])
        total, bending = self._agree(total, bending.detach())
        self.optimizer.step()
        self.schedule.step()
        return total, bending

    def _agree(self, total: torch.Tensor, bending: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum over both processes, if there are two; a gradient that is not finite becomes zero as a whole.

        All of it without asking the device about values.
        """
        gradients = [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        bad = torch.stack([~g.isfinite().all() for g in gradients]).any().to(total)
        if self.exchange is not None:
            own = {id(p.grad) for loss in self.losses for p in loss.parameters()}
            self.exchange([g for g in gradients if id(g) not in own] + [total, bending, bad])
        for gradient in gradients:
            gradient.copy_(torch.where(bad > 0, 0, gradient))
        return total, bending

    def _similarity(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> torch.Tensor:
        warped, weight = self._warped(k, matrix, displacement)
        value = compare(self.losses[k], warped, self.levels[k].reference, weight)
        if value.numel() != 1:
            raise InputError(f"the similarity must return one number, got shape {tuple(value.shape)}; see its reduction.")
        return value.reshape(())

    def _warped(self, k: int, matrix: torch.Tensor, displacement: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The other image on the samples of a direction, and what each of them counts."""
        level = self.levels[k]
        warped, weight = self.resampling[k](level.other, self.coordinates[k](matrix, displacement))
        with torch.no_grad():
            if level.masked:
                weight *= warped[:, -1:]
            if level.weight is not None:
                weight *= level.weight
        return warped, weight

    @optimized
    @torch.no_grad()
    def compared(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the loss of a direction sees now: the warped image, the still one, the weights."""
        displacement = self.velocity([k])[0] if self.deformable else None
        warped, weight = self._warped(k, self.affine(inverse=bool(k)), displacement)
        return warped[:, : channels_of(self.losses[k])], self.levels[k].reference, weight

    @optimized
    def run(self, progress: bool = False) -> RegistrationEngine:
        """Go through all stages; what interrupts it leaves the best that there is so far."""
        first, rest = self.config.schedule
        coarse = list(itertools.takewhile(lambda s: s.spacing is not None and s.factor >= COARSE, rest))
        try:
            with tqdm(
                total=sum(s.iterations for s in first + rest), disable=not progress, desc="registration", unit="it"
            ) as bar:
                self.go_through_coarse(first, coarse, bar)
                if coarse and fit_like_two_people(self, first, coarse, bar):
                    self._begin_again(self.config.for_two_people)
                    bar.total += sum(s.iterations for s in [*first, *coarse])
                    self.go_through_coarse(first, coarse, bar)
                self.go_through(rest[len(coarse) :], bar)
        finally:
            self._leave()  # room for what comes after
        return self

    def _begin_again(self, config: RegistrationConfig) -> None:
        """As if nothing had been done yet, with other settings."""
        self.config = config
        if self.predict is not None:
            self.initial_velocity = None  # it was predicted for another affine
        self.begin(self.initial)

    def go_through_coarse(self, first: Sequence[Stage], coarse: Sequence[Stage], bar: tqdm) -> None:
        """The affine stages, another start if that is better, and the coarse deformable stages."""
        self.go_through(first, bar)
        if first and self.search:
            try_another_start(self, first, bar)
        if self.predict is not None:
            self.initial_velocity = self.predict(self.matrix())
            self._straighten()
        self.go_through(coarse, bar)

    @optimized
    def go_through(self, stages: Sequence[Stage], bar: tqdm) -> None:
        """All steps of some stages; ``bar`` counts them."""
        for stage in stages:
            start, values = time.perf_counter(), []
            try:
                self.enter(stage)
                moving = [*self.affine.parameters(), self.velocity.coefficients]
                before = [p.detach().clone() for p in moving]
                for _ in range(stage.iterations):
                    values.append(torch.stack(self.step()))
                    bar.update()
                self._undo_if_worse(moving, before, torch.stack(values))
            finally:
                if values:
                    self.history.append(stage_record(stage, torch.stack(values), time.perf_counter() - start))

    @torch.no_grad()
    def _undo_if_worse(self, moving: Sequence[nn.Parameter], before: Sequence[torch.Tensor], values: torch.Tensor) -> None:
        """Go back to where a stage began if it ended worse.

        Steps are as long for noise as for a pull, and next to a perfect fit there is nothing but noise.
        """
        loss = values.sum(1)
        first, last = loss[0], loss[-LAST:].nanmean()
        if self.config.undo_worse and bool(last > first + SLACK * first.abs()):
            logger.warning("a stage made the loss worse, from %.3f to %.3f, and was undone", first, last)
            for parameter, value in zip(moving, before, strict=True):
                parameter.copy_(value)

    @optimized
    @torch.no_grad()
    def matrix(self) -> np.ndarray:
        """The affine part, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm."""
        return self.affine().cpu().numpy()

    def _coordinates(self, direction: int, level: Grid) -> ForwardCoordinates | InverseCoordinates:
        """From samples of the fixed image (direction 0), or from samples of the moving image (1)."""
        fixed, velocity = self.fixed.grid, self.velocity if self.deformable else None
        if direction == 0:
            return ForwardCoordinates(level, fixed, self.moving.grid, velocity, self.device)
        return InverseCoordinates(level, fixed, velocity, self.device)

    @optimized
    @torch.no_grad()
    def forward_mm(self) -> torch.Tensor:
        """Displacement of the fixed grid's voxels, ``(D, *fixed)``, RAS mm, the affine included."""
        return forward_mm(self)

    @optimized
    @torch.no_grad()
    def inverse_mm(self, forward_mm: torch.Tensor) -> torch.Tensor:
        """Displacement of the moving grid's voxels, ``(D, *moving)``, RAS mm, that undoes the forward one."""
        return inverse_mm(self, forward_mm)
