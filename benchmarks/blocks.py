# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration in blocks: memory and time of a large pair, and the difference from a run in one block.

    python benchmarks/blocks.py memory --size 512 --preset draft    # OME-Zarr of 512^3 voxels; memory of all processes
    python benchmarks/blocks.py seams --size 96 --preset fast       # several blocks, one block, and two seeds of register

The pair is a specimen in an empty field of view: structures of several sizes, a smooth deformation of known size, two contrasts
and noise, uint16, voxels of 2 micrometers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from monai_locor import RegistrationConfig, register
from monai_locor.blockwise import register_blockwise
from monai_locor.blockwise.tiling import boxes
from monai_locor.geometry import Grid, warp
from monai_locor.io.ome_zarr import OmeZarrImage, create_ome_zarr
from monai_locor.registration.schedule import scaled_stage

SPACING_MM = 0.002
SCALE = 2  # voxels between the samples of the structures
NOISE = 0.02
SHIFT_VOXELS = 6.0  # largest displacement, about
SAMPLE_SECONDS = 0.25


def grid_of(size: int) -> Grid:
    """A cube in the axes of OME-Zarr."""
    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ np.full(3, (size - 1) / 2)
    return Grid((size,) * 3, affine)


def random_field(channels: int, nodes: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform noise in [-1, 1]."""
    return 2 * torch.rand(channels, nodes, nodes, nodes, generator=generator) - 1


def structures(size: int, radii: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Structures of three sizes, the inside of the specimen, and a displacement in mm, each on coarse nodes."""
    generator = torch.Generator().manual_seed(0)
    count = size // SCALE
    image = torch.zeros(1, 1, *[count] * 3)
    for width, weight in ((4, 0.5), (8, 0.6), (20, 0.6)):  # in samples
        noise = random_field(1, max(3, count // width), generator)[None]
        image += weight * torch.nn.functional.interpolate(noise, (count,) * 3, mode="trilinear", align_corners=True)
    axes = torch.linspace(-1, 1, count)
    place = torch.stack(torch.meshgrid(axes, axes, axes, indexing="ij"))
    distance = (place / torch.tensor(radii).view(3, 1, 1, 1)).square().sum(0).sqrt()
    inside = torch.sigmoid((1 - distance) * count / 4)
    shift = random_field(3, max(4, size // 48), generator) * SHIFT_VOXELS / 2 * SPACING_MM
    return image[0], inside[None], shift


def nodes_of(grid: Grid, count: int) -> Grid:
    """A grid of fewer nodes over the same field of view."""
    step = (np.array(grid.shape) - 1) / (count - 1)
    return Grid((count,) * 3, grid.affine @ np.diag([*step, 1.0]))


def write_pair(folder: Path, size: int, radii: Sequence[float]) -> None:
    """Write `fixed.ome.zarr`, `moving.ome.zarr` and, of small images, the true displacement."""
    grid, (image, inside, shift) = grid_of(size), structures(size, radii)
    both, fine = torch.cat((image, inside)), nodes_of(grid, image.shape[1])
    files = {name: create_ome_zarr(folder / f"{name}.ome.zarr", grid, np.dtype("uint16")) for name in ("fixed", "moving")}
    rng, truth = np.random.default_rng(1), []
    for box in boxes(grid.shape, (128, 128, 128)):
        part = grid.cropped(box)
        moved = warp(shift, nodes_of(grid, shift.shape[1]), None, part, padding_mode="border")
        truth.append((box, moved.numpy()))
        for name, displacement in (("fixed", moved), ("moving", None)):
            values, weight = warp(both, fine, displacement, part, padding_mode="border")
            shown = (torch.cos(3 * values) + 1.3 if name == "fixed" else values + 1.6) * weight
            noisy = shown.numpy() + NOISE * rng.standard_normal(part.shape, np.float32)
            files[name].write(box, np.clip(3000 * noisy + 200, 0, 65535).astype(np.uint16))
    if size <= 256:
        whole = np.empty((3, *grid.shape), np.float32)
        for box, values in truth:
            whole[(slice(None), *box)] = values
        np.save(folder / "truth.npy", whole)


def resident_bytes(root: int) -> int:
    """Resident memory of a process and of all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))

    def tree(process: int) -> Iterator[int]:
        yield process
        for child in children.get(process, []):
            yield from tree(child)

    total = 0
    for process in tree(root):
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue
    return total


def memory(args: argparse.Namespace) -> None:
    """Register a large pair in a child process, and print its peak of memory and its times."""
    folder = Path(args.folder or tempfile.mkdtemp())
    if not (folder / "moving.ome.zarr").exists():
        write_pair(folder, args.size, args.radii)
    words = [sys.executable, "-m", "monai_locor", "register", str(folder / "fixed.ome.zarr"), str(folder / "moving.ome.zarr")]
    words += [
        "-o",
        str(folder / "out"),
        "--blocks",
        args.block,
        "--preset",
        args.preset,
        "--resume",
        "--force",
        "--threads",
        "1",
    ]
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen(words) as child:
        while child.poll() is None:
            peak = max(peak, resident_bytes(child.pid))
            time.sleep(SAMPLE_SECONDS)
    summary = json.loads((folder / "out" / "run.json").read_text())
    tiles = summary["tiles"]
    print(
        f"{args.size}^3, {args.preset}, blocks {args.block}: peak {peak / 2**30:.2f} GiB, {time.perf_counter() - begin:.0f} s"
    )
    print(f"tiles {tiles['count']}, {tiles['registered']} with anatomy, {tiles['seconds']} s in tiles")
    print(json.dumps({key: summary[key] for key in ("jacobian", "inverse", "factor", "seconds")}))


def field_of(folder: Path) -> np.ndarray:
    """A forward field in voxels, RAS."""
    file = OmeZarrImage(folder / "forward_field.ome.zarr", "field")
    values = np.stack([file.read([slice(0, n) for n in file.shape], k) for k in range(3)])
    return values * np.array([-1, -1, 1]).reshape(3, 1, 1, 1) * 1e-3 / SPACING_MM


def seams(args: argparse.Namespace) -> None:
    """Compare a run in several blocks with one in one block, and with two seeds of `register`."""
    folder = Path(args.folder or tempfile.mkdtemp())
    if not (folder / "moving.ome.zarr").exists():
        write_pair(folder, args.size, args.radii)
    inputs, config = (folder / "fixed.ome.zarr", folder / "moving.ome.zarr"), RegistrationConfig.of(args.preset)
    found = {}
    for name, block in (("one block", args.size * 2), ("several blocks", int(args.block))):
        begin = time.process_time()
        result = register_blockwise(*inputs, folder / name, block=block, preset=config, progress=False, threads=1, force=True)
        found[name] = field_of(folder / name)
        print(name, result.summary["tiles"], f"{time.process_time() - begin:.0f} s here", flush=True)
        edges = result.summary["tiles"]["edges"]
    stages = (*(scaled_stage(stage, 2) for stage in config.stages), config.stages[-1])
    for seed in args.seeds:
        whole = register(*inputs, preset=dataclasses.replace(config, stages=stages), seed=seed, progress=False, device="cpu")
        found[f"register, seed {seed}"] = whole.forward_mm.numpy() / SPACING_MM
    report(found, folder, args, edges)


def report(found: dict[str, np.ndarray], folder: Path, args: argparse.Namespace, edges: Sequence[Sequence[int]]) -> None:
    """Print the errors, the differences, and the steps at the borders of the tiles."""
    truth = np.load(folder / "truth.npy", allow_pickle=False) / SPACING_MM
    image = OmeZarrImage(folder / "fixed.ome.zarr", "image").read([slice(0, args.size)] * 3)
    inside = image > 1000
    names = list(found)
    for name, field in found.items():
        print(f"{name}: error {np.linalg.norm(field - truth, axis=0)[inside].mean():.3f} voxels")
    for k, first in enumerate(names):
        for second in names[k + 1 :]:
            lengths = np.linalg.norm(found[first] - found[second], axis=0)[inside]
            print(f"{first} and {second}: median {np.median(lengths):.3f}, 95 % {np.percentile(lengths, 95):.3f} voxels")
    difference = found["several blocks"] - found["one block"]
    for axis, borders in enumerate(edges):
        steps = np.moveaxis(np.abs(np.diff(difference, axis=axis + 1)).max(0), axis, 0)
        at = [edge - 1 for edge in borders[1:-1]]
        rest = np.delete(steps, at, axis=0)
        print(
            f"axis {axis}: step between neighbors, 95 %: {np.percentile(steps[at], 95):.4f} at borders, "
            f"{np.percentile(rest, 95):.4f} elsewhere"
        )


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run, size, block in ((memory, 512, "auto"), (seams, 96, "64")):
        command = commands.add_parser(run.__name__)
        command.add_argument("--size", type=int, default=size)
        command.add_argument("--block", default=block)
        command.add_argument("--preset", default="draft")
        command.add_argument("--radii", type=float, nargs=3, default=[0.85, 0.8, 0.75], help="of the specimen, half sizes")
        command.add_argument("--folder", help="folder that is kept; a pair in it is used again")
        command.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
