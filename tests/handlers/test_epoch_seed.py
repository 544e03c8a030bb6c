# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Resumed training equals training without a break, whatever the data loader, and ranks share what they should."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from torch.utils.data import DistributedSampler

from monai_locor.handlers import SeedEpochs, epoch_seed
from monai_locor.losses import LocalLearnedBasisCRLoss

from ..parameters import mostly_slow

PAIRS = 6


class Run:
    """A tiny training: dropout, random transforms, shuffling and the loss's random windows all draw random numbers."""

    def __init__(self, folder: Path, epochs: int, resume: Path | None = None, seeded: bool = True, **options: Any) -> None:
        fresh = 0 if resume is None else 99  # a resumed process knows nothing of the other
        torch.manual_seed(fresh), np.random.seed(fresh), random.seed(fresh)
        generator = torch.Generator().manual_seed(fresh)
        data = [{k: torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(i))} for i, k in enumerate(["image"] * PAIRS)]
        noise = Compose([RandGaussianNoised("image", 0.7, std=0.2), RandFlipd("image", 0.5)])
        dataset = CacheDataset(data, noise, num_workers=0, progress=False)
        loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=options.get("num_workers", 0))
        self.network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Dropout(0.3), torch.nn.Conv2d(4, 1, 1))
        self.loss = LocalLearnedBasisCRLoss(spatial_dims=2, generator=generator if options.get("own", True) else None)
        self.optimizer = torch.optim.Adam([*self.network.parameters(), *self.loss.parameters()], 1e-2)
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=loader,
            epoch_length=options.get("epoch_length"),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=self.loss,
            prepare_batch=self.prepare,
        )
        self.seen: list[list[float]] = [[] for _ in range(epochs)]
        saved = {"network": self.network, "loss": self.loss, "optimizer": self.optimizer, "trainer": self.trainer}
        handlers: list[Any] = [] if resume is None else [CheckpointLoader(str(resume), saved)]
        handlers += [SeedEpochs(3, generators=generator)] if seeded else []
        for handler in [*handlers, CheckpointSaver(str(folder), saved, save_interval=2)]:
            handler.attach(self.trainer)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        self.trainer.run()

    def prepare(self, batch: dict[str, torch.Tensor], *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        image = batch["image"].as_tensor() if hasattr(batch["image"], "as_tensor") else batch["image"]
        self.seen[self.trainer.state.epoch - 1].append(float(image.double().sum()))
        return image, image.square()

    def validate(self, engine: Engine) -> None:
        """Draws random numbers, as a validation may, more of them the longer the run."""
        torch.rand(engine.state.iteration), np.random.rand(engine.state.iteration), random.random()

    def parameters(self) -> list[torch.Tensor]:
        return [*self.network.parameters(), *self.loss.parameters()]


def same(first: Run, second: Run) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    "options", mostly_slow([{"epoch_length": 2}, {}, {"epoch_length": 5}, {"own": False}, {"num_workers": 2}])
)
def test_resumed_training_equals_training_without_a_break(tmp_path, options):
    straight = Run(tmp_path / "a", 4, **options)
    Run(tmp_path / "b", 2, **options)
    resumed = Run(tmp_path / "c", 4, tmp_path / "b" / "checkpoint_epoch=2.pt", **options)
    assert resumed.seen[:2] == [[], []] and resumed.seen[2:] == straight.seen[2:]
    assert same(straight, resumed)


def test_without_seeds_it_does_not(tmp_path):
    straight = Run(tmp_path / "a", 4, seeded=False)
    Run(tmp_path / "b", 2, seeded=False)
    resumed = Run(tmp_path / "c", 4, tmp_path / "b" / "checkpoint_epoch=2.pt", seeded=False)
    assert resumed.seen[2:] != straight.seen[2:] and not same(straight, resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_draws_something_else(tmp_path, workers):
    seen = Run(tmp_path, 3, num_workers=workers).seen
    assert len({value for epoch in seen for value in epoch}) == 9  # three batches an epoch
    assert [len(epoch) for epoch in seen] == [3, 3, 3]


def draws(seed: int, epoch: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[float]]:
    """What the global generators, and what two of one's own, give in an epoch."""
    own = [torch.Generator(), torch.Generator()]
    monkeypatch.setattr(epoch_seed, "_rank", lambda: rank)
    engine = Engine(lambda *_: None)
    engine.state.epoch = epoch
    SeedEpochs(seed, generators=own)(engine)
    return [torch.rand(()).item(), np.random.rand(), random.random()], [torch.rand((), generator=g).item() for g in own]


def test_ranks_share_the_generators_and_nothing_else(monkeypatch):
    (data, shared), (other, same_shared) = (draws(0, 1, rank, monkeypatch) for rank in (0, 1))
    assert shared == same_shared and shared[0] != shared[1]
    assert all(a != b for a, b in zip(data, other, strict=True))


def test_seed_and_epoch_both_matter(monkeypatch):
    results = [draws(seed, epoch, 0, monkeypatch) for seed, epoch in ((0, 1), (0, 2), (1, 1), (1, 0), (0, 1))]
    assert results[0] == results[-1]
    for values in zip(*(data + own for data, own in results[:-1]), strict=True):
        assert len(set(values)) == 4


def test_a_given_dataset_is_seeded_and_the_sampler_told():
    dataset = CacheDataset([{"a": torch.zeros(1, 4)}] * 4, RandGaussianNoised("a", 1.0), num_workers=0, progress=False)
    sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
    given = []
    for chosen in (dataset, None):
        engine = Engine(lambda engine, batch: given.append(batch["a"].sum().item()))
        SeedEpochs(5, chosen).attach(engine)
        engine.run(DataLoader(dataset, batch_size=2, sampler=sampler), max_epochs=2)
        assert sampler.epoch == 2
    assert given[:2] == given[2:]  # one batch an epoch


def test_resuming_within_an_epoch_runs_the_rest_of_it():
    engine = Engine(lambda engine, batch: None)
    SeedEpochs(0).attach(engine)
    engine.load_state_dict({"iteration": 5, "max_epochs": 3, "epoch_length": 3})
    counts: list[int] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: counts.append(e.state.iteration))
    engine.run([1, 2, 3])
    assert counts == [6, 9]


def test_refuses_what_cannot_be_seeded():
    for seed in (-1, 0.5, True):
        with pytest.raises(ValueError, match="must be an integer"):
            SeedEpochs(seed)  # type: ignore[arg-type]
    engine = Engine(lambda *_: None)
    SeedEpochs(0).attach(engine)
    engine.logger.disabled = True
    with pytest.raises(ValueError, match="persistent_workers=False"):
        engine.run(DataLoader([torch.zeros(1)], num_workers=1, persistent_workers=True))
