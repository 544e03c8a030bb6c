# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A training step of the bundle's network, without loading data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from _gpu_setup import ROOT
from monai.bundle import ConfigParser

CONFIG = ROOT / "bundles" / "locor_registration" / "configs" / "train.json"
SHAPE = (61, 73, 61)  # voxels of a head of 182 x 218 x 182 mm at the 3 mm of train.json


def training_step(batch: int, shape: Sequence[int], device: str) -> Callable[[], None]:
    """Forward, backward and the optimizer's step, with the settings of `train.json`, on random images of two channels."""
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    parser["device"] = f"$torch.device('{device}')"
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    network.train()
    loss.train()
    torch.manual_seed(0)
    moving, fixed = torch.rand(2, batch, 2, *shape, device=device)
    weight = torch.ones(batch, 1, *shape, device=device)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(moving, fixed, moving_weight=weight, fixed_weight=weight), fixed).backward()
        optimizer.step()

    return step
