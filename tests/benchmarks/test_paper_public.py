# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The frozen run of all public abdomen pairs, on a stand-in in the layout of the published data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from monai_locor import InputError
from monai_locor.data.study_case import read_case
from monai_locor.io import write_displacement_field

from .cases import scripts
from .study_folders import shifted
from .test_study_abdomen import prepare

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield scripts(monkeypatch, "paper", "_paper_public", "_measure")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abdomen")
    for number in range(2, 17, 2):
        prepare(folder, f"{number:04d}", new=True)
    return folder


def two_pairs(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave two of the eight pairs in the configuration, which is faster."""
    configuration, settings = modules.paper_public.read_configuration()
    assert len(configuration["cases"]) == 8
    fewer = configuration | {"cases": configuration["cases"][:2]}
    monkeypatch.setattr(modules.paper_public, "read_configuration", lambda: (fewer, settings))


def imitate(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> list[str]:
    """Replace the registrations by the truth; the organs of the CT lie one voxel further. Return the log of the cases."""
    log: list[str] = []

    def measure(spec: Any) -> Any:
        case = Path(spec.arguments["case"])
        assert spec.arguments["options"]["masks"] and (case / "fixed_mask.nii.gz").exists()
        log.append(case.name)
        if case.name == failing:
            return modules.measure.Measured(problem="more than 1 s")
        sign = 1 if case.name.endswith("mr_fixed") else -1
        field = Path(spec.arguments["out"]) / modules.paper_public.FORWARD
        write_displacement_field(field, shifted((sign, 0, 0)), read_case(case).grid)
        return modules.measure.Measured()

    monkeypatch.setattr(modules.paper_public, "measure", measure)
    return log


def test_without_data_it_is_not_run(modules, capsys):
    assert modules.paper.main(["public"]) == 0
    told = capsys.readouterr().out
    assert "| MR to CT | 0/8 |  |  |  |  | 0.879, 0.892 (anatomix + FireANTs, with masks) | not run |" in told
    assert told.count("not run") == 3 and modules.paper_public.read_configuration()[1] in told


def test_all_pairs_in_both_directions_and_resumed(modules, data, tmp_path, monkeypatch, capsys):
    two_pairs(modules, monkeypatch)
    log = imitate(modules, monkeypatch, failing="abdomen_0004_ct_fixed")
    words = ["public", str(data), "--output", str(tmp_path)]
    assert modules.paper.main(words) == 0
    assert len({*log}) == len(log) == 4
    lines = capsys.readouterr().out.splitlines()
    (forward,), (back,) = ([line for line in lines if line.startswith(f"| {name} |")] for name in ("MR to CT", "CT to MR"))
    cells = [cell.strip() for cell in forward.split("|")[1:]]
    before = float(cells[3])
    assert cells[:3] == ["MR to CT", "2/2", "1"] and before == 0.8
    mean = pytest.approx((1 + before) / 2, abs=1e-3)  # a failure counts as before
    assert float(cells[4]) == mean and float(cells[5]) == mean and cells[7] == "reached"
    assert back.startswith("| CT to MR | 2/2 | 0 |") and "| 1.000 | 1.000 | none published |" in back
    log.clear()
    (tmp_path / "public.jsonl").write_bytes((tmp_path / "public.jsonl").read_bytes()[:-30])  # killed while writing
    assert modules.paper.main(words) == 0
    assert len(log) == 1


def test_pass_marks(modules):
    configuration = modules.paper_public.read_configuration()[0]
    verdict = modules.paper_public.verdict
    assert verdict(configuration, "MR to CT", [0.9] * 8) == "reached"
    assert verdict(configuration, "MR to CT", [0.9] * 7) == "not complete"
    assert verdict(configuration, "MR to CT", [0.9] * 5 + [0.8] * 3) == "not reached"  # the mean
    assert verdict(configuration, "MR to CT", [0.88] * 7 + [0.9]) == "not reached"  # the median
    assert verdict(configuration, "CT to MR", [0.9] * 8) == ""


def test_the_fixed_image_may_be_the_ct(modules, data):
    study = modules.paper_public.AbdomenMRCT
    mr, ct = (study(data, "roi", fixed).load("0012") for fixed in ("MR", "CT"))
    assert np.array_equal(mr.fixed, ct.moving) and np.array_equal(mr.moving_mask, ct.fixed_mask)
    with pytest.raises(InputError, match="has no modality 'PET'; choose from MR, CT"):
        study(data, "roi", "PET")


def test_incomplete_data_are_refused_before_anything_runs(modules, data, tmp_path, capsys):
    part = tmp_path / "data"
    shutil.copytree(data, part)
    (part / "labelsTr" / "AbdomenMRCT_0008_0001.nii.gz").unlink()
    assert modules.paper.main(["public", str(part), "--output", str(tmp_path / "out")]) == 2
    assert "abdomen case 0016" in capsys.readouterr().err and not (tmp_path / "out").exists()
