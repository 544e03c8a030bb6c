# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""``python -m monai_locor.demo``: register two images and see how well it went.

Without arguments it makes a pair with a known answer, from brain images that the nilearn package ships, and reports
the target registration error. With ``--fixed`` and ``--moving`` it registers two files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor

import monai_locor

from .data.synthetic import deform, random_diffeomorphism
from .errors import InputError
from .geometry import Grid
from .geometry.warping import inside, mapped_points, warp
from .io import check_output_dir, read_image, write_displacement_field, write_image
from .metrics import jacobian_statistics, normalised_mutual_information, target_registration_error

__all__ = ["main"]


@dataclass(frozen=True)
class Case:
    """Two images, ``(1, *spatial)``, with the true displacement and where to measure, if they are known."""

    fixed: MetaTensor
    moving: MetaTensor
    title: str
    truth_mm: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration and print what came out.

    Args:
        argv: command line without the program's name; ``sys.argv`` if not given.

    Returns:
        Exit code: 0, or 2 after an error of the user's, told in one line on stderr.
    """
    try:
        for line in _run(_parser().parse_args(argv)):
            print(line, flush=True)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m monai_locor.demo", description=(__doc__ or "").replace("``", "").strip())
    parser.add_argument("--fixed", type=Path, help="image file; by default a pair with a known answer is made")
    parser.add_argument("--moving", type=Path, help="image file of any other modality")
    parser.add_argument("--output-dir", type=Path, default=Path("demo_output"), help="default: %(default)s")
    parser.add_argument("--preset", choices=("default", "fast"), default="default", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the made pair and of the registration")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size of the made pair, mm, 1 to 8")
    parser.add_argument("--device", help="such as cpu or cuda; by default chosen by the package")
    return parser


def _run(args: argparse.Namespace) -> Iterator[str]:
    """Do everything, telling it line by line."""
    _check(args)
    case = _files(args) if args.fixed else _known_answer(args)
    yield f"registering {case.title}, fixed {_size(case.fixed)}, moving {_size(case.moving)} ..."
    start = time.perf_counter()
    images = (args.fixed, args.moving) if args.fixed else (case.fixed, case.moving)  # files keep their names in messages
    result = monai_locor.register(*images, preset=args.preset, seed=args.seed, device=args.device)
    yield f"{time.perf_counter() - start:.1f} s"
    forward = result.forward_mm.detach().cpu()
    findings = [_accuracy(case, forward, result), _folding(case, forward, result)]
    yield from findings
    result.save(args.output_dir)
    _save_inputs(case, args.output_dir)
    yield _picture(case, forward, result, args.output_dir / "before_after.png", findings[0])
    yield f"in {args.output_dir}: " + ", ".join(sorted(p.name for p in args.output_dir.iterdir()))


def _check(args: argparse.Namespace) -> None:
    """What can be wrong before the long work starts."""
    if (args.fixed is None) != (args.moving is None):
        raise InputError("--fixed and --moving belong together: give both, or neither for the built-in pair")
    if args.seed < 0:
        raise InputError(f"--seed must not be negative, got {args.seed}")
    missing = [n for n in ("matplotlib", *(() if args.fixed else ("nilearn",))) if find_spec(n) is None]
    if missing:
        raise InputError(f"the demonstration needs {' and '.join(missing)}: pip install 'monai-locor[demo]'")
    args.output_dir = check_output_dir(args.output_dir)


def _known_answer(args: argparse.Namespace) -> Case:
    from .data.demo import mni152_pair

    t1, t2, brain = mni152_pair(args.spacing, args.seed)
    truth = random_diffeomorphism(Grid.of(t2), args.seed)
    return Case(deform(t2, truth), t1, "MNI152 T1 to deformed T2-like", truth, deform(brain, truth, "nearest"))


def _files(args: argparse.Namespace) -> Case:
    fixed, _ = read_image(args.fixed, "fixed")
    moving, _ = read_image(args.moving, "moving")
    return Case(fixed, moving, f"{args.moving.name} to {args.fixed.name}")


def _size(image: torch.Tensor) -> str:
    grid = Grid.of(image)
    return "x".join(map(str, grid.shape)) + " voxels of " + "x".join(f"{s:.3g}" for s in grid.spacing) + " mm"


def _accuracy(case: Case, forward: torch.Tensor, result: Any) -> str:
    """Error against the truth, or without one mutual information, which the registration did not optimise."""
    if case.truth_mm is not None:
        errors = [target_registration_error(u, case.truth_mm, case.mask) for u in (torch.zeros_like(forward), forward)]
        before, after = (f"{e.mean():.2f} mm (95 % below {e.quantile(0.95):.2f})" for e in errors)
        return f"target registration error {before} before, {after} after"
    grids = result.fixed_grid, result.moving_grid
    both = [inside(mapped_points(*grids, u), grids[1].shape) for u in (None, forward)]
    common = both[0] & both[1]  # the same voxels for both numbers
    if int(common.sum()) < 2:
        return "no voxel lies on both images before and after: mutual information cannot be compared"
    values = [
        normalised_mutual_information(case.fixed, warp(case.moving, grids[1], u, grids[0]), common) for u in (None, forward)
    ]
    return f"normalised mutual information {values[0]:.4f} before, {values[1]:.4f} after (no known answer, so no TRE)"


def _folding(case: Case, forward: torch.Tensor, result: Any) -> str:
    found = jacobian_statistics(forward, result.fixed_grid, case.mask)
    ndv = "not measured" if found["ndv"] is None else f"{found['ndv']:.2g} %"
    return (
        f"Jacobian determinant {found['min']:.2f} to {found['max']:.2f}, "
        f"folding {found['folding_percent']:.2g} % of voxels, non-diffeomorphic volume {ndv}"
    )


def _save_inputs(case: Case, folder: Path) -> None:
    for name, image in (("fixed", case.fixed), ("moving", case.moving), ("mask", case.mask)):
        if image is not None:
            write_image(folder / f"{name}.nii.gz", image, Grid.of(image))
    if case.truth_mm is not None:
        write_displacement_field(folder / "truth_field.nii.gz", case.truth_mm, Grid.of(case.fixed))


def _picture(case: Case, forward: torch.Tensor, result: Any, path: Path, finding: str) -> str:
    from .report import before_after_picture

    before = warp(case.moving, result.moving_grid, None, result.fixed_grid)
    after = result.warped_moving.detach().cpu()
    before_after_picture(path, case.fixed, before, after, f"{case.title}: {finding}", forward)
    return f"picture: {path}"


if __name__ == "__main__":
    sys.exit(main())
