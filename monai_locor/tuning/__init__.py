# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Tune registration parameters on validation cases. Requires the extra ``tune`` (Optuna, scikit-learn)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .api import tune
    from .cases import Case, find_cases
    from .parameters import MEASURES, Parameter
    from .results import Finalist, Objective, Trial, Tuning
    from .samplers import SAMPLERS
    from .scores import SCORES, Score, choose_score
    from .space import SearchSpace, search_space

__all__ = [
    "MEASURES",
    "SAMPLERS",
    "SCORES",
    "Case",
    "Finalist",
    "Objective",
    "Parameter",
    "Score",
    "SearchSpace",
    "Trial",
    "Tuning",
    "choose_score",
    "find_cases",
    "search_space",
    "tune",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "api": ["tune"],
        "cases": ["Case", "find_cases"],
        "parameters": ["MEASURES", "Parameter"],
        "results": ["Finalist", "Objective", "Trial", "Tuning"],
        "samplers": ["SAMPLERS"],
        "scores": ["SCORES", "Score", "choose_score"],
        "space": ["SearchSpace", "search_space"],
    },
)
