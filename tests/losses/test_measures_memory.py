# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Memory of the measures: none may need more than eighty numbers per voxel for forward and backward."""

from __future__ import annotations

import pytest

from ..benchmarks.cases import scripts

SIZE, MOST = 64, 80


@pytest.mark.slow  # a process for each measure
@pytest.mark.parametrize(
    "row",
    [
        "MutualInformationLoss",
        "CorrelationRatioLoss",
        "LocalNCCLoss",
        "MINDSSCLoss",
        "SRWCRLoss",
        "LocalParzenCRLoss",
        "RaPTOR",
    ],
)
def test_numbers_per_voxel(row, monkeypatch):
    """Peak of the resident set of a fresh process, inputs and gradient included."""
    found = scripts(monkeypatch, "loss", "_measure")
    loss, measure = found.loss, found.measure
    function, arguments = loss.MEASURES[row]
    found = measure.measure(measure.Spec("loss", function, {"size": SIZE, **arguments}, {"size": 12}, repeats=2, threads=1))
    assert found.problem == ""
    assert 3 <= found.bytes / 4 / SIZE**3 <= MOST  # two images and a gradient at least
