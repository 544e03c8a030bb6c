# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Search of a registration's parameters on validation cases; needs the extra ``tune`` (Optuna, scikit-learn)."""

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
