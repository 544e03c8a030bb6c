# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The handler that saves registrations: each pair in a folder of its own, whatever the sizes of the batches."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.data import list_data_collate
from monai.data.meta_tensor import MetaTensor

from monai_locor.handlers import RegistrationSaver
from monai_locor.report import Reason, Verdict


class Result:
    """Writes its name."""

    seconds = 1.0
    verdict = None

    def __init__(self, name: str) -> None:
        self.name, self.inputs, self.jacobian = name, {"fixed": f"{name}.nii"}, {"folding_percent": 0.5}

    def summary(self) -> dict[str, Any]:
        verdict = None if self.verdict is None else self.verdict.to_dict()
        return {"inputs": self.inputs, "jacobian": self.jacobian, "seconds": self.seconds, "verdict": verdict}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(self.name)


class Judged(Result):
    """Named by its verdict."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        reason = Reason("overlap", status, "little is shared", "look at it")
        self.verdict = Verdict(status, (reason,), {"overlap": 0.25, "nothing": None})


def saved(root: Path) -> dict[str, str]:
    return {str(path.parent.relative_to(root)): path.read_text() for path in root.rglob("name")}


def go(root: Path, batches: list[list[str]], folders: list[list[str]] | None = None, epochs: int = 1) -> Engine:
    def step(engine: Engine, batch: dict[str, Any]) -> dict[str, Any]:
        return {"pred": [Result(name) for name in batch["names"]]}

    data = [{"names": names} | ({"folder": folders[i]} if folders else {}) for i, names in enumerate(batches)]
    engine = Engine(step)
    RegistrationSaver(root).attach(engine)
    engine.run(data, max_epochs=epochs)
    return engine


@pytest.mark.parametrize("batches", ["ABCDE", "AB C", "A BC", "AB CD E", "ABC D E", "A B CD"])
def test_batches_of_any_size(batches, tmp_path):
    go(tmp_path, [list(batch) for batch in batches.split()])
    names = batches.replace(" ", "")
    assert saved(tmp_path) == {f"pair_{i + 1:04d}": name for i, name in enumerate(names)}


def test_every_epoch_begins_anew(tmp_path):
    go(tmp_path, [["A", "B"], ["C"]], epochs=3)
    assert saved(tmp_path) == {"pair_0001": "A", "pair_0002": "B", "pair_0003": "C"}


def test_named_folders(tmp_path):
    go(tmp_path, [["A", "B"], ["C"]], [["x", "y/z"], ["w"]], epochs=2)
    assert saved(tmp_path) == {"x": "A", "y/z": "B", "w": "C"}


def test_a_name_that_comes_twice(tmp_path, caplog):
    go(tmp_path, [["A", "B"], ["C", "D"]], [["x", "x"], ["x", "y"]])
    assert saved(tmp_path) == {"x": "A", "x_0002": "B", "x_0003": "C", "y": "D"}
    assert caplog.text.count("already holds another pair of this run") == 2


def test_a_name_like_one_that_was_numbered(tmp_path):
    go(tmp_path, [["A", "B"], ["C", "D"]], [["x_0002", "x"], ["x", "x"]])
    assert sorted(saved(tmp_path).values()) == ["A", "B", "C", "D"]


def test_the_folder_itself(tmp_path):
    go(tmp_path, [["A"], ["B"]], [[""], [""]])
    assert saved(tmp_path) == {".": "A", "pair_0002": "B"}


def judged(root: Path, statuses: list[str], **options: Any) -> Engine:
    engine = Engine(lambda engine, batch: {"pred": [Judged(status) for status in batch["statuses"]]})
    RegistrationSaver(root, **options).attach(engine)
    engine.run([{"statuses": [status], "folder": [f"p{i}"]} for i, status in enumerate(statuses)])
    return engine


def test_verdicts_are_logged_and_kept_and_several_pairs_get_a_table(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        engine = judged(tmp_path, ["PASS", "FAIL", "WARN"])
    levels = {r.levelname for r in caplog.records if "verdict: " in r.getMessage()}
    assert levels == {"INFO", "WARNING", "ERROR"}
    assert "p1: verdict: FAIL" in caplog.text and "FAIL overlap: little is shared; look at it" in caplog.text
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["pair"], r["verdict"], r["why"]) for r in rows] == [
        ("p0", "PASS", ""), ("p1", "FAIL", "overlap"), ("p2", "WARN", "overlap"),
    ]  # fmt: skip
    assert rows[0]["fixed"] == "PASS.nii" and rows[0]["jacobian.folding_percent"] == "0.5"
    assert rows[0]["verdict.measures.overlap"] == "0.25" and rows[0]["verdict.measures.nmi_after"] == ""
    assert [row["verdict"] for row in engine.state.registrations] == ["PASS", "FAIL", "WARN"]
    (first,) = [r.getMessage() for r in caplog.records if "registrations:" in r.getMessage()]
    assert first == "3 registrations: 1 FAIL, 1 WARN, 1 PASS"


def test_one_pair_without_a_folder_needs_no_table(tmp_path):
    go(tmp_path / "one", [["A"]], [[""]])
    assert not (tmp_path / "one" / "summary.csv").exists()
    go(tmp_path / "list", [["A"]], [["x"]])
    assert (tmp_path / "list" / "summary.csv").exists()


def test_a_report_for_every_pair(tmp_path, monkeypatch, caplog):
    from monai_locor.handlers import registration_saver

    monkeypatch.setattr(registration_saver, "write_report", lambda path, result, **masks: path.write_text(result.name))
    judged(tmp_path, ["PASS", "WARN"], report=True)
    assert [(tmp_path / f"p{i}" / "report.html").read_text() for i in range(2)] == ["PASS", "WARN"]
    monkeypatch.setattr(registration_saver, "find_spec", lambda name: None)
    judged(tmp_path / "again", ["PASS"], report=True)
    assert not (tmp_path / "again" / "p0" / "report.html").exists() and "pip install matplotlib" in caplog.text


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 3, 4, 5)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("collated", [list, torch.stack, lambda masks: list_data_collate([{"m": m} for m in masks])["m"]])
@pytest.mark.parametrize("roles", [("fixed",), ("moving",), ("fixed", "moving")], ids="-".join)
def test_masks_of_every_pair_reach_its_report(roles, collated, shape, tmp_path, monkeypatch):
    from monai_locor.handlers import registration_saver

    given = [MetaTensor(torch.full(shape, n), affine=torch.diag(torch.tensor([n + 1.0] * 3 + [1.0]))) for n in range(3)]
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(registration_saver, "write_report", lambda path, result, **masks: seen.append(masks))
    engine = Engine(lambda engine, batch: {"pred": [Result(name) for name in "ABC"]})
    RegistrationSaver(tmp_path, report=True).attach(engine)
    engine.run([{f"{role}_mask": collated(given) for role in roles}])
    for n, masks in enumerate(seen):
        for role in ("fixed", "moving"):
            mask = masks[f"{role}_mask"]
            assert mask is None if role not in roles else torch.equal(mask, given[n])
            assert mask is None or collated is torch.stack or torch.equal(mask.affine, given[n].affine)
    assert len(seen) == 3


@pytest.mark.parametrize("none", [None, [], [None, None]])
def test_pairs_without_masks(none, tmp_path, monkeypatch):
    from monai_locor.handlers import registration_saver

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(registration_saver, "write_report", lambda path, result, **masks: seen.append(masks))
    engine = Engine(lambda engine, batch: {"pred": [Result(name) for name in "AB"]})
    RegistrationSaver(tmp_path, report=True).attach(engine)
    engine.run([{"fixed_mask": none}])
    assert seen == [{"fixed_mask": None, "moving_mask": None}] * 2
