# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Time and memory of a registration against the size of its images.

Pairs of cubes filled with structure (no air that could be left out), each registered in a fresh process (see `_measure.py`).
Prints a Markdown table and the exponents of time and memory against the number of voxels (1 = linear).

    python benchmarks/scaling.py                                        # 64^3 to 256^3, default and fast
    python benchmarks/scaling.py --sizes 512x512x300 --presets fast --iterations 1   # does it fit?
    python benchmarks/scaling.py --sizes 512x512x300 --presets draft --memory 6GiB   # does it keep to a limit?
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from _measure import Measured, Spec, measure
from _ours import COST
from loss import machine

SIZES = ["64", "96", "128", "192", "256"]


def shape_of(text: str) -> tuple[int, ...]:
    """``"64"`` or ``"512x512x300"``."""
    numbers = tuple(int(n) for n in text.split("x"))
    if len(numbers) not in (1, 3) or min(numbers) < 16:
        raise argparse.ArgumentTypeError(f"{text}: give N or XxYxZ, 16 voxels or more")
    return numbers * 3 if len(numbers) == 1 else numbers


def pair_of(shape: Sequence[int]) -> list[np.ndarray]:
    """Structures of 10 voxels and some of 30 everywhere; the moving image has another contrast and is two voxels off.

    Position x of the fixed image corresponds to x + 2 along the first axis of the moving image.
    """
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(shape)
    for size, weight in ((10, 0.6), (30, 0.4)):
        noise = torch.rand(1, 1, *(max(2, n // size) for n in shape), generator=generator)
        image += weight * F.interpolate(noise, tuple(shape), mode="trilinear", align_corners=True)[0, 0]
    moving = (image - 0.4).square().roll(2, 0)
    return [(values / values.max() * 1000).numpy().astype(np.int16) for values in (image, moving)]


def write_pair(folder: Path, shape: Sequence[int]) -> None:
    """The images of `pair_of` as files, voxels of 1 mm."""
    for name, values in zip(("fixed", "moving"), pair_of(shape)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii.gz")


def presets(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Argument of `register` for each preset: its name, or a file with the limits of steps and memory."""
    if options.iterations is None and options.memory is None:
        return {name: name for name in options.presets}
    from monai_locor.registration import RegistrationConfig

    found = {}
    for name in options.presets:
        settings = RegistrationConfig.of(name).to_dict()
        settings["memory"] = options.memory
        for stage in settings["stages"]:
            if options.iterations is not None:
                stage["iterations"] = min(options.iterations, stage["iterations"])
        found[name] = str(folder / f"{Path(name).stem}.json")
        Path(found[name]).write_text(json.dumps(settings), encoding="utf-8")
    return found


def attempt(case: Path, preset: str, options: argparse.Namespace) -> Measured:
    """Register the pair once."""
    told = {"preset": preset, "seed": 0, "threads": options.threads, "save": False}
    arguments = {"tool": "monai_locor", "case": str(case), "out": str(case), "options": told}
    (case / COST).unlink(missing_ok=True)
    spec = Spec("_ours", "prepare", arguments, {"case": ""}, 0, options.threads, options.device, options.limit)
    problem = measure(spec).problem
    return Measured(problem=problem) if problem else Measured(**json.loads((case / COST).read_text(encoding="utf-8")))


def row_of(shape: Sequence[int], preset: str, cost: Measured) -> dict[str, Any]:
    """Numbers of one registration."""
    voxels = math.prod(shape)
    row = {"shape": list(shape), "voxels": voxels, "preset": preset, "problem": cost.problem}
    if cost.problem:
        return row
    return row | {
        "seconds": cost.seconds[0],
        "processor_seconds": cost.processor_seconds[0],
        "mib": cost.bytes / 2**20,
        "floats": cost.bytes / 4 / voxels,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| size | preset | seconds | CPU seconds | peak, MiB | floats per voxel |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        size = " x ".join(map(str, row["shape"]))
        if row["problem"]:
            lines.append(f"| {size} | {row['preset']} | failed: {row['problem']} | | | |")
            continue
        numbers = f"{row['seconds']:.1f} | {row['processor_seconds']:.1f} | {row['mib']:.0f} | {row['floats']:.1f}"
        lines.append(f"| {size} | {row['preset']} | {numbers} |")
    return "\n".join(lines)


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Exponents of time and memory against the number of voxels, for each preset with at least two sizes."""
    found = {}
    for preset in dict.fromkeys(row["preset"] for row in rows):
        good = [row for row in rows if row["preset"] == preset and not row["problem"]]
        if len({row["voxels"] for row in good}) > 1:
            x = np.log([row["voxels"] for row in good])
            found[preset] = {k: float(np.polyfit(x, np.log([row[k] for row in good]), 1)[0]) for k in ("seconds", "mib")}
    return found


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time and memory over voxels, both axes logarithmic, beside a line of exponent 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    good = [row for row in rows if not row["problem"]]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, (key, label) in zip(figure.subplots(1, 2), (("seconds", "seconds"), ("mib", "peak memory, MiB"))):
        for preset in dict.fromkeys(row["preset"] for row in good):
            points = np.array([(row["voxels"], row[key]) for row in good if row["preset"] == preset])
            ax.loglog(*points.T, "o-", label=preset)
            ax.loglog(points[:, 0], points[-1, 1] * points[:, 0] / points[-1, 0], ":", color="gray", linewidth=1)
        ax.set(xlabel="voxels", ylabel=label)
        ax.grid(alpha=0.3, which="both")
        ax.legend(title="dotted: linear")
    figure.savefig(path, dpi=150)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=shape_of, nargs="+", default=[shape_of(s) for s in SIZES], metavar="N or XxYxZ")
    parser.add_argument("--presets", nargs="+", default=["default", "fast"], metavar="PRESET")
    parser.add_argument("--iterations", type=int, metavar="N", help="limit for every stage")
    parser.add_argument("--memory", metavar="SIZE", help="limit of the registration's memory, such as 6GiB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=7200, metavar="SECONDS", help="time limit of a run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    about = machine(argparse.Namespace(device=options.device, threads=options.threads, repeats=1))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder)
        for shape in options.sizes:
            write_pair(case, shape)
            for name, preset in presets(options, case).items():
                rows.append(row_of(shape, name, attempt(case, preset, options)))
                print(table(rows).splitlines()[-1], file=sys.stderr)
    found = exponents(rows)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": about, "rows": rows, "exponents": found}, indent=2) + "\n", encoding="utf-8"
        )
    print(", ".join(f"{name} {value}" for name, value in about.items()) + "\n\n" + table(rows) + "\n")
    for preset, slopes in found.items():
        print(f"{preset}: time ~ voxels^{slopes['seconds']:.2f}, memory ~ voxels^{slopes['mib']:.2f}")
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
