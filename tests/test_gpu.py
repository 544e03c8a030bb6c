# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What only a real GPU can show. The tests with the fixture `device` run on it as well; `pytest -m gpu` runs both kinds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from monai_locor import losses, register
from monai_locor.io import write_image
from monai_locor.registration.config import PRESETS
from monai_locor.registration.similarity import SIMILARITIES

from .phantoms import CUBE, pair
from .registration.short_runs import SHORT, TINY, difference, engine_of, errors, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "locor_registration" / "configs"
LOSSES = [name for name in losses.__all__ if name != "RegistrationLoss"]
MIB = 2**20


@pytest.fixture(scope="module")
def images() -> tuple:
    return pair()


@contextmanager
def no_waits() -> Iterator[None]:
    """An error where something waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def loss_call(name: str, size: int = 24) -> Callable[[], None]:
    """Forward and backward with the defaults."""
    loss = getattr(losses, name)(3).cuda()
    pred, target = torch.rand(2, 1, getattr(loss, "in_channels", 1), size, size, size, device="cuda")
    pred.requires_grad_()
    return lambda: loss(pred, target).backward()


def test_a_registration_finds_the_deformation_and_returns_to_the_host(images):
    found = run(*images[:2], SHORT, device="cuda")
    before, after = errors(found, images[2])
    assert after < before / 3
    tensors = (found.forward_mm, found.inverse_mm, found.warped_moving, found.warped_fixed, found.fixed_image)
    assert all(x.device.type == "cpu" for x in tensors)


def test_the_gpu_is_the_default_device(images):
    assert register(*images[:2], preset=TINY, progress=False).device.startswith("cuda")


@pytest.mark.parametrize("name", [n for n in SIMILARITIES if n != "locor"])
def test_every_measure_is_that_of_the_cpu(images, name):
    here, there = (run(*images[:2], TINY.with_similarity(name), device=device) for device in ("cpu", "cuda"))
    assert difference(here.forward_mm, there.forward_mm, CUBE) < 0.05


def test_the_random_state_of_the_gpu_is_the_callers(images):
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    run(*images[:2], TINY, device="cuda")
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_tf32_reaches_nothing(images, precision):
    expected = run(*images[:2], TINY, device="cuda").forward_mm
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cuda", torch.bfloat16):
            found = run(*images[:2], TINY, device="cuda").forward_mm
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.dtype == torch.float32 and difference(expected, found, CUBE) < 0.005


@pytest.mark.parametrize("preset", PRESETS)
def test_no_step_waits(images, preset):
    engine = engine_of(images, PRESETS[preset], "cuda")
    for stage in PRESETS[preset].stages:
        engine.enter(stage)
        engine.step()
        with no_waits():
            engine.step()


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits(name):
    call = loss_call(name)
    call()
    with no_waits():
        call()


def test_the_budget_bounds_the_memory_of_the_loss():
    """At 160^3 the products of all voxels would take 422 MiB, and the sums of all windows take 16, a few times."""
    loss = losses.LocalLearnedBasisCRLoss(3, in_channels=2, rescale=False, memory_budget_mb=128).cuda()
    pred, target = torch.rand(2, 1, 2, 160, 160, 160, device="cuda")
    pred.requires_grad_()
    loss(pred, target).backward()  # what is kept from call to call
    pred.grad = None
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loss(pred, target).backward()
    used = torch.cuda.max_memory_allocated() - base - pred.grad.nbytes
    assert used < (128 + 4 * 16) * MIB


@pytest.mark.filterwarnings("ignore:parsing config_file", "ignore:Using a non-tuple sequence")
def test_the_bundle_with_its_network(images, tmp_path):
    from monai.bundle import ConfigWorkflow

    for name, image in zip(("fixed", "moving"), images):
        write_image(tmp_path / f"{name}.nii.gz", image, CUBE)
    preset = tmp_path / "tiny.json"
    preset.write_text('{"stages": [{"factor": 2, "iterations": 1}, {"factor": 2, "iterations": 1, "spacing": 8}]}')
    told = {name: str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")}
    told |= {"preset": str(preset), "output_dir": str(tmp_path / "out"), "use_network": True, "device": "cuda"}
    workflow = ConfigWorkflow(str(BUNDLE / "inference.json"), workflow_type="infer", logging_file=False, **told)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert "forward_field.nii.gz" in os.listdir(tmp_path / "out")
