# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The data sets of the paper and of the Learn2Reg challenge, read as published and prepared as cases."""

from __future__ import annotations

from .abdomen import AbdomenMRCT
from .cermep import CERMEP
from .deformation import t2_pd_deformation, t2_pd_pair
from .ixi import IXI
from .learn2reg import Learn2Reg, Learn2RegPair
from .learn2reg_submission import evaluate_submission, write_submission
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
    "body_mask",
    "evaluate_submission",
    "foreground_mask",
    "t2_pd_deformation",
    "t2_pd_pair",
    "write_submission",
]

STUDIES: dict[str, type[Study]] = {study.name: study for study in (AbdomenMRCT, CERMEP, IXI, Learn2Reg)}
