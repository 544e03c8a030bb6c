# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Seed each epoch, so that resumed training gives the same result as uninterrupted training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data.utils import set_rnd
from monai.utils import ensure_tuple

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["SeedEpochs"]

DATA_STREAM, SHARED_STREAM = 0, 1  # random numbers that differ between processes, and those common to all


class SeedEpochs:
    """Seed all random number generators from the epoch number at the start of each epoch.

    The random numbers of an epoch then do not depend on earlier epochs: training resumed from a checkpoint at the end of
    an epoch continues as if it had not been interrupted, bit for bit on a CPU. This seeds the global generators of Python,
    NumPy and torch (CPU and CUDA), the random transforms of the dataset and the given generators; the global ones also
    determine the shuffling and the worker processes of the data loader. ``DistributedSampler.set_epoch`` is called.

    In distributed training the processes draw different augmentations, but the same numbers from ``generators``, so their
    losses use the same windows.

    Anything before the first epoch, such as the initialization of the network, is not seeded here. Resuming in the middle
    of an epoch is not exact.

    Args:
        seed: seed of the training, 0 or more.
        dataset: dataset whose random transforms are seeded; by default that of the data loader.
        generators: further random generators, for instance that of ``LocalLearnedBasisCRLoss``.

    Raises:
        ValueError: if ``seed`` is negative or not an integer.

    Example::

        generator = torch.Generator()
        loss = LocalLearnedBasisCRLoss(generator=generator)
        SupervisedTrainer(..., train_handlers=[CheckpointLoader(...), SeedEpochs(0, generators=[generator])])
    """

    def __init__(self, seed: int, dataset: Any = None, generators: Sequence[torch.Generator] | torch.Generator = ()) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer, 0 or more, got {seed!r}.")
        self.seed, self.dataset = seed, dataset
        self.generators: tuple[torch.Generator, ...] = ensure_tuple(generators)

    def attach(self, engine: Engine) -> None:
        """Register this handler to run at the start of each epoch."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the engine's current epoch.

        Raises:
            ValueError: if the data loader has persistent workers, which cannot be reseeded.
        """
        state, loader = engine.state, engine.state.dataloader
        if getattr(loader, "persistent_workers", False):
            raise ValueError("SeedEpochs cannot reseed persistent workers: set persistent_workers=False.")
        self._seed_global(state.epoch)
        dataset = getattr(loader, "dataset", None) if self.dataset is None else self.dataset
        set_rnd(dataset, self._number(DATA_STREAM, state.epoch, _rank(), 1))
        for index, generator in enumerate(self.generators):
            generator.manual_seed(self._number(SHARED_STREAM, state.epoch, index))
        for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(state.epoch)
        # ignite would otherwise reuse the iterator of the last epoch, with its order and its workers
        if loader is not None and state.iteration % (state.epoch_length or 1) == 0:
            engine.set_data(loader)

    def _seed_global(self, epoch: int) -> None:
        number = self._number(DATA_STREAM, epoch, _rank(), 0)
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    def _number(self, *place: int) -> int:
        """A 32-bit seed, independent of those at all other places."""
        return int(np.random.SeedSequence(self.seed, spawn_key=place).generate_state(1)[0])


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
