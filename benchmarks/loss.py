# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Time and memory of the loss, of other losses in MONAI and of the operations around it: forward and backward.

Every row and size runs in a fresh process (see `_measure.py`). Prints a Markdown table; `--json FILE` keeps the numbers.

    python benchmarks/loss.py --sizes 64 96 128 192 --threads 2
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _measure import Measured, Spec, measure
from _runs import commit_of

if TYPE_CHECKING:
    import torch

SIGMA, STRIDE, RIDGE, EPS, TRUNCATED = 0.8, 3, 1e-4, 1e-4, 3.0
NUM_BASIS, CHANNELS, HIDDEN = 5, 2, (16, 16)
OURS, EAGER, LNCC, ORIGINAL = "this loss", "same formula, eager", "MONAI LNCC, kernel 9", "original tool's loss"

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    OURS: ("ours", {}),
    "this loss, rescaling": ("ours", {"rescale": True}),
    "this loss, normalized": ("ours", {"form": "normalized"}),
    EAGER: ("eager", {}),
    LNCC: ("lncc", {}),
    "MONAI mutual information": ("mutual_information", {}),
    "MONAI DVF2DDF(7)": ("dvf2ddf", {}),
    "MONAI Warp": ("warp", {}),
    "MONAI BendingEnergyLoss": ("bending", {}),
    ORIGINAL: ("original", {}),
}
# the other measures of the package, one channel; only where `--rows` names them, or with `--measures`
MEASURES: dict[str, tuple[str, dict[str, Any]]] = {
    name: ("other", {"name": name})
    for name in (
        "MutualInformationLoss",
        "CorrelationRatioLoss",
        "LocalNCCLoss",
        "MINDSSCLoss",
        "SRWCRLoss",
        "LocalParzenCRLoss",
    )
}
MEASURES["RaPTOR"] = ("other", {"name": "LocalParzenCRLoss", "num_patches": 1000})


def _step(function: Callable[..., Any], *inputs: torch.Tensor) -> Callable[[], None]:
    """Forward and backward; gradients are reset each time."""

    def step() -> None:
        for x in inputs:
            x.grad = None
        function(*inputs).mean().backward()

    return step


def _images(size: int, channels: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    torch.manual_seed(0)
    pred = torch.rand(1, channels, size, size, size, device=device, requires_grad=True)
    return pred, torch.rand(1, channels, size, size, size, device=device)


def ours(size: int, device: str, rescale: bool = False, form: str = "log", fused: bool | None = None) -> Callable[[], None]:
    """The package's loss, two channels, learned basis."""
    from monai_locor.losses import LocalLearnedBasisCRLoss

    loss = LocalLearnedBasisCRLoss(3, CHANNELS, NUM_BASIS, HIDDEN, rescale=rescale, form=form, fused=fused).to(device)
    return _step(loss, *_images(size, CHANNELS, device))


def other(size: int, device: str, name: str, **options: Any) -> Callable[[], None]:
    """Another measure of the package, with its defaults, on one channel."""
    from monai_locor import losses

    return _step(getattr(losses, name)(3, **options).to(device), *_images(size, 1, device))


def eager(size: int, device: str) -> Callable[[], None]:
    """The formula in plain torch: 27 maps, strided separable convolution, batched solve, autograd."""
    import torch
    from torch import nn

    sizes = (CHANNELS, *HIDDEN, NUM_BASIS)
    layers = [module for a, b in itertools.pairwise(sizes) for module in (nn.Conv3d(a, b, 1), nn.ReLU())]
    basis = nn.Sequential(*layers[:-1], nn.Sigmoid()).to(device)
    rows, columns = torch.triu_indices(NUM_BASIS, NUM_BASIS, device=device)
    reach = math.ceil(TRUNCATED * SIGMA)

    def average(maps: torch.Tensor) -> torch.Tensor:
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=device) / SIGMA) ** 2)
        count = maps.shape[1]
        for axis in range(3):
            shape, stride, padding = [1, 1, 1], [1, 1, 1], [0, 0, 0]
            shape[axis], stride[axis], padding[axis] = -1, STRIDE, reach
            kernel = (taps / taps.sum()).view(1, 1, *shape).expand(count, -1, -1, -1, -1)
            maps = nn.functional.conv3d(maps, kernel, stride=stride, padding=padding, groups=count)
        return maps

    def loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        psi = basis(pred)
        cross = (psi[:, :, None] * target[:, None]).flatten(1, 2)
        maps = average(torch.cat([psi[:, rows] * psi[:, columns], cross, target**2], 1)).movedim(1, -1)
        upper, c, b = maps.split([len(rows), NUM_BASIS * CHANNELS, CHANNELS], -1)
        a = upper.new_zeros(*upper.shape[:-1], NUM_BASIS, NUM_BASIS)
        a[..., rows, columns] = upper
        a[..., columns, rows] = upper
        c = c.unflatten(-1, (NUM_BASIS, CHANNELS))
        theta = torch.linalg.solve(a + RIDGE * torch.eye(NUM_BASIS, device=device), c)
        residual = b - (c * theta).sum(-2) - RIDGE * (theta**2).sum(-2)
        return torch.log(residual.clamp_min(0) + EPS)

    return _step(loss, *_images(size, CHANNELS, device))


def lncc(size: int, device: str) -> Callable[[], None]:
    """MONAI's local normalized cross-correlation on one channel."""
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    return _step(LocalNormalizedCrossCorrelationLoss(3, kernel_size=9).to(device), *_images(size, 1, device))


def mutual_information(size: int, device: str) -> Callable[[], None]:
    """MONAI's global mutual information on one channel."""
    from monai.losses import GlobalMutualInformationLoss

    return _step(GlobalMutualInformationLoss().to(device), *_images(size, 1, device))


def _field(size: int, device: str) -> torch.Tensor:
    import torch

    torch.manual_seed(0)
    return torch.randn(1, 3, size, size, size, device=device).requires_grad_()


def dvf2ddf(size: int, device: str) -> Callable[[], None]:
    """Seven squarings of a stationary velocity field at full resolution."""
    from monai.networks.blocks import DVF2DDF

    return _step(DVF2DDF(num_steps=7, padding_mode="border"), _field(size, device))


def warp(size: int, device: str) -> Callable[[], None]:
    """Two channels through a displacement field, gradient to both."""
    from monai.networks.blocks import Warp

    return _step(Warp(), _images(size, CHANNELS, device)[0], _field(size, device))


def bending(size: int, device: str) -> Callable[[], None]:
    """Bending energy of a displacement field at full resolution."""
    from monai.losses import BendingEnergyLoss

    return _step(BendingEnergyLoss(), _field(size, device))


def original(size: int, device: str) -> Callable[[], None]:
    """The loss of the package `locor`, through its public functions, with the same options."""
    import torch
    from composable_mapping import CoordinateSystem, samplable_volume
    from locor.feature_extractor import FeatureExtractor
    from locor.gaussian_sampler import GaussianSampler
    from locor.local_least_squares_error import local_least_squares_error

    basis = FeatureExtractor(3, CHANNELS, list(HIDDEN), NUM_BASIS).to(device)
    grid = CoordinateSystem.voxel(spatial_shape=(size,) * 3, device=torch.device(device), dtype=torch.float32)
    windows = grid.reformat(downsampling_factor=STRIDE)

    def loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        sampler = GaussianSampler(
            truncate_at=[STRIDE / 2 + TRUNCATED * SIGMA] * 3,
            std=[SIGMA] * 3,
            mean=(STRIDE * (torch.rand(3) - 0.5)).tolist(),
        )
        volumes = (samplable_volume(x, coordinate_system=grid) for x in (basis(pred), target))
        return local_least_squares_error(*volumes, sampler=sampler, coordinates=windows, regularization=RIDGE, eps=EPS)

    return _step(loss, *_images(size, CHANNELS, device))


def run(options: argparse.Namespace) -> dict[str, dict[int, Measured]]:
    """Measure all rows at all sizes."""
    found: dict[str, dict[int, Measured]] = {}
    for name, (function, arguments) in (ROWS | MEASURES).items():
        if name not in options.rows:
            continue
        python = options.original_python if name == ORIGINAL else sys.executable
        for size in options.sizes:
            spec = Spec(
                "loss", function, {"size": size, **arguments}, {"size": 12}, options.repeats, options.threads, options.device
            )
            found.setdefault(name, {})[size] = measure(spec, python)
            print(f"{name}, {size}: {_cell(found[name][size])}", file=sys.stderr)
    return found


def _cell(m: Measured) -> str:
    if m.problem:
        return m.problem
    return f"{m.median:.3g} s ({min(m.seconds):.3g} to {max(m.seconds):.3g}), {m.bytes / 2**20:.0f} MiB"


def table(found: dict[str, dict[int, Measured]], sizes: Sequence[int]) -> str:
    """Rows by sizes: median seconds, fastest and slowest, peak MiB."""
    lines = [["forward and backward", *(f"{n}^3" for n in sizes)], ["---"] * (1 + len(sizes))]
    lines += [[name, *(_cell(row[n]) for n in sizes)] for name, row in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(found: dict[str, dict[int, Measured]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The table's numbers for `current.py`, a row for each size and loss; what could not be measured is left out."""
    measured = [(name, size, row[size]) for size in sizes for name, row in found.items() if not row[size].problem]
    return [{"row": name, "size": size, "seconds": m.median, "mib": round(m.bytes / 2**20)} for name, size, m in measured]


def exponent(row: dict[int, Measured], value: Callable[[Measured], float]) -> float:
    """Slope of log(value) against log(voxels), least squares; NaN with fewer than two sizes."""
    points = [(3 * math.log(n), math.log(max(value(m), 1e-9))) for n, m in row.items() if not m.problem]
    x0, y0 = (sum(p) / max(len(points), 1) for p in (zip(*points) if points else ((), ())))
    spread = sum((x - x0) ** 2 for x, _ in points)
    return sum((x - x0) * (y - y0) for x, y in points) / spread if spread else math.nan


def ratios(found: dict[str, dict[int, Measured]], sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Ratios of time and memory: other / ours, ours / LNCC (time), for each size, and the exponents."""
    mine, out = found.get(OURS), {}
    if mine is None:
        return out
    for n in sizes:
        entry: dict[str, float] = {}
        for name in (EAGER, ORIGINAL):
            if name in found and not (found[name][n].problem or mine[n].problem):
                entry[f"time, {name} / {OURS}"] = found[name][n].median / mine[n].median
                entry[f"memory, {name} / {OURS}"] = found[name][n].bytes / max(mine[n].bytes, 1)
        if LNCC in found and not (found[LNCC][n].problem or mine[n].problem):
            entry[f"time, {OURS} / {LNCC}"] = mine[n].median / found[LNCC][n].median
        out[f"{n}^3"] = entry
    out["exponent against voxels"] = {
        f"time, {OURS}": exponent(mine, lambda m: m.median),
        f"memory, {OURS}": exponent(mine, lambda m: m.bytes),
    }
    return out


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Date, hardware and versions."""
    import torch

    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    cuda = options.device.startswith("cuda")
    commit = commit_of(Path(__file__).parent)
    found = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(options.device) if cuda else processor,
        "threads": options.threads,
        "repeats": options.repeats,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return found | ({"commit": commit} if commit else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 192], help="edge of the cube, voxels")
    known = [*ROWS, *MEASURES]
    parser.add_argument("--rows", nargs="+", choices=known, default=list(ROWS), metavar="NAME", help="; ".join(known))
    parser.add_argument("--measures", action="store_true", help="also the other measures of the package")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument(
        "--original-python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter in which the package `locor` is importable",
    )
    options = parser.parse_args(arguments)
    options.rows += [name for name in MEASURES if options.measures and name not in options.rows]
    about = machine(options)
    found = run(options)
    compared = ratios(found, options.sizes)
    print(", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
    print(table(found, options.sizes) + "\n")
    for group, entry in compared.items():
        print(f"- {group}: " + "; ".join(f"{name} {value:.2f}" for name, value in entry.items()))
    if options.json:
        rows = {name: {str(n): asdict(m) for n, m in row.items()} for name, row in found.items()}
        content = {"machine": about, "rows": rows, "ratios": compared, "figures": figures(found, options.sizes)}
        options.json.write_text(json.dumps(content, indent=2).replace("NaN", "null") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
