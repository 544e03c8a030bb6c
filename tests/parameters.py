# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parameters that several test files share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from monai_locor.losses import (
    CorrelationRatioLoss,
    LocalLearnedBasisCRLoss,
    LocalNCCLoss,
    LocalParzenCRLoss,
    MINDSSCLoss,
    MutualInformationLoss,
    SRWCRLoss,
)

#: the losses of a pair of images, by name
LOSSES = {
    loss.__name__: loss
    for loss in (
        *(LocalLearnedBasisCRLoss, MutualInformationLoss, CorrelationRatioLoss, LocalParzenCRLoss),
        *(SRWCRLoss, LocalNCCLoss, MINDSSCLoss),
    )
}


def mostly_slow(values: Iterable[Any], fast: int = 1) -> list[Any]:
    """The values of one parameter: the first ``fast`` run with the fast tests, the others are marked slow."""
    return [value if k < fast else pytest.param(value, marks=pytest.mark.slow) for k, value in enumerate(values)]


def mostly_slow_cases(cases: Iterable[tuple[Any, ...]], fast: int) -> list[Any]:
    """The same for the values of several parameters."""
    return [case if k < fast else pytest.param(*case, marks=pytest.mark.slow) for k, case in enumerate(cases)]
