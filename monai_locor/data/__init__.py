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


"""Images with a known answer, to try and to test a registration on; the data sets of the paper and of Learn2Reg."""

from __future__ import annotations

from .studies import STUDIES, StudyCase, t2_pd_deformation, t2_pd_pair
from .synthetic import deform, random_diffeomorphism

__all__ = ["STUDIES", "StudyCase", "deform", "random_diffeomorphism", "t2_pd_deformation", "t2_pd_pair"]
