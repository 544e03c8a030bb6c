# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Networks on the pretended device: training steps, instance optimization after a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.networks.nets import VoxelMorphUNet

from monai_locor import RegistrationResult
from monai_locor.bundle import registration_loss
from monai_locor.inferers import InstanceOptimizationInferer
from monai_locor.losses import RegistrationLoss
from monai_locor.networks import RegistrationNetwork
from monai_locor.networks.forces import force_channels
from monai_locor.registration.similarity import SIMILARITIES

from ..phantoms import grid_of, pair
from .agreement import at_most, elsewhere, use_portions_of_a_gpu

INFERENCE = Path(__file__).resolve().parents[2] / "bundles" / "locor_registration" / "configs" / "inference.json"
GRID = grid_of((16, 18, 14), (3.0, 3.0, 3.5))
PRESET = {
    "stages": [{"factor": 4, "iterations": 1}, {"factor": 2, "iterations": 2, "spacing": 8}],
    "multistart": "never",
    "intersubject": "never",
}
KINDS = {
    "velocity": {},
    "displacement": {"output": "displacement"},
    "guided": {"guided": True, "downsampling": 2, "stride": 2},
    "guided displacement": {"guided": True, "output": "displacement"},
}
MARKED = [pytest.param(kind, marks=() if kind == "guided" else pytest.mark.slow) for kind in KINDS]
# of a training step at 16^3 with the default measure, a small network and Adam; a change may lower them
LAUNCHES = {
    "velocity": 1282,
    "displacement": 751,
    "guided": 2353,
    "guided displacement": 1405,
}


class Training:
    """A small network, its loss and its optimizer."""

    def __init__(self, device: str, similarity: str = "locor", guided: bool = False, **options: Any) -> None:
        torch.manual_seed(0)
        self.generator = torch.Generator().manual_seed(1)
        self.loss: RegistrationLoss = registration_loss(similarity, generator=self.generator).to(device)
        unet = VoxelMorphUNet(3, 2 + (force_channels(3) if guided else 0), 4, [4, 4, 4, 4], [4])
        guide = self.loss if guided else None
        self.network = RegistrationNetwork(unet, divisible=8, guide=guide, head_std=1e-2, **options).to(device)
        self.parameters = [*self.network.parameters(), *self.loss.parameters()]
        # on a GPU this is the default
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3, foreach=True)
        images = torch.rand(2, 1, 2, 18, 18, 18, generator=torch.Generator().manual_seed(2))
        self.moving, self.fixed = torch.nn.functional.avg_pool3d(images.flatten(0, 1), 3, 1).unflatten(0, (2, 1)).to(device)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(self.network(self.moving, self.fixed), self.fixed)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@pytest.mark.parametrize("kind", MARKED)
def test_training_is_that_of_the_cpu(cuda, monkeypatch, kind):
    use_portions_of_a_gpu(monkeypatch)
    here, there = Training("cpu", **KINDS[kind]), Training("cuda", **KINDS[kind])
    assert not elsewhere(there.parameters, "cuda")
    for _ in range(2):
        torch.testing.assert_close(there.step().cpu(), here.step(), rtol=1e-4, atol=1e-5)
    pairs = [(a.grad, b.grad) for a, b in zip(there.parameters, here.parameters, strict=True)]
    for a, b in pairs:
        assert (a is None) == (b is None)
    for a, b in ((a, b) for a, b in pairs if b is not None):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-2, atol=1e-2 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("kind", MARKED)
def test_a_training_step_does_not_wait(cuda, kind):
    training = Training("cuda", **KINDS[kind])
    training.step()  # what is made once for a shape may be waited for
    record = cuda.forget()
    training.step()
    assert not record.waits and not record.draws
    at_most({kind: sum(record.launches.values())}, LAUNCHES, "launches of a training step")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SIMILARITIES if name != "locor"])
def test_a_training_step_with_another_measure_does_not_wait(cuda, name):
    training = Training("cuda", name)
    training.step()
    record = cuda.forget()
    training.step()
    assert not record.waits and not record.draws


def bundle(**changes: Any) -> tuple[InstanceOptimizationInferer, torch.nn.Module]:
    """Inferer and network as the configuration makes them, but for a small network of random weights."""
    parser = ConfigParser(ConfigParser.load_config_file(str(INFERENCE)))
    parser["preset"] = PRESET
    parser["network_def"] |= {"unet_out_channels": 4, "channels": [4] * 4, "final_conv_channels": [4]}
    parser["inferer"]["progress"] = False
    for key, value in changes.items():
        parser[key] = value
    torch.manual_seed(0)
    return parser.get_parsed_content("inferer"), parser.get_parsed_content("network")


def inferred(device: str, mode: Any = torch.no_grad, masked: bool = True, **changes: Any) -> RegistrationResult:
    """As MONAI's evaluator calls it."""
    inferer, network = bundle(device=torch.device(device), **changes)
    fixed, moving = (MetaTensor(x.as_tensor().to(device), affine=x.affine) for x in pair(GRID, GRID)[:2])
    masks = {"fixed_mask": [(fixed > 0.1).float()], "moving_mask": [None]} if masked else {}
    with mode():
        (result,) = inferer([fixed], network, moving=[moving], **masks)
    return result


CONFIGURED = {
    "guided network": {"use_network": True},
    "without network": {"use_network": False},
    "network": {"use_network": True, "guided": False, "network_def#in_channels": 2},
    "guided network, other measure": {"use_network": True, "network_similarity": "local_ncc"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURED)
def test_the_bundle_infers_what_it_does_on_the_cpu(cuda, monkeypatch, name):
    use_portions_of_a_gpu(monkeypatch)
    there, here = inferred("cuda", **CONFIGURED[name]), inferred("cpu", **CONFIGURED[name])
    assert there.device.startswith("cuda") and not elsewhere(there, "cpu")
    for a, b in ((there.forward_mm, here.forward_mm), (there.inverse_mm, here.inverse_mm)):
        assert float((a - b).norm(dim=0).max()) < 1e-3 and float(b.std()) > 0.1


@pytest.mark.slow
def test_inference_mode(cuda):
    result = inferred("cuda", torch.inference_mode, use_network=True)
    assert result.forward_mm.isfinite().all() and not elsewhere(result, "cpu")
