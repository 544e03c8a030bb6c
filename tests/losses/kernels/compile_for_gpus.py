# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Compile the kernels as a call would, for GPUs that need not exist, and print their registers and memory as JSON lines.

Without Triton's interpreter: `test_compile.py` runs this in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from monai_locor.losses.kernels import launch, launch_fit
from monai_locor.losses.kernels.choice import MAX_FIT_CHANNELS, MAX_FIT_SIZE, FitOptions
from monai_locor.losses.products import LocalGram
from monai_locor.losses.streaming import StreamedWindows
from monai_locor.losses.windows import GridPlan, WindowPlan
from monai_locor.networks.basis import LearnedBasis

KERNELS = [
    *((launch, name) for name in ("lists_kernel", "features_kernel", "average_kernel", "gradient_kernel")),
    *((launch_fit, name) for name in ("residual_kernel", "residual_gradient_kernel")),
]
POINTERS = {torch.float32: "*fp32", torch.int32: "*i32"}
NUMBERS = {int: "i32", float: "fp32"}
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Recorder:
    """Takes the place of a kernel and keeps the arguments of its calls instead of running them."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.calls = kernel, []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *given, **named: self.calls.append((given, named))


def arguments(recorder: Recorder) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any], dict[str, int]]:
    """Types, constants, alignment and options of the first call, as Triton's compiler takes them."""
    given, named = recorder.calls[0]
    parameters = recorder.kernel.params
    values = dict(zip((p.name for p in parameters), given, strict=False))
    options = {name: named[name] for name in ("num_warps", "num_stages") if name in named}
    values |= {name: value for name, value in named.items() if name not in options}
    constants = {p.name: values[p.name] for p in parameters if p.is_constexpr}
    types = {
        name: "constexpr" if name in constants else POINTERS[x.dtype] if isinstance(x, torch.Tensor) else NUMBERS[type(x)]
        for name, x in values.items()
    }
    aligned = {(p.num,): [["tt.divisibility", 16]] for p in parameters if types[p.name].startswith("*")}
    return types, constants, aligned, options


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of a thread's stack (where registers are spilled) and of shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|SHARED):(\d+)", text)}


def record(num_basis: int, channels: int, extra: bool) -> list[Recorder]:
    """The kernels of one forward and one backward pass; ``extra``: with weights, means and the gradient of the target."""
    basis = LearnedBasis(channels, num_basis)
    plan = GridPlan([WindowPlan.gaussian(12, 0.8, 3.0, 3.0)] * 3, [True] * 3, torch.device("cpu"), torch.float32)
    windows = StreamedWindows(plan.centered, 1 << 22)
    images = (torch.rand(1, channels, 12, 12, 12), torch.rand(1, channels, 12, 12, 12), torch.ones(1, 1, 12, 12, 12))
    gram = LocalGram(basis, num_basis, channels, extra, extra)
    with contextlib.ExitStack() as stack:
        recorders = [stack.enter_context(recording(*kernel)) for kernel in KERNELS]
        fused = launch.FusedGram(gram, windows, (*images[:2], images[2] if extra else None), dict(basis.named_parameters()))
        maps = fused.average()
        fused.gradients(torch.zeros_like(maps), True, extra)
        if num_basis <= MAX_FIT_SIZE and channels <= MAX_FIT_CHANNELS:
            options = FitOptions(num_basis, channels, 1e-4, 1e-4 if extra else None)
            left = launch_fit.residual(options, maps.flatten(2))
            launch_fit.residual_gradient(options, maps.flatten(2), left, left)
    return [recorder for recorder in recorders if recorder.calls]


@contextlib.contextmanager
def recording(module: ModuleType, name: str) -> Iterator[Recorder]:
    """A recorder in the place of a kernel."""
    recorder = Recorder(getattr(module, name))
    setattr(module, name, recorder)
    try:
        yield recorder
    finally:
        setattr(module, name, recorder.kernel)


def compiled(capability: int, *sizes: tuple[int, int, bool]) -> Iterator[dict[str, Any]]:
    """One row for each kernel and configuration."""
    for num_basis, channels, extra in sizes:
        for recorder in record(num_basis, channels, extra):
            types, constants, aligned, options = arguments(recorder)
            source = ASTSource(recorder.kernel, types, constants, aligned)
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            row = {"kernel": recorder.kernel.fn.__name__, "capability": capability, "J": num_basis, "T": channels}
            yield row | {"extra": extra, "dynamic_shared": made.metadata.shared} | resources(made.asm["cubin"])


if __name__ == "__main__":
    for line in (*compiled(90, (5, 2, False), (8, 3, True)), *compiled(80, (5, 2, True))):
        print(json.dumps(line), flush=True)
