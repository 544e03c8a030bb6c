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

"""The handler that saves registrations: each pair in a folder of its own, whatever the sizes of the batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine

from monai_locor.handlers import RegistrationSaver


class Result:
    """Writes its name."""

    seconds = 1.0

    def __init__(self, name: str) -> None:
        self.name = name

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(self.name)


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
    assert caplog.text.count("holds another pair of this run") == 2


def test_a_name_like_one_that_was_numbered(tmp_path):
    go(tmp_path, [["A", "B"], ["C", "D"]], [["x_0002", "x"], ["x", "x"]])
    assert sorted(saved(tmp_path).values()) == ["A", "B", "C", "D"]


def test_the_folder_itself(tmp_path):
    go(tmp_path, [["A"], ["B"]], [[""], [""]])
    assert saved(tmp_path) == {".": "A", "pair_0002": "B"}
