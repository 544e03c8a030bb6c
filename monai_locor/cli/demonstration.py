# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The demonstration: register two images, measure the result and draw it.

Without files it makes a pair with a known answer from the brain images that the nilearn package ships, and reports the target
registration error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor

from ..data.synthetic import deform, random_diffeomorphism
from ..geometry import Grid
from ..geometry.warping import inside, mapped_points, warp
from ..io import read_image, write_displacement_field, write_image
from ..metrics import jacobian_statistics, normalized_mutual_information, target_registration_error
from ..registration import register
from ..report import write_report
from ..report.summary import verdict_lines
from .jacobian import folding_line
from .transforms import size_of

__all__ = ["demonstrate"]


@dataclass(frozen=True)
class Case:
    """Two images, ``(1, *spatial)``, with the true displacement and where to measure, if they are known."""

    fixed: MetaTensor
    moving: MetaTensor
    title: str
    truth_mm: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def demonstrate(
    args: argparse.Namespace, tell: Callable[[str], None], picture: str, report: str, **options: Any
) -> dict[str, Any]:
    """Register, measure, and write the outputs.

    Args:
        args: the checked options of the command ``demo``.
        tell: takes a line of text for the user.
        picture: file name of the picture, in the output folder.
        report: file name of the report, in the output folder.
        options: of :func:`monai_locor.register`.

    Returns:
        the findings as plain values.

    Raises:
        InputError: for input that the registration refuses.
    """
    case = _files(args) if args.fixed else _known_answer(args)
    tell(f"registering {case.title}, fixed {size_of(Grid.of(case.fixed))}, moving {size_of(Grid.of(case.moving))} ...")
    start = time.perf_counter()
    images = (args.fixed, args.moving) if args.fixed else (case.fixed, case.moving)  # files keep their names in messages
    result = register(*images, preset=args.preset, seed=args.seed, device=args.device, **options)
    seconds = time.perf_counter() - start
    tell(f"{seconds:.1f} s")
    forward = result.forward_mm.detach().cpu()
    accuracy, values = _accuracy(case, forward, result)
    jacobian = jacobian_statistics(forward, result.fixed_grid, case.mask)
    tell(accuracy)
    tell(folding_line(jacobian))
    for line in () if result.verdict is None else verdict_lines(result.verdict):
        tell(line)
    result.save(args.output_dir)
    _save_inputs(case, args.output_dir)
    write_report(args.output_dir / report, result)
    tell(_picture(case, forward, result, args.output_dir / picture, accuracy))
    files = sorted(p.name for p in args.output_dir.iterdir())
    tell(f"in {args.output_dir}: " + ", ".join(files))
    verdict = None if result.verdict is None else result.verdict.to_dict()
    return {"seconds": seconds, **values, "verdict": verdict, "jacobian": jacobian, "folder": args.output_dir, "files": files}


def _known_answer(args: argparse.Namespace) -> Case:
    from ..data.demo import mni152_pair

    t1, t2, brain = mni152_pair(args.spacing, args.seed)
    truth = random_diffeomorphism(Grid.of(t2), args.seed)
    return Case(deform(t2, truth), t1, "MNI152 T1 to deformed T2-like", truth, deform(brain, truth, "nearest"))


def _files(args: argparse.Namespace) -> Case:
    fixed, _ = read_image(args.fixed, "fixed")
    moving, _ = read_image(args.moving, "moving")
    return Case(fixed, moving, f"{args.moving.name} to {args.fixed.name}")


def _accuracy(case: Case, forward: torch.Tensor, result: Any) -> tuple[str, dict[str, Any]]:
    """Error against the truth, or without one mutual information, which the registration did not optimize."""
    if case.truth_mm is not None:
        errors = [target_registration_error(u, case.truth_mm, case.mask) for u in (torch.zeros_like(forward), forward)]
        found = [{"mean": float(e.mean()), "p95": float(e.quantile(0.95))} for e in errors]
        before, after = (f"{e['mean']:.2f} mm (95 % below {e['p95']:.2f})" for e in found)
        line = f"target registration error {before} before, {after} after"
        return line, {"tre_mm": dict(zip(("before", "after"), found, strict=True))}
    grids = result.fixed_grid, result.moving_grid
    both = [inside(mapped_points(*grids, u), grids[1].shape) for u in (None, forward)]
    common = both[0] & both[1]  # the same voxels for both numbers
    if int(common.sum()) < 2:
        return "no voxel lies on both images before and after: mutual information cannot be compared", {"nmi": None}
    values = [
        normalized_mutual_information(case.fixed, warp(case.moving, grids[1], u, grids[0]), common) for u in (None, forward)
    ]
    line = f"normalized mutual information {values[0]:.4f} before, {values[1]:.4f} after (no known answer, so no TRE)"
    return line, {"nmi": dict(zip(("before", "after"), values, strict=True))}


def _save_inputs(case: Case, folder: Path) -> None:
    for name, image in (("fixed", case.fixed), ("moving", case.moving), ("mask", case.mask)):
        if image is not None:
            write_image(folder / f"{name}.nii.gz", image, Grid.of(image))
    if case.truth_mm is not None:
        write_displacement_field(folder / "truth_field.nii.gz", case.truth_mm, Grid.of(case.fixed))


def _picture(case: Case, forward: torch.Tensor, result: Any, path: Path, finding: str) -> str:
    from ..report import before_after_picture

    before = warp(case.moving, result.moving_grid, None, result.fixed_grid)
    after = result.warped_moving.detach().cpu()
    before_after_picture(path, case.fixed, before, after, f"{case.title}: {finding}", forward)
    return f"picture: {path}"
