# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Register many pairs on Dask. Requires the extra ``cohort`` (``dask.distributed``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .api import Cohort, run_cohort
    from .lists import read_pairs
    from .pairs import CohortPair, check_pairs
    from .slurm import slurm_script

__all__ = ["Cohort", "CohortPair", "check_pairs", "read_pairs", "run_cohort", "slurm_script"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "api": ["Cohort", "run_cohort"],
        "lists": ["read_pairs"],
        "pairs": ["CohortPair", "check_pairs"],
        "slurm": ["slurm_script"],
    },
)
