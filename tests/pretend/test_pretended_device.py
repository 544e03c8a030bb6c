# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The pretended device refuses and counts what a GPU does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from .tensor import TwoDevicesError


@pytest.fixture
def x(cuda) -> torch.Tensor:
    there = torch.linspace(0, 1, 12).reshape(3, 4).to("cuda")
    cuda.forget()
    return there


MIXED = {
    "pointwise": lambda x: x + torch.ones(4),
    "product": lambda x: x @ torch.ones(4),
    "cat": lambda x: torch.cat([x, torch.ones(3, 4)]),
    "stack of numbers": lambda x: torch.stack([x.sum(), torch.ones(())]),
    "written on the host": lambda x: torch.zeros(()).add_(x.sum()),
    "host indexed from the device": lambda x: torch.ones(5)[x.long()[0]],
    "out": lambda x: torch.add(x, x, out=torch.empty(3, 4)),
    "two devices of the kind": lambda x: x + torch.ones(3, 4, device="cuda:1"),
    "generator of the host": lambda x: torch.rand(3, device="cuda", generator=torch.Generator()),
    "gradient of the host": lambda x: x.clone().requires_grad_().square().backward(torch.ones(3, 4)),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_two_devices_do_not_mix(x, operation):
    with pytest.raises(RuntimeError, match=r"two devices|generator of cpu|expected device cuda:0 but got cpu"):
        operation(x)


def test_the_operation_and_the_line_are_named(x):
    expected = r"^mul of tensors .*\(3, 4\) on cuda:0, \(4,\) on cpu @ tests\.pretend\.test_\w+:\d+"
    with pytest.raises(TwoDevicesError, match=expected):
        x * torch.ones(4)


WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 2).any()),
    "float": lambda x: float(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "copy_ to the host": lambda x: torch.empty(3, 4).copy_(x),
    "copy_ from the host": lambda x: x.copy_(torch.ones(3, 4)),
    "to the device": lambda x: torch.ones(3).to("cuda"),
    "made of numbers": lambda x: torch.tensor([1.0, 2.0], device="cuda"),
    "module to the device": lambda x: torch.nn.BatchNorm1d(3, affine=False, track_running_stats=True).to("cuda"),
    "mask": lambda x: x[x > 0.5],
    "written through a mask": lambda x: x.index_put_((x > 0.5,), x[0, :1]),
    "index from the host": lambda x: x[torch.tensor([0, 1])],
    "number from the host": lambda x: torch.where(x > 0.5, x, torch.ones(())),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "inverse": lambda x: torch.linalg.inv(x[:, :3] + torch.eye(3, device="cuda")),
}


@pytest.mark.parametrize("operation", WAITING.values(), ids=WAITING)
def test_what_waits_is_counted_with_its_line(cuda, x, operation):
    operation(x)
    assert cuda.record.waits and all(" @ tests.pretend.test_" in what for what in cuda.record.waits), cuda.record.waits


FREE = {
    "pointwise with numbers": lambda x: (2 * x + 1).clamp(0, 1) > torch.ones(()),
    "where": lambda x: torch.where(x > 0.5, x, 0),
    "filled through a mask": lambda x: x.__setitem__(x > 0.5, 0.0),
    "slices": lambda x: x[1:, ::2].__setitem__(slice(None), 3.0),
    "index on the device": lambda x: x[(x[0] > 0.5).long()],
    "without waiting": lambda x: torch.ones(3).to("cuda", non_blocking=True),
    "made there": lambda x: torch.arange(3, device="cuda") + torch.linspace(0, 1, 3, device="cuda"),
    "fft": lambda x: torch.fft.irfftn(torch.fft.rfftn(x).conj() * 2),
    "backward": lambda x: x.clone().requires_grad_().square().mean().backward(),
}


@pytest.mark.parametrize("operation", FREE.values(), ids=FREE)
def test_what_does_not_wait(cuda, x, operation):
    operation(x)
    assert not cuda.record.waits and cuda.record.launches


def test_numpy_is_refused(x):
    for convert in (np.asarray, lambda x: x.numpy()):
        with pytest.raises(TypeError, match="can't convert cuda"):
            convert(x)


def test_random_numbers_of_the_device_are_noted(cuda):
    torch.rand(3, device="cuda"), torch.rand(3).to("cuda"), torch.rand(3, generator=torch.Generator()).to("cuda")
    assert sum(cuda.record.draws.values()) == 1


def test_launches_and_memory(cuda, x):
    y = x.reshape(-1)[3:].view(3, 3).T
    assert not cuda.record.launches
    (y * 2).sum()
    assert cuda.record.launches == {"mul": 1, "sum": 1} and cuda.record.peak == 4 * (12 + 9 + 1)
    for _ in range(5):
        y * 2
    assert cuda.record.launches["mul"] == 6 and cuda.record.peak == 4 * (12 + 9 + 1)


def test_values_are_those_of_the_host(x):
    weight = torch.nn.Parameter(torch.ones(4, 2, device="cuda"))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    (x @ weight).square().sum().backward()
    optimizer.step()
    there, here = x.cpu(), torch.ones(4, 2)
    torch.testing.assert_close(weight.grad.cpu(), 2 * there.T @ (there @ here))
    torch.testing.assert_close(weight.detach().cpu(), here - 0.1)


def test_shapes_that_change_in_place(x):
    y = x.clone().unsqueeze_(1).transpose_(0, 2)
    assert y.shape == (4, 1, 3) and torch.equal(y.squeeze_(1).cpu(), x.cpu().T)
    torch.testing.assert_close(torch.quantile(x, 0.25).cpu(), torch.quantile(x.cpu(), 0.25))


def test_metatensors_keep_what_they_know(x):
    image = MetaTensor(x[None], affine=2 * torch.eye(4))
    assert isinstance(image, MetaTensor) and image.device.type == "cuda" and image.affine[0, 0] == 2
    torch.testing.assert_close((image > 0.5).float().sum(), (x > 0.5).float().sum(), check_device=True)
    for derived in (image + 1, image[:, 1:], image.clone(), image.cpu()):
        assert isinstance(derived, MetaTensor) and derived.affine[0, 0] == 2
    assert not isinstance(image.as_tensor(), MetaTensor) and type(image.cpu()) is MetaTensor


def test_modules_go_there(cuda):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).to("cuda")
    out = module(torch.ones(1, 1, 5, 5, device="cuda"))
    assert out.device.type == "cuda" and {p.device.type for p in module.parameters()} == {"cuda"}
    out.sum().backward()
    assert all(p.grad.device.type == "cuda" for p in module.parameters())
