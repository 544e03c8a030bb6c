# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Estimated work and time of the Triton kernels of the loss, from their arithmetic; nothing is measured.

For each kernel and voxel: floating-point operations outside the tensor cores, load instructions of a thread, and bytes from and
to memory. Time is the largest of operations / peak, loads / rate of the caches, and bytes / bandwidth; the load that the caches
cannot serve with one access, and the latency that too few warps cannot hide, are not included.

    python benchmarks/estimate_kernels.py --size 256
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from loss import CHANNELS, HIDDEN, NUM_BASIS, SIGMA, STRIDE, TRUNCATED

WARP = 32  # threads
PADDED = 8  # rows and columns of a system in registers


def work() -> dict[str, tuple[float, float, float]]:
    """Operations, loads and bytes per voxel of each kernel, forward and backward without weights of the voxels."""
    layers = [CHANNELS * HIDDEN[0], HIDDEN[0] * HIDDEN[1], HIDDEN[1] * NUM_BASIS]
    features = NUM_BASIS + CHANNELS
    pairs = NUM_BASIS * (NUM_BASIS + 1) // 2 + NUM_BASIS * CHANNELS + CHANNELS
    window = (math.floor(2 * TRUNCATED * SIGMA) + 1) ** 3  # voxels of a window
    covering = (math.floor(2 * TRUNCATED * SIGMA / STRIDE) + 1) ** 3  # windows of a voxel
    windows = STRIDE**-3  # per voxel
    slopes = features * NUM_BASIS
    padded = PADDED * PADDED - NUM_BASIS * (NUM_BASIS + 1) // 2  # entries of A that are read twice, or masked
    # weights of the network are read as vectors of four, for two voxels (features) or one (gradient) of a thread
    images = 4 * (2 * CHANNELS)
    return {
        "features": (2 * sum(layers), sum(layers) / 4 / 2 + 2 * CHANNELS, images + 4 * features),
        "averages": (
            windows * window * (2 * pairs + features),
            windows * window * (features + 3),
            4 * (features + 2 * pairs * windows),
        ),
        "fit": (windows * _fit(1), windows * (pairs + padded), 4 * windows * (pairs + CHANNELS)),
        "gradient of the fit": (windows * _fit(2), windows * (pairs + padded), 4 * windows * (2 * pairs + 2 * CHANNELS)),
        "gradient": (
            2 * (sum(layers) + 2 * layers[0] + layers[2]) + covering * (2 * slopes + features),
            2 * sum(layers) / 4 + covering * (slopes + 3),
            images + 4 * (CHANNELS + 3 * slopes * windows),
        ),
    }


def _fit(solutions: int) -> int:
    """Operations of a window: elimination, and substitutions forth and back; entries are selected by masks, which count."""
    return NUM_BASIS * (8 * PADDED**2 + solutions * 2 * (3 * PADDED**2 + 4 * PADDED * CHANNELS))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, metavar="N", help="edge of a cube, voxels")
    parser.add_argument("--bandwidth-tb", type=float, default=2.5, help="TB/s that a kernel reaches (H100 SXM: 3.35 at most)")
    parser.add_argument("--peak-tflop", type=float, default=30, help="TFLOP/s in float32 that it reaches (67 at most)")
    parser.add_argument(
        "--loads-g", type=float, default=224, help="10^9 loads of a warp per second: 132 processors at 1.7 GHz, one each"
    )
    options = parser.parse_args(arguments)
    voxels, total = options.size**3, 0.0
    print("| kernel | GFLOP | G loads of a warp | GB | ms at least, limited by |\n| --- | --- | --- | --- | --- |")
    for name, (flops, loads, moved) in work().items():
        bounds = {
            "arithmetic": voxels * flops / (options.peak_tflop * 1e9),
            "loads": voxels * loads / WARP / (options.loads_g * 1e6),
            "bandwidth": voxels * moved / (options.bandwidth_tb * 1e9),
        }
        bound = max(bounds, key=lambda key: bounds[key])
        total += bounds[bound]
        cells = (voxels * flops / 1e9, voxels * loads / WARP / 1e9, voxels * moved / 1e9)
        print(f"| {name} | {cells[0]:.1f} | {cells[1]:.2f} | {cells[2]:.2f} | {bounds[bound]:.2f}, {bound} |")
    print(f"| all | | | | {total:.2f} |")


if __name__ == "__main__":
    main()
