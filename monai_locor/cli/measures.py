# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The measures of ``evaluate``, before and after a transform."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..roles import ROLES
from .transforms import check_formats, load_transforms

if TYPE_CHECKING:
    import torch

    from ..geometry import Grid, SpatialTransform

__all__ = ["evaluate"]

logger = logging.getLogger(__name__)


def evaluate(args: argparse.Namespace, labels: list[int] | None = None) -> dict[str, Any]:
    """Compute all measures that the arguments allow.

    Args:
        args: arguments of the command.
        labels: labels to evaluate.

    Returns:
        ``dice``, ``hd95_mm`` (``labels`` and ``mean``), ``tre_mm`` and ``nmi``, each ``before`` and, with a transform,
        ``after``; ``jacobian`` and ``inverse_consistency_mm`` of a transform.

    Raises:
        InputError: for files that cannot be read or do not match.
    """
    fixed, moving = _grid(args, "fixed"), _grid(args, "moving")
    transform = _transform(args, "transforms", fixed, moving) if args.transforms else None
    found: dict[str, Any] = {}
    if args.fixed_labels:
        found.update(_overlap(args, transform, labels))
    if args.fixed_points:
        grids = (fixed, moving) if args.pixels else (None, None)
        found["tre_mm"] = _landmarks((args.fixed_points, args.moving_points), grids, transform)
    if args.moving:
        found["nmi"] = _information(args, transform)
    if transform is not None:
        grid = fixed or transform.domain
        if grid is not None:
            found.update(_regularity(args, transform, grid, moving))
    return found


def _grid(args: argparse.Namespace, role: str) -> Grid | None:
    from ..io.grids import read_grid

    for path, what in ((getattr(args, role), f"{role} image"), (getattr(args, f"{role}_labels"), f"{role} labels")):
        if path is not None:
            return read_grid(path, what)
    return None


def _each(transform: SpatialTransform | None) -> Iterator[tuple[str, SpatialTransform | None]]:
    yield "before", None
    if transform is not None:
        yield "after", transform


def _overlap(args: argparse.Namespace, transform: SpatialTransform | None, labels: list[int] | None) -> dict[str, Any]:
    from ..geometry import Grid
    from ..metrics import dice_per_label, hausdorff_per_label, mean_over_labels
    from ..tensors import plain
    from .carried import load_carried

    fixed, moving = (load_carried(p, "labels", role) for p, role in _pair(args, "labels"))
    images = {role: _grid(args, role) for role in ROLES if getattr(args, role) is not None}
    fixed, moving = (each.beside(images.get(role)) for each, role in ((fixed, "fixed"), (moving, "moving")))
    grid = Grid.of(fixed.content)
    truth = plain(fixed.content)
    present = {int(v) for v in truth.unique().tolist()}
    missing = sorted(set(labels or ()) - present)
    if missing:
        raise InputError(
            f"--labels: {', '.join(map(str, missing))} not in fixed labels {args.fixed_labels}; it contains {_few(present)}"
        )
    found: dict[str, Any] = {"dice": {}, "hd95_mm": {}}
    if find_spec("scipy") is None:
        logger.warning("HD95 is not computed because SciPy is missing: pip install scipy")
    for when, through in _each(transform):
        moved = moving.labels_on(through, grid)
        values = {"dice": dice_per_label(truth, moved, labels)}
        if find_spec("scipy") is not None:
            values["hd95_mm"] = hausdorff_per_label(truth, moved, grid, labels=labels)
        for name, each in values.items():
            found[name][when] = {"labels": each, "mean": mean_over_labels(each)}
    return found


def _few(values: set[int]) -> str:
    shown = sorted(values)[:12]
    return ", ".join(map(str, shown)) + (", ..." if len(values) > len(shown) else "")


def _pair(args: argparse.Namespace, what: str) -> list[tuple[Path, str]]:
    return [(getattr(args, f"{role}_{what}"), role) for role in ROLES]


def _landmarks(
    paths: tuple[Path, Path], pixels_of: tuple[Grid | None, Grid | None], transform: SpatialTransform | None
) -> dict[str, Any]:
    import torch

    from ..io.points import matching_order, read_points

    fixed_path, moving_path = paths
    lists = [read_points(path, pixels_of=grid) for path, grid in zip(paths, pixels_of, strict=True)]
    fixed, moving = (torch.as_tensor(each.points).double() for each in lists)
    order = matching_order(*(each.labels for each in lists))
    if order is not None:
        moving = moving[order]
    if fixed.shape != moving.shape:
        raise InputError(
            f"fixed points {fixed_path}: {_count(fixed)}, moving points {moving_path}: {_count(moving)}; "
            "give the same landmarks in both, with the same labels or in the same order"
        )
    if transform is not None and fixed.shape[1] != transform.dims:
        raise InputError(f"fixed points {fixed_path}: {_count(fixed)}, but the transform is {transform.dims}-D")
    found = {}
    for when, through in _each(transform):
        errors = torch.linalg.vector_norm((fixed if through is None else through.points(fixed).cpu()) - moving, dim=1)
        found[when] = {**_distribution(errors), "median": float(errors.quantile(0.5)), "each": errors.tolist()}
    return found


def _count(points: torch.Tensor) -> str:
    return f"{points.shape[0]} points of {points.shape[1]} coordinates"


def _distribution(values: torch.Tensor) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "p95": None, "max": None}
    ordered = values.double().sort().values
    return {
        "mean": float(values.double().mean()),
        "p95": float(ordered[round(0.95 * (len(ordered) - 1))]),
        "max": float(ordered[-1]),
    }


def _information(args: argparse.Namespace, transform: SpatialTransform | None) -> dict[str, Any]:
    """NMI over the voxels where both images have data before and after, so that the two numbers are comparable."""
    from ..geometry import Grid, check_planes, inside, mapped_points, warp
    from ..io.images import read_image
    from ..metrics import normalized_mutual_information
    from .jacobian import mask_on

    fixed, moving = (read_image(getattr(args, role), role)[0] for role in ROLES)
    grids = Grid.of(fixed), Grid.of(moving)
    check_planes(*grids, (f"fixed image {args.fixed}", f"moving image {args.moving}"))
    fields = [None if through is None else through.displacement(grids[0]) for _, through in _each(transform)]
    common = mask_on(args.mask, grids[0])
    for field in fields:
        seen = inside(mapped_points(*grids, field), grids[1].shape)[None]
        common = seen if common is None else (common > 0) & seen
    if common is None or int(common.sum()) < 2:
        return {}
    values = [normalized_mutual_information(fixed, warp(moving, grids[1], field, grids[0]), common) for field in fields]
    return {when: {"value": value} for (when, _), value in zip(_each(transform), values, strict=True)}


def _transform(args: argparse.Namespace, which: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Load ``--transform`` or ``--inverse-transform``; the ``--from`` options list the formats of both in this order."""
    first, second = args.transforms or [], args.inverse_transform or []
    named = [name or "auto" for name in check_formats(args.formats, len(first) + len(second))]
    items, formats = (first, named[: len(first)]) if which == "transforms" else (second, named[len(first) :])
    return load_transforms(items, fixed=fixed, moving=moving, formats=formats)


def _regularity(args: argparse.Namespace, transform: SpatialTransform, grid: Grid, moving: Grid | None) -> dict[str, Any]:
    from ..metrics import inverse_consistency, jacobian_statistics
    from .jacobian import mask_on

    field, mask = transform.displacement(grid), mask_on(args.mask, grid)
    found: dict[str, Any] = {"jacobian": jacobian_statistics(field, grid, mask)}
    back = transform.inverse() if transform.known_inverse is not None else None
    if args.inverse_transform:
        back = _transform(args, "inverse_transform", moving, grid)
    if back is not None:
        other = moving or back.domain or grid
        found["inverse_consistency_mm"] = _distribution(inverse_consistency(field, grid, back.displacement(other), other, mask))
    return found
