# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the training bundle's configuration calls: flags, sampler, checkpoints, cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Transform

from monai_locor.bundle import BestCheckpoint, EpochSampler, LastCheckpoint, cached_dataset, checked_weights, flag
from monai_locor.errors import InputError


def test_flags():
    assert [flag(v) for v in (True, "true", "True", 1, "on", False, "false", 0, None, "none")] == [True] * 5 + [False] * 5
    with pytest.raises(InputError, match="maybe"):
        flag("maybe")


def test_sampler_covers_the_pairs_and_depends_on_nothing_but_the_epoch(monkeypatch):
    pairs = list(range(5))
    sampler = EpochSampler(pairs, 8, seed=3)
    epochs = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert len(sampler) == 8 and set(epochs[0][:5]) == set(pairs) and epochs[0] != epochs[1]
    torch.manual_seed(123)
    sampler.set_epoch(1)
    assert list(sampler) == epochs[0]
    assert list(EpochSampler(pairs, 3, shuffle=False)) == [0, 1, 2] and len(EpochSampler(pairs)) == 5
    ranks = []
    for rank in (0, 1):
        monkeypatch.setattr("monai_locor.bundle.datasets.world_size", lambda: 2)
        monkeypatch.setattr("monai_locor.bundle.datasets.rank", lambda rank=rank: rank)
        sampler = EpochSampler(pairs, 8, seed=3)
        sampler.set_epoch(1)
        ranks.append(list(sampler))
    assert [i for both in zip(*ranks, strict=True) for i in both] == epochs[0]


def test_best_checkpoint_and_early_stopping(tmp_path):
    weights = torch.nn.Linear(1, 1)
    scores = iter([-3.0, math.nan, -1.0, -2.0, -1.0, 9.0])
    validator = Engine(lambda engine, batch: None)
    validator.add_event_handler(Events.COMPLETED, lambda e: e.state.metrics.update(val_loss=-next(scores)))
    best = BestCheckpoint(str(tmp_path / "model.pt"), {"model": weights}, validator, patience=2)
    saved = []

    def epoch(engine: Engine) -> None:
        with torch.no_grad():
            weights.weight[:] = engine.state.epoch
        validator.run([0])
        saved.append(float(torch.load(tmp_path / "model.pt", weights_only=True)["model"]["weight"]))

    trainer = Engine(lambda engine, batch: None)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, epoch)
    best.attach(trainer)
    trainer.run([0], max_epochs=6)
    assert saved == [1, 1, 3, 3, 3] and [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    again = BestCheckpoint(None, {}, validator)
    again.load_state_dict(best.state_dict())
    assert (again.best, again.worse) == (-1, 2)


def test_a_break_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    trainer = Engine(lambda engine, batch: None)
    LastCheckpoint(str(tmp_path / "last.pt"), {"model": torch.nn.Linear(1, 1)}).attach(trainer)
    trainer.run([0], max_epochs=1)
    before = (tmp_path / "last.pt").read_bytes()

    def full(content: Any, path: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        trainer.run([0], max_epochs=2)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"] and (tmp_path / "last.pt").read_bytes() == before


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "model.pt"
    small, large = torch.nn.Linear(2, 3), torch.nn.Linear(2, 4)
    torch.save({"model": small.state_dict(), "loss": {"x": torch.ones(2)}}, path)
    assert checked_weights(path, {"model": small, "loss": torch.nn.ReLU()}) == {"model": small}  # a loss without parameters
    assert checked_weights(None, {"model": large}) == {}
    with pytest.raises(InputError, match=r"model.pt: weight of the model has shape \(3, 2\), here it is \(4, 2\)"):
        checked_weights(path, {"model": large})
    with pytest.raises(InputError, match=r"model has no 0.weight; .*network_def"):
        checked_weights(path, {"model": torch.nn.Sequential(small)})
    with pytest.raises(InputError, match=r"loss has no weight; .*similarity"):
        checked_weights(path, {"loss": small})
    torch.save(small.state_dict(), path)
    with pytest.raises(InputError, match=r"has weight, bias \.\.\., but no model"):
        checked_weights(path, {"model": small})


class Prepared(Transform):
    """Counts its calls; returns what :class:`AlignPaird` returns."""

    calls = 0

    def __call__(self, name: str) -> dict[str, Any]:
        type(self).calls += 1
        volume = MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)))
        return {"name": name, "fixed": volume, "affine": np.eye(4), "fixed_landmarks": torch.rand(2, 3)}


class Payload:
    """An object whose unpickling runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_files_of_the_cache_are_data(tmp_path, monkeypatch):
    """A second run reads what the first one wrote; a file that would run code is not run, and computed again."""
    monkeypatch.setattr(Prepared, "calls", 0)
    first, second = (cached_dataset(["a"], Prepared(), tmp_path / "cache")[0] for _ in range(2))
    assert Prepared.calls == 1 and isinstance(second["fixed"], MetaTensor) and second["name"] == "a"
    for name in ("fixed", "affine", "fixed_landmarks"):
        torch.testing.assert_close(torch.as_tensor(second[name]), torch.as_tensor(first[name]), check_dtype=False)
    torch.testing.assert_close(second["fixed"].affine, first["fixed"].affine)
    (file,) = (tmp_path / "cache").glob("*.pt")
    torch.save({"fixed": Payload(tmp_path / "ran")}, file)
    with pytest.warns(UserWarning, match="Corrupt cache file"):
        third = cached_dataset(["a"], Prepared(), tmp_path / "cache")[0]
    assert Prepared.calls == 2 and third["fixed"].shape == (1, 3, 4, 5) and not (tmp_path / "ran").exists()


def test_a_checkpoint_with_code_is_refused(tmp_path):
    """It is not run, and not read in another way."""
    path = tmp_path / "model.pt"
    torch.save({"model": Payload(tmp_path / "ran")}, path)
    with pytest.raises(InputError, match=r"model\.pt: cannot be read as a checkpoint"):
        checked_weights(path, {"model": torch.nn.Linear(2, 3)})
    assert not (tmp_path / "ran").exists()


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="name another folder"):
        cached_dataset([], lambda item: item, tmp_path / "file")
