# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Similarity losses, and the loss of unsupervised registration training."""

from __future__ import annotations

from .correlation_ratio import CorrelationRatioLoss
from .local_cr import LocalLearnedBasisCRLoss
from .local_ncc import LocalNCCLoss
from .local_parzen_cr import LocalParzenCRLoss
from .mind import MINDSSCLoss
from .mutual_information import MutualInformationLoss
from .registration_loss import RegistrationLoss
from .srwcr import SRWCRLoss

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
