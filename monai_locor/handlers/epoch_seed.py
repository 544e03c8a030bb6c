# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Training that continues after a break as if there had been none."""

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

DATA, SHARED = 0, 1  # streams of random numbers: one for each process, one that all processes have in common


class SeedEpochs:
    """Seed everything random from the number of the epoch, whenever an epoch starts.

    What an epoch draws then depends on nothing that happened before it: training that is resumed from a checkpoint at
    the end of an epoch goes on, on a CPU bit by bit, as training without a break. Seeded are Python's, NumPy's and
    torch's (CPU and CUDA) global generators, the random transforms of the data set, the given generators, and through
    the global ones the shuffling and the worker processes of the data loader. A ``DistributedSampler`` is told the epoch.

    The processes of a distributed training draw different augmentations, but the same numbers from ``generators``: the
    losses of all of them look through the same windows.

    What happens before the first epoch, such as the initialization of the network, is not seeded here, and resuming in
    the middle of an epoch is not exact.

    Args:
        seed: of the training, 0 or more.
        dataset: the one whose random transforms are seeded; by default the data loader's.
        generators: random generators of one's own, for instance of ``LocalLearnedBasisCRLoss``.

    Raises:
        ValueError: when ``seed`` is no whole number or negative.

    Example::

        generator = torch.Generator()
        loss = LocalLearnedBasisCRLoss(generator=generator)
        SupervisedTrainer(..., train_handlers=[CheckpointLoader(...), SeedEpochs(0, generators=[generator])])
    """

    def __init__(self, seed: int, dataset: Any = None, generators: Sequence[torch.Generator] | torch.Generator = ()) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number, 0 or more, got {seed!r}.")
        self.seed, self.dataset = seed, dataset
        self.generators: tuple[torch.Generator, ...] = ensure_tuple(generators)

    def attach(self, engine: Engine) -> None:
        """Have the engine call this at the start of every epoch."""
        from ignite.engine import Events  # an optional dependency

        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the engine's current epoch.

        Raises:
            ValueError: when the data loader keeps its worker processes from epoch to epoch: they cannot be seeded again.
        """
        state, loader = engine.state, engine.state.dataloader
        if getattr(loader, "persistent_workers", False):
            raise ValueError("SeedEpochs cannot seed worker processes that persist: set persistent_workers=False.")
        self._seed_global(state.epoch)
        dataset = getattr(loader, "dataset", None) if self.dataset is None else self.dataset
        set_rnd(dataset, self._number(DATA, state.epoch, _rank(), 1))
        for index, generator in enumerate(self.generators):
            generator.manual_seed(self._number(SHARED, state.epoch, index))
        for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
            tell = getattr(sampler, "set_epoch", None)
            if tell is not None:
                tell(state.epoch)
        # ignite would go on with the last epoch's iterator, where it has one, and so with its order and its workers
        if loader is not None and state.iteration % (state.epoch_length or 1) == 0:
            engine.set_data(loader)

    def _seed_global(self, epoch: int) -> None:
        number = self._number(DATA, epoch, _rank(), 0)
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    def _number(self, *place: int) -> int:
        """A seed of 32 bits, unrelated to those of all other places."""
        return int(np.random.SeedSequence(self.seed, spawn_key=place).generate_state(1)[0])


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
