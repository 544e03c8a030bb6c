# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Memory of the measures: none may need more than eighty numbers per voxel for forward and backward."""

from __future__ import annotations

import pytest

from ..benchmarks.cases import scripts
from ..held import Held
from ..parameters import LOSSES

SIZE, MOST = 64, 80
ROWS = [*(name for name in LOSSES if name != "LocalLearnedBasisCRLoss"), "RaPTOR"]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_numbers_per_voxel(row, monkeypatch):
    """What all tensors hold at once, inputs and gradient included."""
    loss = scripts(monkeypatch, "loss").loss
    function, arguments = loss.MEASURES[row]
    with Held() as held:
        getattr(loss, function)(SIZE, "cpu", **arguments)()
    assert 3 <= held.peak / 4 / SIZE**3 <= MOST  # two images and a gradient at least


@pytest.mark.slow
@pytest.mark.parametrize("row", ["MINDSSCLoss", "SRWCRLoss"])
def test_numbers_per_voxel_of_the_process(row, monkeypatch):
    """Peak of the resident set of a fresh process: what single operations need besides counts as well."""
    found = scripts(monkeypatch, "loss", "_measure")
    loss, measure = found.loss, found.measure
    function, arguments = loss.MEASURES[row]
    found = measure.measure(measure.Spec("loss", function, {"size": SIZE, **arguments}, {"size": 12}, repeats=2, threads=1))
    assert found.problem == ""
    assert 3 <= found.bytes / 4 / SIZE**3 <= MOST
