# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The geometry around a network in training: directions, padding, weights, and any network that gives a field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks import DVF2DDF, Warp
from monai.networks.nets import LocalNet, RegUNet, VoxelMorph, VoxelMorphUNet
from scipy.ndimage import map_coordinates

from monai_locor.geometry import sample
from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.registration_loss import RegistrationLoss
from monai_locor.networks.forces import force_channels, forces
from monai_locor.networks.lattice import pooled
from monai_locor.networks.registration_network import RegistrationNetwork, small_head

KEYS = {"moving", "fixed", "ddf", "warped_moving", "weight"}
BOTH = KEYS | {"velocity", "inverse_ddf", "warped_fixed", "inverse_weight"}


class Constant(torch.nn.Module):
    """A field that does not depend on the images, of the size that it is asked for."""

    def __init__(self, field: torch.Tensor) -> None:
        super().__init__()
        self.field = torch.nn.Parameter(field)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen = image
        padding = [p for n, m in zip(reversed(image.shape[2:]), reversed(self.field.shape[2:])) for p in (0, n - m)]
        return torch.nn.functional.pad(self.field, padding, value=77.0)


def smooth(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(shape[0], shape[1], *(max(n // 5, 2) for n in shape[2:]), generator=torch.Generator().manual_seed(seed))
    mode = "trilinear" if len(shape) == 5 else "bilinear"
    return torch.nn.functional.interpolate(noise, shape[2:], mode=mode, align_corners=True)


def small_unet(dims: int = 3) -> VoxelMorphUNet:
    return VoxelMorphUNet(dims, 2, 4, [4, 4, 4, 4], [4])


@pytest.mark.parametrize("shape", [(14, 17, 11), (18, 21)])
def test_what_is_computed(device, shape):
    dims = len(shape)
    velocity = 0.8 * smooth(2, dims, *shape)
    moving, fixed = smooth(2, 3, *shape, seed=1).to(device), smooth(2, 2, *shape, seed=2).to(device)
    model = RegistrationNetwork(Constant(velocity), dims, divisible=8).to(device)
    out = model(moving, fixed)
    assert set(out) == BOTH
    torch.testing.assert_close(out["velocity"].cpu(), velocity)
    for name, sign in (("ddf", 1), ("inverse_ddf", -1)):
        torch.testing.assert_close(out[name].cpu(), DVF2DDF(6, padding_mode="border")(sign * velocity), atol=1e-4, rtol=0)
    for name, image, ddf in (("warped_moving", moving, "ddf"), ("warped_fixed", fixed, "inverse_ddf")):
        expected = Warp(padding_mode="zeros")(image, out[ddf])
        torch.testing.assert_close(out[name], expected, atol=1e-4, rtol=0)
    index = np.indices(shape) + out["ddf"][1].detach().cpu().numpy()
    independent = map_coordinates(moving[1, 0].cpu().numpy(), index, order=1, mode="grid-constant")
    inside = [slice(2, -2)] * dims
    np.testing.assert_allclose(
        out["warped_moving"][1, 0].detach().cpu().numpy()[tuple(inside)], independent[tuple(inside)], atol=1e-4
    )


def test_the_network_sees_first_channels_padded():
    network = Constant(torch.zeros(1, 3, 9, 10, 11))
    moving, fixed = smooth(1, 2, 9, 10, 11, seed=1), smooth(1, 2, 9, 10, 11, seed=2)
    RegistrationNetwork(network, divisible=8)(moving, fixed)
    assert network.seen.shape == (1, 2, 16, 16, 16)
    torch.testing.assert_close(network.seen[:, :, :9, :10, :11], torch.cat((moving[:, :1], fixed[:, :1]), 1))
    assert float(network.seen[..., 11:].abs().max()) == 0
    assert pooled(moving, 1).shape == moving.shape


@pytest.mark.parametrize("shape", [(13, 18, 16), (21, 24)])
def test_the_network_may_work_on_larger_voxels(shape):
    dims, factor = len(shape), 3
    coarse = tuple(-(-n // factor) for n in shape)
    velocity = 0.5 * smooth(1, dims, *coarse)
    moving, fixed = smooth(1, 1, *shape, seed=1), smooth(1, 1, *shape, seed=2)
    network = Constant(velocity)
    out = RegistrationNetwork(network, dims, divisible=2, downsampling=factor)(moving, fixed)
    torch.testing.assert_close(out["velocity"], velocity)
    first = network.seen[(0, 0, *(0,) * dims)]
    torch.testing.assert_close(first, moving[(0, 0, *(slice(factor),) * dims)].mean())
    assert all(n % 2 == 0 and n * factor >= m for n, m in zip(network.seen.shape[2:], shape))
    ddf = DVF2DDF(6, padding_mode="border")(velocity)[0].numpy()
    index = (np.indices(shape) - (factor - 1) / 2) / factor  # voxel 1 of three is the middle of the first large one
    expected = [factor * map_coordinates(component, index, order=1, mode="nearest") for component in ddf]
    np.testing.assert_allclose(out["ddf"][0].detach().numpy(), np.stack(expected), atol=1e-4)
    assert out["warped_moving"].shape == moving.shape


def test_weights_count_where_both_images_do():
    field = torch.zeros(1, 3, 8, 8, 8)
    field[:, 0] = 2  # reads two voxels further along the first axis
    still = torch.ones(1, 1, 8, 8, 8)
    moving_weight, fixed_weight = still.clone(), still.clone()
    moving_weight[:, :, 4] = 0
    fixed_weight[..., 7] = 0
    images = smooth(1, 1, 8, 8, 8, seed=1), smooth(1, 1, 8, 8, 8, seed=2)
    out = RegistrationNetwork(Constant(field), output="displacement", divisible=1)(*images, moving_weight, fixed_weight)
    expected = still.clone()
    expected[:, :, 2] = 0
    expected[:, :, 6:] = 0  # outside the moving image
    expected[..., 7] = 0
    torch.testing.assert_close(out["weight"], expected)
    assert not out["weight"].requires_grad
    free = RegistrationNetwork(Constant(field), output="displacement", divisible=1)(*images)
    assert free["weight"].sum() == 8 * 8 * 6


def test_fixed_and_moving_exchanged():
    """With the velocity negated and the images exchanged, all is exchanged."""
    velocity = 0.5 * smooth(1, 3, 12, 12, 12)
    moving, fixed = smooth(1, 1, 12, 12, 12, seed=1), smooth(1, 1, 12, 12, 12, seed=2)
    one = RegistrationNetwork(Constant(velocity), divisible=4)(moving, fixed)
    other = RegistrationNetwork(Constant(-velocity), divisible=4)(fixed, moving)
    for name, exchanged in (("ddf", "inverse_ddf"), ("warped_moving", "warped_fixed"), ("weight", "inverse_weight")):
        torch.testing.assert_close(one[name], other[exchanged])
    losses = [RegistrationLoss(LocalNormalizedCrossCorrelationLoss(), bending_weight=0)(out) for out in (one, other)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (small_unet(), {}),
        (small_unet(), {"output": "displacement"}),
        (VoxelMorph(small_unet()), {"inputs": "separate", "output": "displacement"}),
        (RegUNet(3, 2, 4, 2, out_kernel_initializer="zeros"), {}),
        (LocalNet(3, 2, 4, (0, 1, 2)), {}),
        (torch.nn.Conv3d(2, 3, 3, padding=1), {}),  # a user's own
    ],
    ids=["VoxelMorphUNet", "displacement", "VoxelMorph", "RegUNet", "LocalNet", "own"],
)
def test_any_network_trains(network, options):
    torch.manual_seed(0)
    moving, fixed = smooth(1, 2, 13, 17, 15, seed=1), smooth(1, 2, 13, 17, 15, seed=2)
    model = RegistrationNetwork(network, divisible=8, **options)
    loss = RegistrationLoss(*(LocalLearnedBasisCRLoss(in_channels=2) for _ in range(2)), bending_weight=1)
    out = model(moving, fixed)
    assert set(out) == (KEYS if options.get("output") == "displacement" else BOTH)
    loss(out).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients) and any(bool(g.any()) for g in gradients)
    assert loss.similarity.basis.layers[0].weight.grad.abs().max() > 0


def test_small_head():
    network = small_unet()
    torch.manual_seed(0)
    model = RegistrationNetwork(network, divisible=4, head_std=1e-5)
    ddf = model(smooth(1, 1, 8, 8, 8), smooth(1, 1, 8, 8, 8, seed=1))["ddf"]
    assert 0 < float(ddf.detach().abs().max()) < 1e-3
    with pytest.raises(ValueError, match="Linear has no convolution"):
        small_head(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("shape", [(14, 17, 11), (18, 21)])
def test_training_may_look_at_every_so_many_voxels(shape):
    """They are the voxels of the whole result, displacements in units of their distance."""
    dims = len(shape)
    coarse = [-(-n // 3) for n in shape]
    moving, fixed, weight = smooth(2, 2, *shape, seed=1), smooth(2, 2, *shape, seed=2), smooth(2, 1, *shape, seed=3).abs()
    model = RegistrationNetwork(Constant(0.5 * smooth(2, dims, *coarse)), dims, divisible=4, downsampling=3, stride=2)
    thin, full = model(moving, fixed, weight), model.eval()(moving, fixed, weight)
    assert set(thin) == set(full) == BOTH and full["ddf"].shape[2:] == fixed.shape[2:]
    for name in BOTH - {"velocity"}:
        every = full[name][(..., *(slice(1, None, 2),) * dims)]
        torch.testing.assert_close(thin[name], every / 2 if "ddf" in name else every, atol=1e-5, rtol=1e-5)
    loss = RegistrationLoss(torch.nn.L1Loss())
    torch.testing.assert_close(loss(thin, fixed), loss(thin))  # MONAI's trainer hands over the whole image


def guided(dims: int = 3, **options: object) -> tuple[RegistrationNetwork, RegistrationLoss]:
    loss = RegistrationLoss(*(LocalLearnedBasisCRLoss(dims, in_channels=1, rescale=False) for _ in range(2)))
    unet = VoxelMorphUNet(dims, 2 + force_channels(dims), 4, [4, 4, 4, 4], [4])
    return RegistrationNetwork(unet, dims, divisible=4, guide=loss, **options), loss


@pytest.mark.parametrize("dims", [2, 3])
def test_forces_point_to_where_the_loss_is_lower(dims):
    shape = (20,) * dims
    still = smooth(2, 1, *(40,) * dims)[(..., *(slice(8, 28),) * dims)]
    moved = still.roll(1, 2)  # moving(x) = fixed(x - 1): the displacement is 1 along the first axis

    def loss(field: torch.Tensor) -> torch.Tensor:
        points = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * dims, indexing="ij")) + field
        return (sample(moved, points) - still).square().mean()

    found = forces(loss, torch.zeros(2, dims, *shape))
    inside = found[(..., *(slice(3, -3),) * dims)]
    assert found.shape == (2, force_channels(dims), *shape) and not found.requires_grad
    assert float(inside[:, 0].mean()) > 5 * float(inside[:, 1:dims].mean().abs())
    assert float(found[:, dims:].square().sum(1).max()) <= 1.0
    torch.testing.assert_close(forces(lambda u: 1e3 * loss(u), torch.zeros(2, dims, *shape)), found)
    assert float(forces(lambda u: 0 * u.sum(), torch.zeros(1, dims, *shape)).abs().max()) == 0


@pytest.mark.parametrize("options", [{}, {"downsampling": 2, "stride": 2}])
def test_a_guide_is_not_learned_and_left_alone(options):
    model, loss = guided(**options)
    moving, fixed = (smooth(2, 1, 13, 16, 17, seed=s).sigmoid() for s in (1, 2))
    assert not {id(p) for p in loss.parameters()} & {id(p) for p in model.parameters()}
    loss.train(), model.train()
    state = {k: v.clone() for k, v in loss.state_dict().items()}
    out = model(moving, fixed)
    assert loss.training and all(torch.equal(v, state[k]) for k, v in loss.state_dict().items())
    assert all(p.grad is None for p in loss.parameters())
    loss(out).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*model.parameters(), *loss.parameters()))


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (RegUNet(3, 8, 4, 2, out_kernel_initializer="zeros"), {}),
        (LocalNet(3, 8, 4, (0, 1, 2)), {"downsampling": 2, "stride": 2}),
        (VoxelMorphUNet(3, 8, 4, [4, 4, 4, 4], [4]), {"output": "displacement"}),
        (torch.nn.Conv3d(8, 3, 3, padding=1), {}),  # a user's own
    ],
    ids=["RegUNet", "LocalNet", "displacement", "own"],
)
def test_any_network_can_be_guided(network, options):
    torch.manual_seed(0)
    moving, fixed = (smooth(1, 1, 24, 16, 20, seed=s).sigmoid() for s in (1, 2))
    loss = RegistrationLoss(*(LocalLearnedBasisCRLoss(in_channels=1, rescale=False) for _ in range(2)), bending_weight=1)
    model = RegistrationNetwork(network, divisible=8, guide=loss, **options)
    loss(model(moving, fixed)).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(bool(g.isfinite().all()) for g in gradients) and any(bool(g.any()) for g in gradients)


def test_a_guided_network_without_gradients_and_alone():
    """As MONAI's evaluators call it; what is predicted is the velocity of what is returned."""
    model, _ = guided(head_std=0.05)
    moving, fixed = (smooth(1, 1, 12, 16, 12, seed=s).sigmoid() for s in (1, 2))
    with torch.inference_mode():
        out = model.eval()(moving, fixed)
    torch.testing.assert_close(model.predict(moving, fixed), out["velocity"].clone())
    assert float(out["velocity"].abs().max()) > 0
    other = model.predict(moving, fixed.flip(2))
    assert not torch.allclose(other, out["velocity"].clone())


def test_the_network_may_run_in_low_precision():
    model = RegistrationNetwork(small_unet(), divisible=4)
    images = smooth(1, 1, 8, 8, 8), smooth(1, 1, 8, 8, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*images)
    assert all(value.dtype == torch.float32 for value in out.values())
    full = model(*images)
    assert float((out["ddf"] - full["ddf"]).abs().max()) < 0.02
    assert not torch.equal(out["ddf"], full["ddf"])  # it did


@pytest.mark.slow
def test_scripted_network():
    model = RegistrationNetwork(torch.jit.script(small_unet()), divisible=4)
    assert set(model(smooth(1, 1, 8, 8, 8), smooth(1, 1, 8, 8, 8, seed=1))) == BOTH


def test_misuse_is_named():
    image = smooth(1, 1, 8, 8, 8)
    for options, text in (
        ({"spatial_dims": 1}, "spatial_dims"),
        ({"divisible": 0}, "divisible"),
        ({"squarings": 1.5}, "squarings"),
    ):
        with pytest.raises(ValueError, match=text):
            RegistrationNetwork(small_unet(), **options)
    with pytest.raises(ValueError, match="velocity"):
        RegistrationNetwork(small_unet(), output="flow")
    with pytest.raises(ValueError, match="of one size"):
        RegistrationNetwork(small_unet())(image, image[..., :-1])
    with pytest.raises(ValueError, match="must return a field"):
        RegistrationNetwork(torch.nn.Conv3d(2, 2, 1))(image, image)
