# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""False PASS and false FAIL of the verdict on transforms with a known error.

    python benchmarks/verdict.py CASES --lines dev.jsonl             # resumable, one line per transform
    python benchmarks/verdict.py --lines dev.jsonl --table           # tables only

Cases are folders with a known truth, see benchmarks/README.md. Each is judged with its true transform, with the truth and an
error of known size, and with transforms that are wrong altogether, by `check`, that is without registering.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from _score import read_field
from _verdict_tables import tables
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from monai_locor.geometry import Grid, SpatialTransform, affine_about
from monai_locor.io import read_image
from monai_locor.metrics import jacobian_statistics
from monai_locor.metrics.jacobian import unmirrored
from monai_locor.quality import Outcome, Thresholds, Verdict, judge_outcome
from monai_locor.quality.reasons import RANK, ShiftLengths, reasons_of
from monai_locor.quality.rivals import Rival
from monai_locor.quality.samples import NUM_SAMPLES, every_nth

SHIFTS_MM = (1.0, 2.0, 4.0, 8.0)
TURNS_MM = (4.0, 8.0)  # mean error of a rotation
BENDINGS_MM = ((0.7, 40.0), (2.0, 20.0), (4.0, 20.0), (4.0, 40.0), (8.0, 40.0))  # mean error and correlation length
SLAB_MM = 20.0
INVERSE_VOXELS = 2**13  # of the moving grid, on which the inverse is computed


@dataclass(frozen=True, eq=False)
class Case:
    """A pair with a known truth, at the voxels that the verdict compares.

    Attributes:
        name: of the folder.
        fixed: intensities at every n-th voxel, ``(1, *grid)``.
        grid: of these voxels.
        moving: the moving image.
        points: world positions of the voxels, ``(*grid, 3)``.
        truth: their true positions in the moving image, likewise.
        mask: where the error is measured, ``(*grid)``.
    """

    name: str
    fixed: torch.Tensor
    grid: Grid
    moving: MetaTensor
    points: np.ndarray
    truth: np.ndarray
    mask: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> Case:
        """Read a case."""
        fixed, moving = (read_image(folder / f"{role}.nii.gz", role)[0] for role in ("fixed", "moving"))
        cut, grid = every_nth(Grid.of(fixed), NUM_SAMPLES)
        field = read_field(folder / "truth.nii.gz", nib.load(folder / "fixed.nii.gz"))[cut[1:]]
        mask = np.ones(grid.shape, dtype=bool)
        if (folder / "mask.nii.gz").exists():
            mask = (np.asarray(nib.load(folder / "mask.nii.gz").dataobj).reshape(fixed.shape[1:]) > 0)[cut[1:]]
        points = grid.points()
        return cls(folder.name, fixed[cut].as_tensor(), grid, moving, points, points + field, mask)

    @property
    def center(self) -> np.ndarray:
        """Center of the anatomy in the moving image, ``(3,)``."""
        return self.truth[self.mask].mean(0)

    def error(self, ends: np.ndarray) -> np.ndarray:
        """Errors of mapped points in the mask, ``(N,)`` mm."""
        return np.linalg.norm(ends - self.truth, axis=-1)[self.mask]


def wrong_by(case: Case, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The truth with errors of known size, by name: mapped points ``(*grid, 3)``."""
    truth, center = case.truth, case.center
    yield "truth", truth
    for mm in SHIFTS_MM:
        yield f"shift {mm:g} mm", truth + mm * _direction(rng)
    for mm in TURNS_MM:
        axis = _direction(rng)
        arms = np.linalg.norm(np.cross(truth[case.mask] - center, axis), axis=-1).mean()
        turn = Rotation.from_rotvec(axis * 2 * np.arcsin(min(1.0, mm / 2 / arms))).as_matrix()
        yield f"rotation {mm:g} mm", (truth - center) @ turn.T + center
    for mm, length in BENDINGS_MM:
        yield f"deformation {mm:g} mm, {length:g} mm", truth + _smooth(case, rng, mm, length)
    for axes in ((0, 1), (1, 2)):
        signs = np.where(np.isin(np.arange(3), axes), -1.0, 1.0)
        yield f"half turn {''.join('xyz'[a] for a in axes)}", (truth - center) * signs + center
    quarter = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix()
    yield "quarter turn", (truth - center) @ quarter.T + center
    yield "no transform", case.points


def _direction(rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_normal(3)
    return drawn / np.linalg.norm(drawn)


def _smooth(case: Case, rng: np.random.Generator, mean_mm: float, length_mm: float) -> np.ndarray:
    """A random displacement ``(*grid, 3)`` with this mean length in the mask and this correlation length."""
    step, low = length_mm / 2, case.points.reshape(-1, 3).min(0)
    shape = np.ceil((case.points.reshape(-1, 3).max(0) - low) / step).astype(int) + 7
    places = np.moveaxis((case.points - low) / step + 3, -1, 0)
    drawn = (gaussian_filter(rng.standard_normal(shape), 2.0) for _ in range(3))
    field = np.stack([map_coordinates(values, places, order=1) for values in drawn], -1)
    return field * mean_mm / np.linalg.norm(field, axis=-1)[case.mask].mean()


def verdict_of(case: Case, ends: np.ndarray, moving: torch.Tensor, box: Sequence[slice] | None = None) -> Verdict:
    """The verdict of `check` on mapped points.

    Args:
        case: the case.
        ends: mapped points, ``(*grid, 3)``.
        moving: moving image.
        box: fixed voxels to use, by default all.
    """
    cut = tuple(slice(0, n) for n in case.grid.shape) if box is None else tuple(box)
    grid, values = case.grid.cropped(cut), case.fixed[(slice(None), *cut)]
    field = torch.from_numpy(np.moveaxis(ends - case.points, -1, 0)[(slice(None), *cut)].copy()).float()
    coarse = every_nth(Grid.of(moving), INVERSE_VOXELS)[1]
    transform = SpatialTransform.of_field(field, grid)
    affine = transform.split(every_nth(grid, 2**12)[1]).steps[-1].matrix
    outcome = Outcome(
        fixed_grid=grid,
        moving_grid=Grid.of(moving),
        forward_mm=field,
        inverse_mm=transform.inverse(coarse).displacement(Grid.of(moving)),
        affine=affine,
        initial=None,
        jacobian=jacobian_statistics(unmirrored(field, grid, affine), grid),
        history=None,
        similarity="",
    )
    return judge_outcome(outcome, values, moving)


def judged(case: Case, other: Case | None, rng: np.random.Generator, done: set[str]) -> Iterator[dict[str, Any]]:
    """A record of every transform of a case that is not done.

    Args:
        case: the case.
        other: another one, for transforms and images of another pair.
        rng: random numbers.
        done: names of the transforms to leave out.
    """
    centered = case.points - case.points[case.mask].mean(0)
    for name, ends in wrong_by(case, rng):
        if name not in done:
            yield _record(case, name, case.error(ends), verdict_of(case, ends, case.moving))
    for axis in (0, 1):
        name = f"image mirrored {'xy'[axis]}"
        if name not in done:
            yield _record(case, name, np.full(1, np.inf), verdict_of(case, case.truth, _mirrored(case, axis)))
    if "itself" not in done:
        fixed = MetaTensor(case.fixed, affine=torch.from_numpy(case.grid.affine))
        yield _record(case, "itself", np.full(1, 0.1), verdict_of(case, case.points + 0.1, fixed))
    if "slab" not in done:
        yield _record(case, "slab", np.zeros(1), verdict_of(case, case.truth, case.moving, box=_slab(case)))
    if other is None:
        return
    if "transform of another pair" not in done:
        steps = SpatialTransform.of_field(np.moveaxis(other.truth - other.points, -1, 0).astype(np.float32), other.grid)
        ends = case.points + np.moveaxis(steps.displacement(case.grid).numpy(), 0, -1)
        yield _record(case, "transform of another pair", case.error(ends), verdict_of(case, ends, case.moving))
    if "image of another pair" not in done:
        ends = centered + other.center
        yield _record(case, "image of another pair", np.full(1, np.inf), verdict_of(case, ends, other.moving))


def _mirrored(case: Case, axis: int) -> MetaTensor:
    """The moving image, mirrored in the world about the center of the anatomy; its transform is still the truth."""
    matrix = affine_about(case.center, np.diag([-1.0 if k == axis else 1.0 for k in range(3)]))
    return MetaTensor(case.moving.as_tensor(), affine=torch.from_numpy(matrix @ Grid.of(case.moving).affine))


def _slab(case: Case) -> tuple[slice, ...]:
    """The middle of the mask, :data:`SLAB_MM` thick along the axis nearest to the head-feet axis."""
    axis = int(np.argmax(np.abs(case.grid.affine[2, :3])))
    middle = int(np.median(np.nonzero(case.mask)[axis]))
    half = max(1, round(SLAB_MM / 2 / float(case.grid.spacing[axis])))
    return tuple(
        slice(max(0, middle - half), middle + half + 1) if a == axis else slice(0, n) for a, n in enumerate(case.grid.shape)
    )


def _record(case: Case, name: str, errors: np.ndarray, verdict: Verdict) -> dict[str, Any]:
    found = {
        "case": case.name,
        "transform": name,
        "error_mm": float(errors.mean()),
        "error_p95_mm": float(np.percentile(errors, 95)),
    }
    checks = {reason.check: reason.status for reason in verdict.reasons}
    return {**found, "status": verdict.status, "checks": checks, "measures": verdict.measures}


def rejudged(line: Mapping[str, Any], registered: bool = False, limits: Thresholds | None = None) -> dict[str, Any]:
    """A record with the status of other thresholds; its measures are kept.

    Args:
        line: record of a transform in 3-D.
        registered: whether it is the result of a registration.
        limits: thresholds; by default the present ones.
    """
    known = {name: value for name, value in line["measures"].items() if value is not None}
    measures = defaultdict(lambda: math.nan, known)  # older lines lack measures that were added since
    leads = {mirrored: known.get(f"{name}_lead") for name, mirrored in (("rival", False), ("mirror", True))}
    assumed: Any = SimpleNamespace(
        affine=np.eye(4),
        start=np.eye(4),
        initial=np.eye(4) if registered else None,
        history=[] if registered else None,
        similarity="",
        transform="deformable",
        rivals=tuple(Rival("another", mirrored, lead) for mirrored, lead in leads.items() if lead is not None),
        fixed_grid=Grid((1, 1, 1), np.eye(4)),
        two_subjects=False,
    )
    found = {r.check: r.status for r in reasons_of(measures, limits or Thresholds(), ShiftLengths(1, 2, 3, 4), assumed)}
    other = {check: status for check, status in line["checks"].items() if check in ("warning", "finished")}
    checks = {**found, **other}
    return {**line, "status": max(["PASS", *checks.values()], key=RANK.index), "checks": checks}


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge all transforms of the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Path, help="folders of cases with truth.nii.gz")
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines; transforms in it are not judged again")
    parser.add_argument("--inexact", nargs="*", default=[], help="cases whose truth is not exact: never counted as right")
    parser.add_argument("--table", action="store_true", help="print the tables only")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folders = [] if args.table else [path for path in args.cases if (path / "truth.nii.gz").exists()]
    stored = args.lines.read_text(encoding="utf-8").splitlines() if args.lines.exists() else []
    lines = [rejudged(json.loads(line)) for line in stored]
    with args.lines.open("a", encoding="utf-8") as file:
        for folder, following in zip(folders, [*folders[1:], *folders[:1]], strict=True):
            done = {line["transform"] for line in lines if line["case"] == folder.name}
            case = Case.read(folder)
            other = Case.read(following) if following != folder else None
            rng = np.random.default_rng(zlib.crc32(folder.name.encode()))
            for record in judged(case, other, rng, done):
                lines.append(record)
                file.write(json.dumps(record) + "\n")
                file.flush()
                print(f"{record['case']}, {record['transform']}: {record['status']}", file=sys.stderr)
    print(tables(lines, set(args.inexact)))


if __name__ == "__main__":
    main()
