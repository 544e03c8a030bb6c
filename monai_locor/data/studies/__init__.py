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


"""The data sets of the paper and those of the Learn2Reg challenge: read as published, prepared, scored."""

from __future__ import annotations

from .abdomen import AbdomenMRCT
from .case import StudyCase, read_case, write_case
from .cermep import CERMEP
from .deformation import t2_pd_deformation, t2_pd_pair
from .ixi import IXI
from .learn2reg import Learn2Reg, Learn2RegPair
from .learn2reg_measures import challenge_measures, evaluate_submission, write_submission
from .masks import body_mask, foreground_mask
from .study import Study

__all__ = [
    "CERMEP",
    "IXI",
    "STUDIES",
    "AbdomenMRCT",
    "Learn2Reg",
    "Learn2RegPair",
    "Study",
    "StudyCase",
    "body_mask",
    "challenge_measures",
    "evaluate_submission",
    "foreground_mask",
    "read_case",
    "t2_pd_deformation",
    "t2_pd_pair",
    "write_case",
    "write_submission",
]

STUDIES: dict[str, type[Study]] = {study.name: study for study in (AbdomenMRCT, CERMEP, IXI, Learn2Reg)}
