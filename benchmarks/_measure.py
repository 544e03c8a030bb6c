# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Time and peak memory of one callable, measured in a fresh interpreter.

A spec names a module of this folder, a function in it that builds the callable, its arguments, and the arguments of a tiny
instance that runs first. So one-time costs of the process (imports, thread pools, kernel selection) precede the measurement.

Memory is the peak resident set of the process from building the inputs to the last repetition, minus the resident set just
before. The kernel keeps this high-water mark (VmHWM in /proc/self/status) and resets it on request (/proc/self/clear_refs), so
no peak is missed and imports do not count. If the kernel refuses the reset, the mark of the whole process (ru_maxrss) is used.
On a GPU it is the peak of torch's allocator. One untimed repetition precedes the timed ones.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MARK = "measured: "
MEMORY_ERRORS = ("out of memory", "can't allocate memory", "not enough memory", "MemoryError", "std::bad_alloc")


@dataclass(frozen=True)
class Spec:
    """What to measure, and how."""

    module: str
    function: str
    arguments: dict[str, Any]
    tiny: dict[str, Any] = field(default_factory=dict)
    repeats: int = 5
    threads: int = 2
    device: str = "cpu"
    seconds: float = 1800


@dataclass(frozen=True)
class Measured:
    """Wall-clock and CPU seconds of each repetition, and peak bytes, or the reason why there are none."""

    seconds: tuple[float, ...] = ()
    processor_seconds: tuple[float, ...] = ()
    bytes: int = 0
    problem: str = ""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Measured:
        """What a process has printed."""
        return cls(tuple(found["seconds"]), tuple(found["processor_seconds"]), found["bytes"])

    @property
    def median(self) -> float:
        """Median time, seconds."""
        return statistics.median(self.seconds)


def measure(spec: Spec, python: str = sys.executable) -> Measured:
    """Run a spec in a new process of the interpreter `python`."""
    command = [python, __file__, json.dumps(asdict(spec))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=spec.seconds)
    except subprocess.TimeoutExpired:
        return Measured(problem=f"more than {spec.seconds:.0f} s")
    except OSError as error:
        return Measured(problem=f"not run ({error.strerror}: {python})")
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return Measured.of(json.loads(line[len(MARK) :]))
    if done.returncode == -9 or any(text in done.stderr for text in MEMORY_ERRORS):
        return Measured(problem="does not fit in memory")
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    missing = "ModuleNotFoundError" in lines[-1]
    return Measured(problem=f"not run ({lines[-1].split(': ', 1)[-1] if missing else lines[-1]})")


def _status(name: str) -> int:
    """A line of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _limit_memory() -> None:
    """Limit the memory of this process, so that a large allocation fails here instead of the kernel killing another process."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            most = _status("VmData") + int(0.9 * 1024 * int(line.split()[1]))
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _child(spec: Spec) -> dict[str, Any]:
    import torch

    torch.set_num_threads(spec.threads)
    cuda = spec.device.startswith("cuda")
    build = getattr(importlib.import_module(spec.module), spec.function)
    for _ in range(2):
        build(device=spec.device, **{**spec.arguments, **spec.tiny})()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    else:
        _limit_memory()
        known = _reset_peak()
        base = _status("VmRSS")
    step = build(device=spec.device, **spec.arguments)
    step()
    seconds, processor_seconds = [], []
    for _ in range(spec.repeats):
        if cuda:
            torch.cuda.synchronize()
        start, processor_start = time.perf_counter(), time.process_time()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - processor_start)
    if cuda:
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = _status("VmHWM") if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "processor_seconds": processor_seconds, "bytes": peak - base}


if __name__ == "__main__":
    print(MARK + json.dumps(_child(Spec(**json.loads(sys.argv[1])))))
