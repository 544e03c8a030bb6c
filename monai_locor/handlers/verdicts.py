# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Verdicts on predicted deformations, for all pairs of an epoch."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.utils import evenly_divisible_all_gather

from ..geometry import Grid, from_voxels
from ..registration.checking import check
from ..report.summary import summary_row, write_summary
from ..roles import ROLES
from ..tensors import plain
from .registration_metrics import pairs

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["RegistrationVerdicts"]

logger = logging.getLogger(__name__)

STATUSES = ("PASS", "WARN", "FAIL")


class RegistrationVerdicts:
    """Judge every predicted deformation by :func:`monai_locor.check`, and count the verdicts of an epoch.

    Takes the same inputs as :class:`.RegistrationMetric`: ``engine.state.output["pred"]["ddf"]``, ``(B, D, *spatial)`` voxels,
    and ``"fixed"`` and ``"moving"`` of the batch on the same grid, with ``"fixed_weight"`` and ``"moving_weight"`` as masks if
    there are any. A pair takes about a second on the CPU.

    After the epoch, ``engine.state.metrics`` has ``"pass_percent"``, ``"warn_percent"`` and ``"fail_percent"`` over the pairs
    of all processes, and ``engine.state.verdicts`` the rows of the table of this process, see
    :func:`monai_locor.report.summary.run_row`.

    Args:
        path: CSV file of the table, written after the epoch; in distributed training by the first process, with its pairs.
        prefix: prefix of the names of the metrics.

    Example::

        SupervisedEvaluator(..., val_handlers=[RegistrationVerdicts("verdicts.csv")], decollate=False)
    """

    def __init__(self, path: str | PathLike[str] | None = None, prefix: str = "") -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.prefix = prefix
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register this handler with the engine."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._rows = []

    def __call__(self, engine: Engine) -> None:
        """Judge the pairs of the engine's current iteration."""
        for batch, output in pairs(engine):
            name = str(batch.get("name", f"pair {len(self._rows) + 1}"))
            self._rows.append(_row(batch, output["pred"]["ddf"], name))

    def _finish(self, engine: Engine) -> None:
        codes = torch.tensor([STATUSES.index(row["verdict"]) for row in self._rows])
        everywhere = evenly_divisible_all_gather(codes, concat=True)
        for code, status in enumerate(STATUSES):
            share = 100 * float((everywhere == code).double().mean()) if len(everywhere) else float("nan")
            engine.state.metrics[f"{self.prefix}{status.lower()}_percent"] = share
        engine.state.verdicts = self._rows  # type: ignore[attr-defined]
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self.path is not None and not (distributed and torch.distributed.get_rank()):
            write_summary(self.path, self._rows)
            logger.info("table of the verdicts: %s", self.path)


@torch.no_grad()
def _row(batch: dict[str, Any], ddf: torch.Tensor, name: str) -> dict[str, Any]:
    """Judge one pair, on the host."""
    fixed, moving = (batch[role].detach().cpu() for role in ROLES)
    displacement = from_voxels(plain(ddf).detach().float().cpu(), Grid.of(fixed))
    weights = {role: batch.get(f"{role}_weight") for role in ROLES}
    masks: dict[str, Any] = {f"{role}_mask": None if w is None else w.detach().cpu() for role, w in weights.items()}
    return summary_row(check(fixed, moving, displacement, **masks), name)
