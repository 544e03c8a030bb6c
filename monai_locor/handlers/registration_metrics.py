# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Metrics of predicted deformations, averaged over the pairs of a validation epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from monai.utils import evenly_divisible_all_gather, look_up_option, optional_import

from ..geometry import Grid, from_voxels, identity_points, sample
from ..metrics import dice_per_label, jacobian_determinant, mean_over_labels
from ..roles import ROLES
from ..tensors import plain

if TYPE_CHECKING:
    from ignite.engine import Engine
    from ignite.metrics import Metric
else:  # ignite is an optional dependency
    Metric, _ = optional_import("ignite.metrics", name="Metric", as_type="base")

__all__ = ["RegistrationMetric", "RegistrationMetrics", "folding_percent", "label_dice", "landmark_error", "pairs"]

Pair = tuple[dict[str, Any], dict[str, Any]]
METRIC_NAMES = ("dice", "dice_before", "tre_mm", "tre_before_mm", "folding_percent", "loss")


class RegistrationMetric(Metric):
    """A metric averaged over all pairs that have a value, and over all processes.

    ``engine.state.output["pred"]`` holds the displacement ``"ddf"``, ``(B, D, *spatial)`` voxels, as returned by
    :class:`monai_locor.networks.RegistrationNetwork`. All other inputs are read from ``engine.state.batch``. Batches may be
    decollated. For each pair:

    - ``"dice"``: mean over the labels present in both label maps and in at least ``min_voxels`` voxels of the fixed one.
      ``"moving_label"`` is warped onto ``"fixed_label"`` with nearest neighbor interpolation. ``"dice_before"``: unwarped.
    - ``"tre_mm"``: mean distance, mm, between ``"moving_landmarks"`` and the displaced ``"fixed_landmarks"``, both
      ``(N, D)`` in voxels of the network's grid; the affine is that of ``"fixed"``. ``"tre_before_mm"``: not displaced.
    - ``"folding_percent"``: percentage of voxels with a Jacobian determinant of zero or less, among those with positive
      ``"fixed_weight"`` (all voxels without a weight).
    - ``"loss"``: ``loss(pred, pred["fixed"])`` of the pair in evaluation mode; without ``loss``, the output's ``"loss"``.

    Args:
        name: one of these names.
        loss: loss function; its training mode is restored afterwards.
        min_voxels: minimum size of a label.
        save_details: keep the values of all pairs, ``(pairs, 1)``, in ``engine.state.metric_details``.

    Raises:
        ValueError: for an unknown name; when used, for displacements or losses that are not finite.

    Example::

        SupervisedEvaluator(..., key_val_metric={"val_dice": RegistrationMetric("dice")}, decollate=False)
    """

    def __init__(
        self, name: str, loss: Callable[..., torch.Tensor] | None = None, min_voxels: int = 20, save_details: bool = True
    ) -> None:
        self.name: str = look_up_option(name, METRIC_NAMES)
        self.loss, self.min_voxels, self.save_details = loss, min_voxels, save_details
        super().__init__()

    def reset(self) -> None:
        """Discard all values."""
        self._values: list[float] = []

    def update(self, output: Sequence[Pair]) -> None:
        """Evaluate pairs, see :func:`pairs`."""
        self._values += [self._measure(batch, out) for batch, out in output]

    def iteration_completed(self, engine: Engine) -> None:
        """Evaluate the pairs of the engine's current iteration."""
        self.update(pairs(engine))

    def compute(self) -> float:
        """The mean over the pairs of all processes; NaN if no pair has a value."""
        return _mean(self._gathered())

    def completed(self, engine: Engine, name: str) -> None:
        """Write the mean and the individual values to the engine's state."""
        values, state = self._gathered(), vars(engine.state)
        state["metrics"][name] = _mean(values)
        if self.save_details:
            state.setdefault("metric_details", {})[name] = values[:, None]

    def _gathered(self) -> torch.Tensor:
        return evenly_divisible_all_gather(torch.tensor(self._values, dtype=torch.float64), concat=True)

    def _measure(self, batch: dict[str, Any], output: dict[str, Any]) -> float:
        """Value of one pair; NaN if its inputs are missing."""
        pred = output["pred"]
        name = batch.get("name", "a pair")
        if "ddf" in pred and not plain(pred["ddf"]).detach().isfinite().all():
            raise ValueError(f"the displacement of {name} is not finite: training has diverged")
        if self.name == "loss":
            return self._loss(output, pred, name)
        ddf = plain(pred["ddf"]).detach().float()
        shift = None if "before" in self.name else ddf
        if self.name == "folding_percent":
            return folding_percent(ddf, batch.get("fixed_weight"))
        kind = "label" if "dice" in self.name else "landmarks"
        fixed, moving = (batch.get(f"{image}_{kind}") for image in ROLES)
        if fixed is None or moving is None:
            return math.nan
        fixed, moving = (plain(i).to(ddf.device) for i in (fixed, moving))
        if kind == "label":
            return label_dice(fixed, moving, shift, self.min_voxels)
        return landmark_error(fixed, moving, Grid.of(batch["fixed"]), shift)

    def _loss(self, output: dict[str, Any], pred: dict[str, Any], name: str) -> float:
        if self.loss is None and "loss" not in output:
            return math.nan
        if self.loss is None:
            value = float(output["loss"])
        else:
            one = {key: value[None] for key, value in pred.items() if isinstance(value, torch.Tensor)}
            with _evaluating(self.loss):
                value = float(self.loss(one, one["fixed"]))
        if not math.isfinite(value):
            raise ValueError(f"the loss of {name} is {value}: training has diverged")
        return value


class RegistrationMetrics:
    """Attach several :class:`RegistrationMetric` to an engine. A metric without any value is removed from its metrics.

    Args:
        names: names of the metrics; by default all.
        prefix: prefix of each name in ``engine.state.metrics``.
        loss, min_voxels, save_details: see :class:`RegistrationMetric`.
    """

    def __init__(
        self,
        names: Sequence[str] = METRIC_NAMES,
        prefix: str = "",
        loss: Callable[..., torch.Tensor] | None = None,
        min_voxels: int = 20,
        save_details: bool = True,
    ) -> None:
        self.metrics = {prefix + name: RegistrationMetric(name, loss, min_voxels, save_details) for name in names}

    def attach(self, engine: Engine) -> None:
        """Register the metrics with the engine."""
        from ignite.engine import Events

        for name, metric in self.metrics.items():
            metric.attach(engine, name)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Remove metrics without a value after the epoch, except the key metric, which MONAI's handlers require."""
        state = vars(engine.state)
        for name in self.metrics:
            if math.isnan(state["metrics"][name]) and name != state.get("key_metric_name"):
                del state["metrics"][name]
                state.get("metric_details", {}).pop(name, None)


def pairs(engine: Engine) -> list[Pair]:
    """Batch and output of each pair of the current iteration, without the batch axis, decollated or not."""
    batch: Any = engine.state.batch
    output: Any = engine.state.output
    if isinstance(batch, list):
        return list(zip(batch, output, strict=True))
    number = len(output["pred"]["ddf"])
    return [(_item(batch, i, number), {**output, "pred": _item(output["pred"], i, number)}) for i in range(number)]


def _item(batch: Mapping[str, Any], index: int, number: int) -> dict[str, Any]:
    whole = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor | list) and len(value) == number}
    return {key: value[index] for key, value in whole.items()}


def label_dice(fixed: torch.Tensor, moving: torch.Tensor, ddf: torch.Tensor | None = None, min_voxels: int = 20) -> float:
    """Mean Dice over the labels of two label maps on the same grid; 0 is background.

    Args:
        fixed: ``(1, *spatial)``, integer values of any dtype.
        moving: the same, sampled at ``x + u(x)`` with nearest neighbor interpolation, 0 outside.
        ddf: ``u``, ``(D, *spatial)`` voxels; zero if not given.
        min_voxels: labels with fewer voxels in ``fixed`` are ignored, as are labels missing in the unwarped ``moving``.

    Returns:
        In [0, 1]; NaN if no label qualifies.

    Raises:
        ValueError: if the displacement is not finite.
    """
    warped = moving
    if ddf is not None:
        _check_finite(ddf)
        points = identity_points(ddf.shape[1:], ddf.device) + ddf
        warped = sample(plain(moving)[None], points[None], "nearest")[0]
    sizes = zip(*(values.tolist() for values in fixed.unique(return_counts=True)))
    counted = {label for label, size in sizes if size >= max(min_voxels, 1)} & set(moving.unique().tolist()) - {0}
    return mean_over_labels(dice_per_label(fixed, warped, counted))


def landmark_error(fixed: torch.Tensor, moving: torch.Tensor, grid: Grid, ddf: torch.Tensor | None = None) -> float:
    """Mean distance between moving landmarks and displaced fixed landmarks.

    Args:
        fixed: ``(N, D)``, voxels of the grid; outside the grid the displacement at its border is used.
        moving: ``(N, D)``, voxels of the same grid. Landmarks that are not finite in both images are ignored.
        ddf: ``(D, *grid.shape)`` voxels, linearly interpolated; zero if not given.

    Returns:
        mm; NaN without landmarks.

    Raises:
        ValueError: if the displacement is not finite.
    """
    if ddf is not None:
        _check_finite(ddf)
    finite = fixed.isfinite().all(1) & moving.isfinite().all(1)
    start, end = fixed[finite].double(), moving[finite].double()
    if ddf is not None and len(start):
        start = start + sample(ddf.double()[None], start.T[None], padding_mode="border")[0].T
    return float(torch.linalg.vector_norm(from_voxels((end - start).T, grid), dim=0).mean())


def folding_percent(ddf: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Percentage of folding voxels: Jacobian determinant of zero or less, by central differences.

    Args:
        ddf: ``(D, *spatial)`` voxels.
        weight: ``(1, *spatial)``; only voxels with positive weight are counted.

    Returns:
        Percent; NaN if no voxel is counted.
    """
    unit = torch.eye(len(ddf) + 1, dtype=torch.float64).numpy()  # the determinant does not depend on the coordinates
    folded = jacobian_determinant(ddf, Grid(tuple(ddf.shape[1:]), unit)) <= 0
    counted = folded if weight is None else folded[(plain(weight).to(ddf.device) > 0)[0]]
    return 100 * float(counted.double().mean())


def _check_finite(ddf: torch.Tensor) -> None:
    bad = int((~ddf.isfinite()).sum())
    if bad:
        raise ValueError(f"the displacement has {bad} values that are not finite; it cannot be evaluated")


def _mean(values: torch.Tensor) -> float:
    """Mean of the values that are not NaN, exactly rounded so that it does not depend on the order of the processes."""
    numbers = values[~values.isnan()].tolist()
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


@contextmanager
def _evaluating(loss: Any) -> Iterator[None]:
    """No gradients, and evaluation mode, in which a loss is deterministic. Restores the mode afterwards."""
    modes = [(m, m.training) for m in loss.modules()] if isinstance(loss, torch.nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
