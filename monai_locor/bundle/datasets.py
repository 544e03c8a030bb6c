# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Training data: pairs, cache, and samplers for one or more processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.data import CacheDataset, Dataset, DistributedSampler, PersistentDataset
from monai.data.utils import pickle_hashing
from torch.utils.data.distributed import DistributedSampler as TorchDistributedSampler

from ..data.training_pairs import training_pairs
from ..errors import InputError
from .options import path_in
from .processes import rank, world_size

__all__ = ["EpochSampler", "cached_dataset", "checked_training_pairs", "pair_names", "validation_sampler"]

SUPERVISION = ("label", "landmarks")  # of a pair, in unsupervised training


def checked_training_pairs(datalist: Any, section: str, supervised: bool = True, **options: Any) -> list[dict[str, Any]]:
    """The pairs of :func:`monai_locor.data.training_pairs.training_pairs`.

    Args:
        datalist: None gives no pairs: tools build a bundle without data, and :func:`.train` refuses to start then.
        section: of the datalist.
        supervised: whether to keep labels and landmarks.
        options: of :func:`training_pairs`.
    """
    if datalist is None:
        return []
    found = training_pairs(datalist, section, **options)
    return found if supervised else [{k: v for k, v in pair.items() if not k.endswith(SUPERVISION)} for pair in found]


def cached_dataset(data: Sequence[Any], transform: Any, cache_dir: Any = None, num_workers: int = 0) -> Dataset:
    """Cache the deterministic transforms of each pair, in memory or as files in ``cache_dir``.

    Files are identified by the paths of a pair and the settings of the transforms; delete them if an image changes. They are
    read with ``weights_only=True``: a file that contains anything but tensors, numbers and text is computed again.
    """
    if path_in(cache_dir) is None:
        return CacheDataset(data, transform, num_workers=max(num_workers, 1), progress=rank() == 0 and len(data) > 0)
    try:
        return PersistentDataset(data, transform, str(cache_dir), hash_transform=pickle_hashing, track_meta=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cache_dir {cache_dir}: {error}; name another folder") from error


class EpochSampler(TorchDistributedSampler):
    """A random sample of the pairs for every epoch, divided among the processes.

    The sample depends only on ``seed`` and the epoch: with R processes, each takes every R-th pair of the sample that a single
    process would draw. Within an epoch, no pair is repeated before all have been drawn.

    Args:
        dataset: the pairs.
        pairs_per_epoch: size of the sample; by default all.
        seed: for the sampling.
        shuffle: if false, every epoch uses the first pairs.
    """

    def __init__(self, dataset: Any, pairs_per_epoch: int | None = None, seed: int = 0, shuffle: bool = True) -> None:
        super().__init__(dataset, world_size(), rank(), shuffle=shuffle, seed=seed)
        wanted = len(dataset) if pairs_per_epoch is None or len(dataset) == 0 else pairs_per_epoch
        self.num_samples = math.ceil(wanted / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        number = len(self.dataset)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(self.seed * 100003 + self.epoch)
        rounds = math.ceil(self.total_size / max(number, 1))
        drawn = [torch.randperm(number, generator=generator) if self.shuffle else torch.arange(number) for _ in range(rounds)]
        order = torch.cat(drawn).tolist() if drawn else []
        return iter(order[self.rank : self.total_size : self.num_replicas])


def validation_sampler(dataset: Any) -> DistributedSampler:
    """Assign every pair to one process; some processes get one pair more than others."""
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)


def pair_names(batch: Mapping[str, Any]) -> list[dict[str, str]]:
    """Names of the pairs of a batch, for the tables of MONAI's ``MetricsSaver``."""
    return [{"filename_or_obj": str(name)} for name in batch["name"]]
