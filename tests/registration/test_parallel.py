# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One pair in two processes, a direction each: the result of one process, and clear errors."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from monai_locor import register
from monai_locor.errors import InputError
from monai_locor.registration import Start
from monai_locor.registration.parallel import second_process
from monai_locor.registration.start.prepare import prepare

from ..phantoms import CUBE
from .short_runs import SHORT, TINY, errors

CPUS = ["cpu", "cpu"]


def end(exchange, start) -> None:
    """A second process that meets with an accident after one step."""
    exchange([torch.ones(3)])
    os._exit(7)


def never(exchange, start, unpicklable) -> None:
    """Is not reached: its arguments cannot be made in the other process."""


class Unwilling:
    """Pickles, but does not unpickle."""

    def __reduce__(self):
        return int, ("not a number",)


def start_of(images) -> Start:
    fixed, moving = (prepare(image, None, 0.001, torch.device("cpu")) for image in images[:2])
    return Start((fixed, moving), np.eye(4))


@pytest.mark.slow
def test_two_processes_agree_with_one(images):
    """To 0.05 mm (a voxel is 2 mm) where gradients differ in the last digit only; Adam then takes its own small ways."""
    one = register(*images[:2], preset=SHORT, device="cpu", progress=False)
    two = register(*images[:2], preset=SHORT, devices=CPUS, progress=False)
    for a, b in ((one.forward_mm, two.forward_mm), (one.inverse_mm, two.inverse_mm)):
        assert float((a - b).norm(dim=0).quantile(0.95)) < 0.05
    np.testing.assert_allclose(two.affine, one.affine, atol=1e-2)
    for a, b in zip(one.history, two.history, strict=True):
        np.testing.assert_allclose(b["loss"][:3], a["loss"][:3], atol=0.02)
        np.testing.assert_allclose(b["bending"], a["bending"], atol=0.02)
    before, after = errors(two, images[2])
    assert after < before / 5


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_threads_and_the_default_group_of_the_caller_are_left_alone(images, tmp_path):
    threads = torch.get_num_threads()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/mine", rank=0, world_size=1)
    try:
        register(*images[:2], preset=TINY, devices=CPUS, progress=False)
        assert dist.is_initialized() and dist.get_world_size() == 1
    finally:
        dist.destroy_process_group()
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_second_process_that_dies_ends_the_first(images):
    start = time.monotonic()
    process = second_process(end, torch.device("cpu"), start_of(images))
    with pytest.raises(RuntimeError, match="other direction has ended"), process as exchange:
        total = torch.ones(3)
        exchange([total])
        assert torch.equal(total, torch.full((3,), 2.0))
        exchange([total])
    assert time.monotonic() - start < 600  # and not until gloo gives up


@pytest.mark.slow
def test_a_second_process_that_does_not_start_is_not_waited_for(images, capfd):
    process = second_process(never, torch.device("cpu"), start_of(images), Unwilling())
    with pytest.raises(RuntimeError, match=r"exit code 1.*__main__"), process:
        pytest.fail("must not be reached")


@pytest.mark.parametrize("devices", [[], ["cpu"] * 3, "cpu", ["cpu", "nonsense"]], ids=str)
def test_devices_that_cannot_be(images, devices):
    with pytest.raises(InputError, match="device"):
        register(*images[:2], preset=TINY, devices=devices, progress=False)


def test_device_and_devices(images):
    with pytest.raises(InputError, match="either device or"):
        register(*images[:2], preset=TINY, device="cpu", devices=CPUS, progress=False)


@pytest.mark.slow
def test_one_device_in_a_list_is_one_device(images):
    found = register(*images[:2], preset=TINY, devices=["cpu"], progress=False)
    assert torch.equal(found.forward_mm, register(*images[:2], preset=TINY, device="cpu", progress=False).forward_mm)
    assert found.forward_mm.shape == (3, *CUBE.shape)
