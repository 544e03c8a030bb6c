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

"""Similarity losses and the window-sum primitive that they share."""

from __future__ import annotations

from .correlation_ratio import CorrelationRatioLoss
from .local_cr import LocalLearnedBasisCRLoss
from .local_ncc import LocalNCCLoss
from .local_parzen_cr import LocalParzenCRLoss
from .mind import MINDSSCLoss
from .mutual_information import MutualInformationLoss
from .srwcr import SRWCRLoss
from .training import RegistrationLoss

__all__ = [
    "CorrelationRatioLoss",
    "LocalLearnedBasisCRLoss",
    "LocalNCCLoss",
    "LocalParzenCRLoss",
    "MINDSSCLoss",
    "MutualInformationLoss",
    "RegistrationLoss",
    "SRWCRLoss",
]
