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

"""Memory of the measures: none may need more than eighty numbers per voxel for forward and backward."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZE, MOST = 96, 80


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
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("loss", "_measure"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import _measure
    import loss

    function, arguments = loss.MEASURES[row]
    found = _measure.measure(_measure.Spec("loss", function, {"size": SIZE, **arguments}, {"size": 12}, repeats=2, threads=1))
    assert found.problem == ""
    assert 3 <= found.bytes / 4 / SIZE**3 <= MOST  # two images and a gradient at least
