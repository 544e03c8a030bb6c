# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Images with a known answer, to try and to test a registration on; the data sets of the paper and of Learn2Reg."""

from __future__ import annotations

from .studies import STUDIES, StudyCase, t2_pd_deformation, t2_pd_pair
from .synthetic import deform, random_diffeomorphism

__all__ = ["STUDIES", "StudyCase", "deform", "random_diffeomorphism", "t2_pd_deformation", "t2_pd_pair"]
