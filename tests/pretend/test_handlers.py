# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""MONAI's trainer and evaluator on the pretended device, with the handlers of a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.networks.nets import VoxelMorphUNet

from monai_locor.bundle import registration_loss
from monai_locor.data.alignment import PrepareBatchRegistration
from monai_locor.handlers import BasisPictures, RegistrationMetrics, SeedEpochs, WarpPictures
from monai_locor.networks import RegistrationNetwork
from monai_locor.networks.forces import force_channels

from .agreement import elsewhere, use_portions_of_a_gpu

SHAPE = (16, 16, 16)


class Writer:
    """Remembers the pictures that it is told to write."""

    def __init__(self) -> None:
        self.pictures: dict[str, np.ndarray] = {}

    def add_image(self, tag: str, picture: np.ndarray, step: int, dataformats: str) -> None:
        self.pictures[tag] = picture

    def flush(self) -> None: ...


def batch() -> dict[str, Any]:
    """A pair of images with labels and landmarks, on the host, as a data loader gives it."""
    images = torch.rand(2, 1, 2, 18, 18, 18, generator=torch.Generator().manual_seed(2))
    moving, fixed = torch.nn.functional.avg_pool3d(images.flatten(0, 1), 3, 1).unflatten(0, (2, 1))
    whole = {"moving": moving, "fixed": fixed, "moving_label": (moving[:, :1] > 0.5).float()}
    whole |= {"fixed_label": (fixed[:, :1] > 0.5).float(), "fixed_weight": (fixed[:, :1] > 0.4).float()}
    whole |= {"moving_weight": torch.ones(1, 1, *SHAPE)}
    marks = {f"{role}_landmarks": torch.full((1, 4, 3), 6.0 + k) for k, role in enumerate(("moving", "fixed"))}
    return {key: MetaTensor(value, affine=torch.eye(4)) for key, value in whole.items()} | marks


def trained(device: str) -> tuple[dict[str, float], dict[str, np.ndarray], list[torch.Tensor]]:
    """Metrics and pictures after two epochs, and what has been learned."""
    torch.manual_seed(0)
    generator, writer = torch.Generator(), Writer()
    loss = registration_loss("locor", generator=generator).to(device)
    unet = VoxelMorphUNet(3, 2 + force_channels(3), 4, [4, 4, 4, 4], [4])
    network = RegistrationNetwork(unet, divisible=8, downsampling=2, stride=2, guide=loss, head_std=1e-2).to(device)
    parameters = [*network.parameters(), *loss.parameters()]
    common = {"device": torch.device(device), "prepare_batch": PrepareBatchRegistration(), "network": network}
    common |= {"epoch_length": 1, "decollate": False}
    evaluator = SupervisedEvaluator(
        val_data_loader=[batch()], val_handlers=[RegistrationMetrics(loss=loss, min_voxels=1), WarpPictures(writer)], **common
    )
    trainer = SupervisedTrainer(
        max_epochs=2,
        train_data_loader=[batch()],
        optimizer=torch.optim.Adam(parameters, 1e-3),
        loss_function=loss,
        train_handlers=[SeedEpochs(0, generator), BasisPictures(loss, writer)],
        **common,
    )
    trainer.run()
    evaluator.run()
    return evaluator.state.metrics, writer.pictures, parameters


@pytest.mark.slow
def test_a_training_with_its_handlers(cuda, monkeypatch):
    pytest.importorskip("matplotlib")
    use_portions_of_a_gpu(monkeypatch)
    metrics, pictures, parameters = trained("cuda")
    assert not elsewhere(parameters, "cuda") and cuda.record.launches["convolution"]
    expected, expected_pictures, _ = trained("cpu")
    assert set(metrics) == set(expected) >= {"dice", "tre_mm", "folding_percent", "loss"}
    for name, value in metrics.items():
        assert value == pytest.approx(expected[name], abs=1e-3), name
    assert set(pictures) == set(expected_pictures) == {"registration", "basis/similarity", "basis/inverse_similarity"}
