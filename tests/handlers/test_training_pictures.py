# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures in TensorBoard: when they are drawn, and that training does not notice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_locor.handlers import BasisPictures, WarpPictures
from monai_locor.losses import LocalLearnedBasisCRLoss

pytest.importorskip("matplotlib")


class Writer:
    """Remembers what it is told to write."""

    def __init__(self) -> None:
        self.written: list[tuple[str, np.ndarray, int]] = []

    def add_image(self, tag: str, picture: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.written.append((tag, picture, step))

    def flush(self) -> None: ...

    def steps(self) -> list[int]:
        return [step for _, _, step in self.written]


class Loss(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.similarity = LocalLearnedBasisCRLoss(2, in_channels=2)
        self.inverse_similarity = LocalLearnedBasisCRLoss(2, in_channels=1)


def batch(dims: int = 2, size: int = 2) -> dict[str, Any]:
    shape = (12, 14, 10)[:dims]
    images = MetaTensor(torch.rand(size, 2, *shape), affine=torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0])).double())
    return {"fixed": images, "moving": images.flip(2), "name": [f"pair{i}" for i in range(size)]}


def engine(dims: int = 2, decollated: bool = False) -> Engine:
    def step(engine: Engine, batch: dict[str, Any]) -> Any:
        moving = batch["moving"].as_tensor()
        pred = {"ddf": torch.rand(len(moving), dims, *moving.shape[2:]), "warped_moving": moving}
        if not decollated:
            return {"pred": pred}
        engine.state.batch = [{k: v[i] for k, v in batch.items()} for i in range(len(moving))]
        return [{"pred": {k: v[i] for k, v in pred.items()}} for i in range(len(moving))]

    return Engine(step)


def random_state() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "decollated"), [(2, False), (3, False), (2, True)])
def test_the_first_pair_of_an_epoch_is_drawn(dims, decollated):
    writer, runner = Writer(), engine(dims, decollated)
    WarpPictures(writer).attach(runner)
    runner.run([batch(dims), batch(dims)], max_epochs=2)
    assert writer.steps() == [1, 2]
    for tag, picture, _ in writer.written:
        assert tag == "registration" and picture.ndim == 3 and picture.shape[2] == 3
        assert picture.min() >= 0 and picture.max() > 0.5 and picture.std() > 0.05


@pytest.mark.slow
def test_intervals_count_the_epochs_in_which_the_engine_runs():
    warps, bases, runner = Writer(), Writer(), engine()
    WarpPictures(warps, interval=2).attach(runner)
    BasisPictures(LocalLearnedBasisCRLoss(2), bases, interval=3).attach(runner)
    runner.run([batch()], max_epochs=5)
    assert warps.steps() == [1, 3, 5] and bases.steps() == [1, 4]


def test_each_direction_has_its_basis():
    writer = Writer()
    BasisPictures(torch.nn.Sequential(Loss())[0], writer)(engine())
    assert [tag for tag, _, _ in writer.written] == ["basis/similarity", "basis/inverse_similarity"]
    maps, curves = (picture for _, picture, _ in writer.written)
    assert maps.dtype == curves.dtype == np.uint8 and maps.shape[1] > curves.shape[1]
    for loss, tag in ((LocalLearnedBasisCRLoss(2), ["basis"]), (LocalLearnedBasisCRLoss(2, basis="polynomial"), [])):
        writer = Writer()
        BasisPictures(loss, writer)(engine())
        assert [tag for tag, _, _ in writer.written] == tag


@pytest.mark.slow
def test_training_does_not_notice():
    loss = Loss().train()
    loss.inverse_similarity.eval()
    modes, parameters = [m.training for m in loss.modules()], [p.clone() for p in loss.parameters()]
    runner = engine()
    runner.state.batch, runner.state.epoch = batch(), 1
    runner.state.output = {"pred": {"ddf": torch.rand(2, 2, 12, 14), "warped_moving": torch.rand(2, 1, 12, 14)}}
    warps, before = WarpPictures(Writer()), random_state()
    BasisPictures(loss, Writer())(runner)
    warps._started(runner)
    warps(runner)
    assert len(warps._writer.written) == 1
    assert random_state() == before
    assert [m.training for m in loss.modules()] == modes
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(parameters, loss.parameters(), strict=True))


@pytest.mark.slow
def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = engine()
    handlers = [BasisPictures(Loss(), log_dir=tmp_path), WarpPictures(log_dir=str(tmp_path), tag="first pair")]
    for handler in handlers:
        handler.attach(runner)
    assert list(tmp_path.iterdir()) == []  # nothing before the first picture
    runner.run([batch()], max_epochs=2)
    for handler in handlers:
        handler.close()
    images: dict[str, list[int]] = {}
    for file in tmp_path.iterdir():
        events = EventAccumulator(str(file)).Reload()
        images |= {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert images == {"basis/similarity": [1, 2], "basis/inverse_similarity": [1, 2], "first pair": [1, 2]}


@pytest.mark.slow
def test_errors_name_the_remedy(monkeypatch, tmp_path: Path):
    for handler in (lambda: WarpPictures(Writer(), interval=0), lambda: BasisPictures(Loss(), Writer(), interval=-1)):
        with pytest.raises(ValueError, match="interval"):
            handler()
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"monai-locor\[bundle\]"):
        BasisPictures(Loss(), log_dir=tmp_path)(engine())
