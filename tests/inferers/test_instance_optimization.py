# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Instance optimization behind MONAI's inferer interface: the three ways to run it, and the modes it is called in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.networks.blocks import DVF2DDF
from monai.transforms import GaussianSmooth

from monai_locor import InputError, RegistrationConfig, register
from monai_locor.geometry import Grid, apply_affine, from_voxels, warp
from monai_locor.inferers import InstanceOptimizationInferer
from monai_locor.inferers.instance_optimization import _on
from monai_locor.inferers.network_input import network_grid
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.registration_loss import RegistrationLoss
from monai_locor.registration import batch
from monai_locor.registration.start.prepare import prepare

DENSE = {"multistart": "never", "stages": [{"factor": 2, "iterations": 4, "spacing": 8}]}
PRESET = {"multistart": "never", "stages": [{"factor": 2, "iterations": 2}, {"factor": 2, "iterations": 4, "spacing": 8}]}


def blobs(*shape: int, seed: int = 0, affine: np.ndarray | None = None) -> MetaTensor:
    generator = torch.Generator().manual_seed(seed)
    data = GaussianSmooth(2.0)(torch.randn(1, *shape, generator=generator))
    return MetaTensor(
        torch.as_tensor(data).as_subclass(torch.Tensor), affine=torch.eye(4) if affine is None else torch.as_tensor(affine)
    )


def smooth_velocity(*shape: int, length: float = 1.2) -> torch.Tensor:
    """``(1, D, *shape)``, voxels; it and its slope are zero at the border, so that nothing depends on what lies beyond."""
    axes = torch.meshgrid(*(torch.linspace(0, np.pi, n) for n in shape), indexing="ij")
    bump = torch.stack([a.sin() ** 2 for a in axes]).prod(0)
    turn = torch.stack([(axes[(i + 1) % len(shape)] + i).cos() for i in range(len(shape))])
    return (length * bump * turn)[None]


class Network(torch.nn.Module):
    """Returns a given velocity, padded, and remembers what it was shown."""

    def __init__(self, velocity: torch.Tensor) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen, self.state = image, (self.training, torch.is_grad_enabled())
        out = torch.full((1, image.ndim - 2, *image.shape[2:]), 99.0)
        out[(slice(None), slice(None), *(slice(n) for n in self.velocity.shape[2:]))] = self.velocity
        return out


# --- the settings


def test_iterations_are_shared_out_in_proportion():
    config = RegistrationConfig()
    have = [s.iterations for s in config.stages if s.spacing is not None]
    for total in (0, 1, 7, 25, 50, sum(have), 1000):
        stages = config.with_iterations(total).stages
        share = [s.iterations for s in stages if s.spacing is not None]
        assert sum(share) == total
        assert all(abs(n - total * h / sum(have)) < 1 for n, h in zip(share, have, strict=True))
        assert [(s.factor, s.spacing) for s in stages] == [(s.factor, s.spacing) for s in config.stages]
        assert [s for s in stages if s.spacing is None] == [s for s in config.stages if s.spacing is None]
    assert config.with_iterations(sum(have)) == config


def test_iterations_of_affine_stages_alone_are_shared_out():
    config = RegistrationConfig(stages=({"factor": 4, "iterations": 30}, {"factor": 2, "iterations": 10}))  # type: ignore[arg-type]
    assert [s.iterations for s in config.with_iterations(8).stages] == [6, 2]


def test_after_a_network_coarse_stages_are_left_out():
    config = RegistrationConfig()
    for coarsest in (1, 2, 4):
        stages = config.with_iterations(25, coarsest).stages
        assert sum(s.iterations for s in stages if s.spacing is not None) == 25
        assert all((s.iterations > 0) == (s.factor <= coarsest) for s in stages if s.spacing is not None)
    coarse = RegistrationConfig(stages=config.stages[:4])  # none is fine enough: the finest that there are
    assert [s.iterations for s in coarse.with_iterations(10, 2).stages] == [*(s.iterations for s in config.stages[:2]), 5, 5]


@pytest.mark.parametrize("bad", [-1, 1.5, True, "3"])
def test_iterations_are_whole_numbers(bad):
    with pytest.raises(InputError, match="num_iterations"):
        InstanceOptimizationInferer(num_iterations=bad)


def test_bad_settings_are_refused():
    for options in ({"preset": "none"}, {"seed": "a"}, {"seed": -1}, {"divisible": 0}, {"network_spacing": 0}):
        with pytest.raises(InputError, match=r"none|seed|divisible|network_spacing"):
            InstanceOptimizationInferer(**options)
    with pytest.raises(InputError, match="no stage"):
        RegistrationConfig(stages=({"factor": 1, "iterations": 0},)).with_iterations(1)  # type: ignore[arg-type]


# --- instance optimization alone


def test_same_as_register_for_every_item_of_a_batch():
    fixed = [blobs(16, 18, 20), blobs(20, 16, 16, seed=2, affine=np.diag([2.0, 1, 1, 1]))]
    moving = [blobs(18, 18, 18, seed=1), blobs(16, 20, 16, seed=3, affine=np.diag([2.0, 1, 1, 1]))]
    mask = MetaTensor(torch.ones(1, 16, 18, 20), affine=torch.eye(4))
    mask[:, :4] = 0
    inferer = InstanceOptimizationInferer(PRESET, seed=3, progress=False)
    results = inferer(fixed, None, moving=moving, fixed_mask=[mask, None])
    for i, result in enumerate(results):
        alone = register(
            fixed[i], moving[i], preset=PRESET, seed=3, fixed_mask=mask if i == 0 else None, device="cpu", progress=False
        )
        assert torch.equal(result.forward_mm, alone.forward_mm)
        assert result.forward_mm.shape[1:] == fixed[i].shape[1:] and result.inverse_mm.shape[1:] == moving[i].shape[1:]


@pytest.mark.slow
def test_batches_in_one_tensor():
    images = [blobs(16, 16, 16, seed=s, affine=np.diag([1.0, 1, 1 + s, 1])) for s in range(2)]
    inferer = InstanceOptimizationInferer(PRESET, num_iterations=2, progress=False)
    listed = inferer(images, None, moving=images[::-1])
    collated = inferer(list_data_collate(images), None, moving=list_data_collate(images[::-1]))
    single = inferer(images[0][None], None, moving=images[1][None])
    for got, expected in zip((*collated, *single), (*listed, listed[0]), strict=True):
        assert torch.equal(got.forward_mm, expected.forward_mm)
        np.testing.assert_array_equal(got.fixed_grid.affine, expected.fixed_grid.affine)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_switched_on(mode):
    inferer = InstanceOptimizationInferer(PRESET, progress=False)
    expected = inferer([blobs(16, 16, 16)], None, moving=[blobs(16, 16, 16, seed=1)])[0]
    with mode():
        got = inferer([blobs(16, 16, 16)], None, moving=[blobs(16, 16, 16, seed=1)])[0]
        assert not torch.is_grad_enabled()
    assert torch.equal(got.forward_mm, expected.forward_mm)
    assert float(got.forward_mm.abs().max()) > 0.01
    assert sum(len(stage["loss"]) for stage in got.history) == 6


@pytest.mark.slow
def test_file_names_are_kept():
    fixed, moving = blobs(16, 16, 16), blobs(16, 16, 16, seed=1)
    fixed.meta["filename_or_obj"] = "fixed.nii"
    (result,) = InstanceOptimizationInferer(PRESET, num_iterations=0)([fixed], None, moving=[moving])
    assert result.inputs == {"fixed": "fixed.nii"}


@pytest.mark.slow
def test_no_iterations_and_no_network_is_the_affine_alone():
    fixed, moving = blobs(16, 16, 16), blobs(16, 16, 16, seed=1)
    (result,) = InstanceOptimizationInferer(PRESET, num_iterations=0, progress=False)([fixed], None, moving=[moving])
    expected = torch.from_numpy(apply_affine(result.affine, Grid.of(fixed).points()) - Grid.of(fixed).points()).movedim(-1, 0)
    torch.testing.assert_close(result.forward_mm.double(), expected, atol=1e-4, rtol=0)
    assert float(expected.abs().max()) > 0.01


def test_no_iterations_at_all_is_the_initial_alignment():
    shift = np.eye(4)
    shift[:3, 3] = 100, 0, -50
    fixed, moving = blobs(16, 16, 16), blobs(16, 16, 16, affine=shift)
    (result,) = InstanceOptimizationInferer(DENSE, num_iterations=0)([fixed], None, moving=[moving])
    expected = torch.tensor([100.0, 0, -50]).view(3, 1, 1, 1).expand(3, 16, 16, 16)
    torch.testing.assert_close(result.forward_mm, expected, atol=1e-3, rtol=0)


# --- with a network


@pytest.mark.parametrize(
    "affine", [np.eye(4), np.array([[0.0, -2, 0, 5], [0, 0, 3, -7], [1.5, 0, 0, 0], [0, 0, 0, 1]])], ids=["mm", "oriented"]
)
def test_no_iterations_is_plain_prediction(affine):
    spacing = float(np.abs(affine[:3, :3]).sum(0).min())
    fixed, moving = blobs(35, 38, 40, affine=affine), blobs(35, 38, 40, seed=1, affine=affine)
    grid = network_grid(prepare(fixed, None, 0.001, torch.device("cpu")), spacing)
    network = Network(smooth_velocity(*grid.shape)).train()
    inferer = InstanceOptimizationInferer(DENSE, 0, use_network=True, network_spacing=spacing, progress=False)
    (result,) = inferer([fixed], network, moving=[moving])
    stored = Grid.of(fixed)
    for got, velocity in ((result.forward_mm, network.velocity), (result.inverse_mm, -network.velocity)):
        displacement = from_voxels(DVF2DDF(padding_mode="border")(velocity)[0], grid)
        expected = warp(displacement, grid, None, stored, padding_mode="border")
        assert float((got - expected).abs().max()) < 0.05 * spacing
    assert network.training and network.state == (False, False)
    assert network.seen.shape[:2] == (1, 2) and all(n % 16 == 0 for n in network.seen.shape[2:])
    assert float(network.seen.min()) == 0 and float(network.seen.max()) <= 1


def test_the_network_sees_the_images_aligned():
    fixed = blobs(20, 22, 24)
    moving = MetaTensor(
        fixed.as_tensor().permute(0, 3, 1, 2).flip(1),
        affine=torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 23], [0, 0, 0, 1]], dtype=torch.float64),
    )
    network = Network(torch.zeros(1, 3, 20, 22, 24))
    inferer = InstanceOptimizationInferer(DENSE, num_iterations=0, use_network=True, network_spacing=1, divisible=1)
    (result,) = inferer([fixed], network, moving=[moving])
    assert network.seen.shape == (1, 2, 20, 22, 24)
    torch.testing.assert_close(network.seen[:, 0], network.seen[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.warped_moving.as_tensor(), fixed.as_tensor(), atol=1e-5, rtol=0)


def test_the_network_comes_after_the_affine():
    shape = (30, 30, 30)
    fixed, moving = blobs(*shape), blobs(*shape, seed=1)
    network = Network(torch.zeros(1, 3, *shape))
    long_steps = {"stages": [{"factor": 2, "iterations": 4, "learning_rate": 0.03}, *DENSE["stages"]], "multistart": "never"}
    options = {"preset": long_steps, "num_iterations": 0, "progress": False}
    (result,) = InstanceOptimizationInferer(use_network=True, network_spacing=1, **options)([fixed], network, moving=[moving])
    (affine,) = InstanceOptimizationInferer(**options)([fixed], None, moving=[moving])
    np.testing.assert_array_equal(result.affine, affine.affine)
    assert not np.allclose(affine.affine, np.eye(4), atol=1e-3)
    seen, expected = (x[..., 6:24, 6:24, 6:24].flatten() for x in (network.seen[0, 0], affine.warped_moving.as_tensor()[0]))
    assert float(torch.corrcoef(torch.stack((seen, expected)))[0, 1]) > 0.993
    assert float(torch.corrcoef(torch.stack((seen, moving[0, 6:24, 6:24, 6:24].as_tensor().flatten())))[0, 1]) < 0.99


def test_the_trained_basis_is_the_start():
    fixed, moving = blobs(24, 24, 24), blobs(24, 24, 24, seed=1)
    losses = [LocalLearnedBasisCRLoss(in_channels=2) for _ in range(2)]
    for number, basis in enumerate(x.basis for x in losses):
        torch.nn.init.constant_(basis.layers[-1].bias, 3.0 + number)
    options = {"use_network": True, "num_iterations": 0, "network_spacing": 1, "progress": False}
    network = Network(torch.zeros(1, 3, 24, 24, 24))
    inferer = InstanceOptimizationInferer(DENSE, **options, loss=RegistrationLoss(*losses))
    (result,) = inferer([fixed], network, moving=[moving])
    assert result.basis is not None
    assert (
        result.basis.forward["layers.2.bias"].tolist() == [3.0] * 5
        and result.basis.inverse["layers.2.bias"].tolist() == [4.0] * 5
    )
    with pytest.raises(InputError, match="num_basis"):
        wrong = RegistrationLoss(*(LocalLearnedBasisCRLoss(in_channels=2, num_basis=3) for _ in range(2)))
        InstanceOptimizationInferer(DENSE, **options, loss=wrong)([fixed], network, moving=[moving])
    other = InstanceOptimizationInferer(DENSE, **options, loss=RegistrationLoss(torch.nn.MSELoss()))  # has learned no basis
    assert other([fixed], network, moving=[moving])[0].basis is not None


@pytest.mark.slow
def test_another_measure():
    fixed, moving = blobs(24, 24, 24), blobs(24, 24, 24, seed=1)
    options = {"similarity": "mind_ssc", "similarity_options": {"radius": 1}}
    inferer = InstanceOptimizationInferer(DENSE, **options, progress=False)
    (result,) = inferer([fixed], None, moving=[moving])
    expected = register(fixed, moving, preset={**DENSE, **options}, progress=False)
    assert result.config == expected.config == inferer.config and torch.equal(result.forward_mm, expected.forward_mm)
    own = InstanceOptimizationInferer(DENSE, similarity=torch.nn.MSELoss(), progress=False)
    (result,) = own([fixed], None, moving=[moving])
    assert result.config.similarity == "custom" and float(result.forward_mm.std()) > 0
    learned = RegistrationLoss(*(LocalLearnedBasisCRLoss(in_channels=2) for _ in range(2)))
    after = {"use_network": True, "num_iterations": 0, "network_spacing": 1, "loss": learned}  # its basis is of no use here
    (result,) = InstanceOptimizationInferer(DENSE, **options, **after)(
        [fixed], Network(torch.zeros(1, 3, 24, 24, 24)), [moving]
    )
    assert result.basis is None
    with pytest.raises(InputError, match="mind_ssc has radius"):
        InstanceOptimizationInferer(DENSE, similarity="mind_ssc", similarity_options={"bins": 3})


def test_too_small_for_the_network():
    with pytest.raises(InputError, match="too few for the network"):
        image = blobs(16, 16, 16)
        InstanceOptimizationInferer(DENSE, 0, use_network=True, network_spacing=3)([image], lambda x: x, moving=[image])


@pytest.mark.slow
def test_optimization_starts_from_the_prediction():
    shape = (24, 24, 24)
    network = Network(smooth_velocity(*shape))
    fixed, moving = blobs(*shape), blobs(*shape, seed=1)
    options = {"use_network": True, "network_spacing": 1, "progress": False}
    dense = {"factor": 2, "iterations": 4, "spacing": 8, "learning_rate": 0.01}
    # short steps: where it began still shows
    gentle = {**PRESET, "stages": [PRESET["stages"][0], dense], "learning_rate_affine": 1e-3, "intersubject": "never"}
    (start,) = InstanceOptimizationInferer(gentle, 0, **options)([fixed], network, moving=[moving])
    (end,) = InstanceOptimizationInferer(gentle, 3, **options)([fixed], network, moving=[moving])
    moved = (end.forward_ddf - start.forward_ddf).abs().max()
    assert 0.001 < float(moved) < float(start.forward_ddf.abs().max()) / 2


def test_two_dimensions():
    fixed, moving = (MetaTensor(blobs(40, 46, 1, seed=s).as_tensor()[..., 0], affine=torch.eye(4)) for s in range(2))
    network = Network(smooth_velocity(40, 46))
    (result,) = InstanceOptimizationInferer(DENSE, 0, use_network=True, network_spacing=1)([fixed], network, moving=[moving])
    expected = DVF2DDF(padding_mode="border")(network.velocity)[0]
    assert float((result.forward_ddf - expected).abs().max()) < 0.05
    assert Grid.of(result.warped_moving).shape == (40, 46)


def test_misuse_is_named():
    image = blobs(16, 16, 16)
    inferer = InstanceOptimizationInferer(PRESET, use_network=True, network_spacing=1)
    with pytest.raises(ValueError, match="no network"):
        inferer([image], None, moving=[image])
    with pytest.raises(ValueError, match="must return a field"):
        inferer([image], lambda x: (x, x), moving=[image])
    with pytest.raises(ValueError, match="1 fixed images"):
        inferer([image], None, moving=[image, image])


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_has_diverged_is_refused(iterations, bad):
    image = blobs(16, 16, 16)
    velocity = torch.zeros(1, 3, 16, 16, 16)
    velocity[0, 1, 3, 4, 5] = bad
    inferer = InstanceOptimizationInferer(PRESET, iterations, use_network=True, network_spacing=1, progress=False)
    with pytest.raises(InputError, match="NaN or infinite; the training of the network may have diverged"):
        inferer([image], Network(velocity), moving=[image])


def test_a_loss_on_another_device_stays_there():
    similarities = [LocalLearnedBasisCRLoss(2, in_channels=2, rescale=False) for _ in range(2)]
    loss = RegistrationLoss(*similarities)
    moved = _on(torch.device("meta"), loss)
    assert moved is not loss and all(p.device.type == "meta" for p in moved.parameters())
    assert all(p.device.type == "cpu" for p in loss.parameters())
    assert _on(torch.device("cpu"), loss) is loss
    without = RegistrationLoss(torch.nn.MSELoss())
    assert _on(torch.device("meta"), without) is without


def test_small_pairs_of_a_batch_share_their_steps(monkeypatch):
    sizes, made = [], batch.BatchStep
    monkeypatch.setattr(batch, "BatchStep", lambda engines, steps: sizes.append(len(engines)) or made(engines, steps))
    fixed, moving = (torch.stack([blobs(16, 16, seed=s).as_tensor() for s in seeds]) for seeds in ((0, 1), (2, 3)))
    inferer = InstanceOptimizationInferer({**PRESET, "region": "image", "multistart": "never"}, progress=False)
    together = inferer(fixed, None, moving=moving)
    assert sizes == [2, 2]
    for k, result in enumerate(together):
        (alone,) = inferer(fixed[k : k + 1], None, moving=moving[k : k + 1])
        torch.testing.assert_close(result.forward_mm, alone.forward_mm, atol=2e-3, rtol=0)
