# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Estimated load and time of a step of each stage on a GPU, counted on the CPU.

The engine takes one step of every stage of a preset with the chunk sizes of a GPU. For every operation that torch dispatches,
one launch, the bytes of its inputs and outputs, and the floating-point operations of its matrix products are counted
(elementwise operations count one each). Time is the largest of launches x overhead, bytes / bandwidth and flops / peak, summed
over stages. One-time costs (reading, pyramids, writing) are omitted, and no data is assumed to stay in a cache.

    python benchmarks/estimate.py --size 182x218x182 --preset default
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scaling import shape_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from monai_locor.losses.streaming import SLAB_BUDGET_MB
from monai_locor.registration import RegistrationConfig, RegistrationEngine, Start, resampling
from monai_locor.registration.start.prepare import prepare

FREE = ("detach", "alias", "lift_fresh", "_local_scalar_dense")  # neither a launch nor traffic


class Counter(TorchDispatchMode):
    """Launches, bytes and floating point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.flops = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if (
            func.is_view
            or func.overloadpacket.__name__ in FREE
            or func.overloadpacket.__name__.startswith(("empty", "new_empty"))
        ):
            return out
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        self.launches += 1
        self.bytes += sum(x.numel() * x.element_size() for x in [*read, *made] if x is not None)
        count = flop_registry.get(func.overloadpacket)
        self.flops += count(*args, **kwargs, out_val=out) if count else sum(x.numel() for x in made)
        return out


def pair(shape: Sequence[int]) -> list[torch.Tensor]:
    """Two images filled with structure; the counts do not depend on it."""
    return [torch.rand(1, *shape, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def count(shape: Sequence[int], preset: str) -> list[dict[str, Any]]:
    """One row for each stage."""
    config = RegistrationConfig.of(preset)
    images = [prepare(image, None, config.quantile, torch.device("cpu")) for image in pair(shape)]
    engine = RegistrationEngine(Start((images[0], images[1]), np.eye(len(shape) + 1)), config)
    resampling.BUDGET["cpu"] = resampling.BUDGET["cuda"]
    for loss in engine.losses:
        loss.memory_budget_mb = SLAB_BUDGET_MB["cuda"]
    rows = []
    for stage in config.stages:
        engine.enter(stage)
        with Counter() as counter:
            engine.step()
        rows.append({"stage": stage, "launches": counter.launches, "bytes": counter.bytes, "flops": counter.flops})
    return rows


def table(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown, with the sum in the last line."""
    lines = [
        "| sample distance | control points | steps | launches | GB | GFLOP | ms per step, limited by | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    total = 0.0
    for row in rows:
        stage = row["stage"]
        bounds = {
            "launches": row["launches"] * options.launch_us * 1e-6,
            "bandwidth": row["bytes"] / (options.bandwidth_tb * 1e12),
            "arithmetic": row["flops"] / (options.peak_tflop * 1e12),
        }
        bound = max(bounds, key=lambda name: bounds[name])
        seconds = bounds[bound] * stage.iterations
        total += seconds
        cells = [
            f"{stage.factor:g}",
            "affine" if stage.spacing is None else f"{stage.spacing:g}",
            stage.iterations,
            row["launches"],
        ]
        cells += [
            f"{row['bytes'] / 1e9:.2f}",
            f"{row['flops'] / 1e9:.1f}",
            f"{1e3 * bounds[bound]:.1f}, {bound}",
            f"{seconds:.2f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, f"| all | | | | | | | {total:.1f} |"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=shape_of, default=(182, 218, 182), metavar="N or XxYxZ")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--bandwidth-tb", type=float, default=2.5, help="TB/s that a kernel reaches (H100 SXM: 3.35 at most)")
    parser.add_argument(
        "--peak-tflop", type=float, default=30, help="TFLOP/s in float32 that it reaches (H100 SXM: 67 at most)"
    )
    parser.add_argument("--launch-us", type=float, default=6, help="microseconds from one launch to the next, Python included")
    options = parser.parse_args(arguments)
    rows = count(options.size, options.preset)
    size = " x ".join(map(str, options.size))
    print(
        f"{size} ({math.prod(options.size) / 1e6:.1f} million voxels each), preset {options.preset}; "
        f"{options.bandwidth_tb:g} TB/s, {options.peak_tflop:g} TFLOP/s, {options.launch_us:g} us per launch\n"
    )
    print(table(rows, options))


if __name__ == "__main__":
    main()
