# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One registration of one case and its outcome, as plain values that can be sent between processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case

__all__ = ["Job", "Run", "execute"]


@dataclass(frozen=True)
class Job:
    """A registration to run.

    Args:
        case: folder of the case.
        settings: registration settings, as plain values.
        seed: seed of the registration.
        device: device of the registration; by default a GPU if available.
    """

    case: str
    settings: dict[str, Any]
    seed: int
    device: str | None = None

    @property
    def name(self) -> str:
        """Name of the case."""
        return Path(self.case).name


@dataclass(frozen=True)
class Run:
    """The outcome of a job.

    Args:
        case: name of the case.
        seed: seed of the registration.
        measures: see :meth:`.Case.measure`; empty if the run failed.
        seconds: duration of the registration.
        folding_percent: percentage of folding voxels.
        problem: why the run failed, one line; empty on success.
    """

    case: str
    seed: int
    measures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    folding_percent: float | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain values."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Run:
        """The inverse of :meth:`to_dict`."""
        return cls(**values)


def execute(job: Job) -> Run:
    """Register and measure. An exception becomes the ``problem`` of the run."""
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
    except Exception as error:  # a failed run must not end the search
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Run(job.name, job.seed, seconds=time.perf_counter() - start, problem=text)
    folding = result.jacobian.get("folding_percent")
    return Run(job.name, job.seed, measures, round(seconds, 3), None if folding is None else float(folding))
