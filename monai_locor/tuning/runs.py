# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One registration of one case, and what came out of it, as plain values that travel between processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case

__all__ = ["READY", "Job", "Run", "execute"]

READY = "ready"  # a worker's first line


@dataclass(frozen=True)
class Job:
    """What to register and how.

    Args:
        case: folder of the case.
        settings: of the registration, plain values.
        seed: of the registration.
        device: by default a GPU if there is one.
    """

    case: str
    settings: dict[str, Any]
    seed: int
    device: str | None = None

    @property
    def name(self) -> str:
        """Of the case."""
        return Path(self.case).name


@dataclass(frozen=True)
class Run:
    """What came out of a job.

    Args:
        case: its name.
        seed: of the registration.
        measures: see :meth:`.Case.measure`; empty when there is no result.
        seconds: of the registration.
        folding_percent: voxels that fold.
        problem: why there is no result, one line; empty if there is one.
    """

    case: str
    seed: int
    measures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    folding_percent: float | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Run:
        """The inverse of :meth:`to_dict`."""
        return cls(**values)


def execute(job: Job) -> Run:
    """Register and measure; what goes wrong, if anything, is the run's problem."""
    from ..registration import register

    case, start = Case(Path(job.case)), time.perf_counter()
    try:
        result = register(
            case.folder / "fixed.nii.gz",
            case.folder / "moving.nii.gz",
            preset=job.settings,
            fixed_mask=case.file("fixed_mask"),
            moving_mask=case.file("moving_mask"),
            device=job.device,
            seed=job.seed,
            progress=False,
        )
        seconds = time.perf_counter() - start
        measures = case.measure(result.forward_mm)
    except Exception as error:  # whatever it is, the search goes on: this is what is told of it
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Run(job.name, job.seed, seconds=time.perf_counter() - start, problem=text)
    folding = result.jacobian.get("folding_percent")
    return Run(job.name, job.seed, measures, round(seconds, 3), None if folding is None else float(folding))
