# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of `gpu.py` that can fail: tests, agreement with the CPU, synchronization with the device."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from _gpu_engines import engine_of, short_preset
from _gpu_setup import ROOT
from _gpu_training import training_step
from _gpu_worker import Context, Row, guarded

from monai_locor import losses
from monai_locor.registration import RegistrationConfig, optimize
from monai_locor.registration.config import PRESETS
from monai_locor.registration.graph import stepper
from monai_locor.registration.similarity import SIMILARITIES, named_similarity

# folders whose tests use the fixture `device`, and the tests that need a GPU
TESTS = ("test_gpu.py", "losses", "geometry", "networks", "registration", "transforms", "metrics", "handlers", "inferers")
LOSS_SIZE, PAIR_SIZE, STEPS = 24, 40, 5
VALUE = {torch.float32: 1e-4, torch.float64: 1e-9}  # relative, with 1e-2 of it absolute
GRADIENT = {torch.float32: 2e-3, torch.float64: 1e-7}  # of the norm
FIELD_MM = 0.01  # 95 % of the voxels of a registration of a few steps


def tests(context: Context) -> Iterator[Row]:
    """The tests that need a GPU, and those with the fixture `device` on it."""
    folders = TESTS[:1] if context.smoke else TESTS
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu and not slow", "-q", "--tb=short", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *(str(ROOT / "tests" / name) for name in folders)]
        try:
            subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False, timeout=context.left() - 1)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"the tests took more than {error.timeout:.0f} s") from error
        yield summary(report, context.device)


def summary(report: Path, device: str) -> Row:
    """Counts and names of failures of a pytest report; without a GPU all tests are skipped."""
    found = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0, "time": 0.0}
    names = []
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        found = {key: value + type(value)(suite.get(key, 0)) for key, value in found.items()}
        bad = (case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None)
        names += [f"{case.get('classname')}::{case.get('name')}" for case in bad]
    failed = found["failures"] + found["errors"]
    passed = found["tests"] - failed - found["skipped"]
    row: Row = {"passed": passed, "failed": failed, "skipped": found["skipped"], "seconds": found["time"], "which": names}
    return row | ({"check": failed == 0 and passed > 0} if device != "cpu" else {})


def images(size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """A smooth image with noise, a function of it, and a mask: the input of each measure in a registration."""
    generator = torch.Generator().manual_seed(0)
    x = torch.stack(torch.meshgrid(*[torch.arange(size, dtype=torch.float64) / size] * 3, indexing="ij"))
    noise = torch.rand(2, size, size, size, generator=generator, dtype=torch.float64)
    image = 0.4 + 0.3 * (7 * x).sin().prod(0) + 0.1 * noise[0]
    target = (image - 0.5).square() * 2 + 0.1 * noise[1]
    mask = ((x - 0.5).square().sum(0) < 0.2).double()
    return [values[None, None].to(dtype) for values in (image, target, mask)]


def measures() -> dict[str, Callable[[], torch.nn.Module]]:
    """All measures of a registration, and the forms of the default one."""
    found: dict[str, Callable[[], torch.nn.Module]] = {}
    for name in SIMILARITIES:
        found[name] = lambda name=name: named_similarity(name, 3)
    for option in ({"form": "normalized"}, {"basis": "polynomial"}, {"rescale": True}):
        label = "locor, " + ", ".join(f"{key} {value}" for key, value in option.items())
        found[label] = lambda option=option: named_similarity("locor", 3, option)
    return found


def value_and_gradients(loss: torch.nn.Module, inputs: list[torch.Tensor], device: str) -> list[torch.Tensor]:
    """The value, and the gradients with respect to prediction and parameters; on the CPU in double precision."""
    pred, target, mask = (x.to(device) for x in inputs)
    pred.requires_grad_()
    there = copy.deepcopy(loss).to(pred).eval()
    value = there(pred, target, mask)
    value.backward()
    learned = [p.grad.flatten() for p in there.parameters() if p.grad is not None]
    found = [value.detach(), pred.grad, *([torch.cat(learned)] if learned else [])]
    return [x.cpu().double() for x in found]


def loss_agrees(make: Callable[[], torch.nn.Module], size: int, dtype: torch.dtype, device: str) -> Row:
    """Relative difference to the CPU of the value, and the largest of the gradients."""
    torch.manual_seed(0)
    loss = make()
    here, there = (value_and_gradients(loss, images(size, dtype), name) for name in ("cpu", device))
    value = float((here[0] - there[0]).abs() / (here[0].abs() + 1e-2))
    gradient = max(float((x - y).norm() / x.norm()) for x, y in zip(here[1:], there[1:]))
    return {"value": value, "gradient": gradient, "check": value <= VALUE[dtype] and gradient <= GRADIENT[dtype]}


def registration_agrees(shape: list[int], config: RegistrationConfig, device: str) -> Row:
    """Distance of two registrations with the same seed, mm."""
    fields = [optimize(engine_of(shape, config, name)).forward_mm().cpu().double() for name in ("cpu", device)]
    error = (fields[0] - fields[1]).norm(dim=0).flatten()
    p95 = float(error.quantile(0.95))
    return {"p95_mm": p95, "max_mm": float(error.max()), "check": p95 <= FIELD_MM}


def replay_agrees(shape: list[int], config: RegistrationConfig, device: str) -> Row:
    """Distance of two registrations, one with ordinary steps and one with replayed ones, mm; fails if none was recorded."""
    fields, recorded = [], []
    for choose in (stepper, lambda engine: engine.step):
        torch.manual_seed(0)
        engine = engine_of(shape, config, device)
        for stage in config.stages:
            engine.enter(stage)
            step = choose(engine)
            for _ in range(stage.iterations):
                step()
            recorded.append(getattr(step, "recorded", False))
        fields.append(engine.forward_mm().cpu().double())
    error = (fields[0] - fields[1]).norm(dim=0).flatten()
    p95, stages = float(error.quantile(0.95)), len(config.stages)
    complete = all(recorded[:stages]) or not device.startswith("cuda")
    return {"p95_mm": p95, "max_mm": float(error.max()), "check": p95 <= FIELD_MM and complete}


def agreement(context: Context) -> Iterator[Row]:
    """Value and gradient of every measure, and a registration of a few steps, on the device and on the CPU."""
    size = 12 if context.smoke else LOSS_SIZE
    for name, make in measures().items():
        for dtype in (torch.float32, torch.float64):
            row = {"what": name, "type": str(dtype).removeprefix("torch.")}
            yield guarded(row, lambda make=make, dtype=dtype: loss_agrees(make, size, dtype, context.device))
    config = short_preset("fast", 1 if context.smoke else STEPS)
    row = {"what": f"registration, {sum(stage.iterations for stage in config.stages)} steps", "type": "float32"}
    shape = [16 if context.smoke else PAIR_SIZE] * 3
    yield guarded(row, lambda: registration_agrees(shape, config, context.device))
    row = {"what": "the same, its steps replayed as a CUDA graph and not, both on the device", "type": "float32"}
    yield guarded(row, lambda: replay_agrees(shape, config, context.device))


@contextlib.contextmanager
def no_waits(device: str) -> Iterator[None]:
    """Raise an error on synchronization with the GPU; no effect on the CPU."""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(context: Context) -> Iterator[Row]:
    """Synchronization in one step of every stage of every preset and measure, in a training step, and in every loss."""
    shape = [16] * 3 if context.smoke else [48] * 3
    configs = {f"preset {name}": config for name, config in PRESETS.items()}
    configs |= {f"measure {name}": RegistrationConfig.of("fast").with_similarity(name) for name in SIMILARITIES}
    for name, config in configs.items():
        engine = engine_of(shape, config, context.device)
        for number, stage in enumerate(config.stages, 1):
            engine.enter(stage)
            yield _checked(f"{name}, stage {number}", lambda engine=engine: engine.step, context)
    yield _checked("training step", lambda: training_step(1, shape, context.device), context)
    for name in losses.__all__:
        if name != "RegistrationLoss":
            yield _checked(f"{name}(3)", lambda name=name: default_call(name, context.device), context)


def default_call(name: str, device: str) -> Callable[[], Any]:
    """Forward and backward of a loss with its defaults."""
    loss = getattr(losses, name)(3).to(device)
    channels = getattr(loss, "in_channels", 1)
    pred = torch.rand(1, channels, 24, 24, 24, device=device, requires_grad=True)
    target = torch.rand(1, channels, 24, 24, 24, device=device)
    return lambda: loss(pred, target).backward()


def _checked(what: str, make: Callable[[], Callable[[], Any]], context: Context) -> Row:
    """Run the call twice; report where the second one synchronizes."""

    def found() -> Row:
        call = make()
        call()
        where = ""
        try:
            with no_waits(context.device):
                call()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "monai_locor" in Path(f.filename).parts]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else str(error)
        return {"where": where} | ({} if context.device == "cpu" else {"check": not where})

    return guarded({"what": what, "where": ""}, found)
