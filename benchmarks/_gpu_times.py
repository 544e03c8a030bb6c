# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Parts of `gpu.py` that measure: the loss against others, training steps, and the limits of a step of each stage.

Times on a GPU are from its events, for each repetition separately, after untimed ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import loss as loss_script
import torch
from _gpu_engines import engine_of, short_preset
from _gpu_training import SHAPE, training_step
from _gpu_worker import Context, Row, guarded
from torch.profiler import ProfilerActivity, profile

from monai_locor.registration import RegistrationConfig, RegistrationEngine
from monai_locor.registration.graph import stepper

SIZES = (128, 192, 256)
ROWS = (loss_script.OURS, "this loss, rescaling", loss_script.EAGER, loss_script.LNCC, "MONAI mutual information")
# forward reads both images; backward reads them again and writes the gradient of one
FLOATS_MOVED = 5 * loss_script.CHANNELS
COPIED = 2**28  # floats
BRAIN = (182, 218, 182)


@dataclass(frozen=True)
class Timed:
    """Milliseconds of each repetition, and peak bytes above the initial ones (0 on the CPU)."""

    milliseconds: tuple[float, ...]
    bytes: int

    @property
    def median(self) -> float:
        """Median time, ms."""
        return statistics.median(self.milliseconds)


def timed(build: Callable[[], Callable[[], Any]], device: str, repeats: int, warm_up: int = 3) -> Timed:
    """Time what `build` returns; its inputs count as memory."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.init()  # the allocator knows nothing before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    step = build()
    for _ in range(warm_up):
        step()
    found = [(_on_gpu if cuda else _on_cpu)(step) for _ in range(repeats)]
    return Timed(tuple(found), torch.cuda.max_memory_allocated() - base if cuda else 0)


def _on_gpu(step: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _on_cpu(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def bandwidth(device: str, floats: int) -> float:
    """Bytes per second read and written by a copy within the device's memory."""
    source = torch.ones(floats, device=device)
    target = torch.empty_like(source)
    return 8 * floats / (1e-3 * timed(lambda: lambda: target.copy_(source), device, 10).median)


def loss_times(context: Context) -> Iterator[Row]:
    """Forward and backward of the loss, of the same formula in eager torch, MONAI's losses, and the time to move the bytes."""
    sizes = (16,) if context.smoke else SIZES
    rate = bandwidth(context.device, 2**16 if context.smoke else COPIED)
    yield {"what": "copy", "tb_s": rate / 1e12}
    floors: dict[int, float] = {}
    for size in sizes:
        floors[size] = 1e3 * FLOATS_MOVED * 4 * size**3 / rate
        yield {"what": "bytes moved once", "size": size, "ms": floors[size]}
    for name in ROWS:
        function, arguments = loss_script.ROWS[name]
        for size in sizes:
            if context.left() < 5:
                yield {"what": name, "size": size, "problem": "no time left"}
                continue
            row: Row = {"what": name, "size": size}
            yield guarded(row, lambda f=function, a=arguments, n=size: _loss_row(f, n, a, context, floors[n]))


def _loss_row(function: str, size: int, arguments: dict[str, Any], context: Context, floor: float) -> Row:
    build = getattr(loss_script, function)
    found = timed(lambda: build(size=size, device=context.device, **arguments), context.device, 2 if context.smoke else 10)
    spread = {"fastest": min(found.milliseconds), "slowest": max(found.milliseconds)}
    return {"ms": found.median, **spread, "times_floor": found.median / floor, "mib": found.bytes / 2**20}


def training(context: Context) -> Iterator[Row]:
    """Steps per second of the bundle's training with its settings, data in memory."""
    shape = (24, 24, 24) if context.smoke else SHAPE
    for batch in (1, 2):
        yield guarded({"batch": batch, "shape": "x".join(map(str, shape))}, lambda b=batch: _training_row(b, shape, context))


def _training_row(batch: int, shape: Sequence[int], context: Context) -> Row:
    found = timed(lambda: training_step(batch, shape, context.device), context.device, 2 if context.smoke else 20)
    return {"ms": found.median, "steps_s": 1e3 / found.median, "mib": found.bytes / 2**20}


def launches(context: Context) -> Iterator[Row]:
    """Kernels of one step of every stage of the default preset, and the share of its time in which the GPU is busy."""
    shape = (16, 16, 16) if context.smoke else BRAIN
    config = short_preset("default", 1) if context.smoke else RegistrationConfig.of("default")
    engine = engine_of(shape, config, context.device)
    for number, stage in list(enumerate(config.stages, 1))[-2 if context.smoke else 0 :]:
        engine.enter(stage)
        row = {"stage": number, "factor": stage.factor, "spacing": stage.spacing or "affine"}
        yield guarded(row, lambda: _profiled(engine.step, context.device) | _replayed(engine, context.device))


def _replayed(engine: RegistrationEngine, device: str) -> Row:
    """Milliseconds of a step of the stage replayed as a CUDA graph; of an ordinary one where it cannot be recorded."""
    step = stepper(engine)
    return {"replayed_ms": timed(lambda: step, device, 3).median}


def _profiled(step: Callable[[], Any], device: str) -> Row:
    cuda = device.startswith("cuda")
    wall = timed(lambda: step, device, 3).median
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        step()
        if cuda:
            torch.cuda.synchronize()
    events = list(found.events())
    on_gpu = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [event for event in on_gpu if not getattr(event, "is_user_annotation", False)]  # no spans such as an optimizer's
    busy = 1e-3 * sum(event.time_range.elapsed_us() for event in kernels)
    called = sum("LaunchKernel" in event.name for event in events)
    return {"ms": wall, "kernels": len(kernels), "launches": called, "busy": busy / wall}
