# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Displacement fields and the warped image of a blockwise registration, computed and written block by block."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cohort.work import Outcome
from ..errors import InputError, one_line
from ..geometry import Grid, apply_affine, mapped_points, warp
from ..geometry.blocks import needed_box
from ..geometry.intensities import warp_intensities
from ..geometry.inversion import refined_inverse
from ..geometry.partition import grown
from ..io.lps import lps_signs
from ..io.ome_zarr import NewImage, create_ome_zarr
from ..io.ome_zarr.multiscales import LENGTH_UNITS
from ..io.ome_zarr.writing import CHUNK_VOXELS, fitting_unit
from ..io.paths import write_json
from ..io.transforms.zarr_fields import FIELD_KIND
from ..metrics import jacobian_determinant
from ..metrics.jacobian import unmirrored
from ..networks.exponential import squarings_for
from ..registration.coordinates import ForwardCoordinates
from .checks import FIELDS, WARPED
from .state import BlockState
from .tile import BlockJob, threads_of
from .tiling import Box, boxes
from .velocity import box_around, exponential_mm

__all__ = ["FieldPlan", "compute_block", "field_boxes", "prepare_fields"]

BLOCK_CHUNKS = {2: 4, 3: 2}  # chunks along each axis of a block
SPREAD_STEP = 4  # every fourth voxel along each axis: where the inverse is checked
FIELD_OWN = {"kind": FIELD_KIND, "vectors": "LPS, in the unit of the axes, with the affine"}


@dataclass(frozen=True)
class FieldPlan:
    """The values that the blocks of the fields depend on, besides the tiles.

    Attributes:
        folder: output folder.
        squarings: number of squarings of the exponential.
        reach_mm: how far a point may move by the deformation.
        units: unit of length of the fixed and the moving image.
    """

    folder: str
    squarings: int
    reach_mm: float
    units: tuple[str, str]


def prepare_fields(state: BlockState, folder: Path, version: str, inverse: bool) -> FieldPlan:
    """Create the output files, and write the plan of the fields.

    Args:
        state: with all tiles.
        folder: output folder.
        version: of OME-Zarr.
        inverse: whether to write the inverse field.
    """
    records = [state.record("tile", number) or {} for number in state.plan.tiling]
    coarse = float(state.coarse.on(state.coarse.lattice).abs().max())
    largest = max([coarse, *(float(r.get("largest_mm", 0.0)) for r in records)])
    squarings = squarings_for(largest / state.plan.step, state.plan.config.squarings)
    images = {"fixed": state.fixed.image, "moving": state.moving.image}
    units = {role: image.unit or fitting_unit(image.grid) for role, image in images.items()}
    dims, moving = state.fixed.grid.dims, state.moving.image
    options: dict[str, Any] = {"version": version}
    components = ("x", "y", "z")[:dims]
    made = [(FIELDS["forward"], "fixed", np.float32, components)]
    made += [(FIELDS["inverse"], "moving", np.float32, components)] if inverse else []
    made += [(WARPED, "fixed", moving.dtype, ())]
    for name, role, dtype, names in made:
        if not (folder / name).exists():
            own = {**FIELD_OWN, "direction": name.split("_")[0]} if names else {}
            grid = images[role].grid
            create_ome_zarr(folder / name, grid, np.dtype(dtype), components=names, unit=units[role], own=own, **options)
    plan = FieldPlan(str(folder), squarings, largest * dims**0.5, (units["fixed"], units["moving"]))
    write_json(state.folder / "fields.json", dataclasses.asdict(plan))
    return plan


def field_boxes(grid: Grid) -> list[Box]:
    """The blocks of a field: whole chunks of its file, so that they can be written at the same time."""
    return boxes(grid.shape, [CHUNK_VOXELS[grid.dims] * BLOCK_CHUNKS[grid.dims]] * grid.dims)


def compute_block(job: BlockJob) -> Outcome:
    """Compute and write a block of the forward field and the warped image, or of the inverse field."""
    state, begin = BlockState(Path(job.folder)), time.perf_counter()
    done = state.record(job.kind, job.number)
    if done is not None:
        return Outcome(done)
    try:
        values = json.loads((state.folder / "fields.json").read_text(encoding="utf-8"))
        plan = FieldPlan(**{**values, "units": tuple(values["units"])})
        with threads_of(job), torch.no_grad():
            record = (_forward if job.kind == "forward" else _inverse)(state, plan, job.number)
        record = {**record, "seconds": round(time.perf_counter() - begin, 3)}
        write_json(state.record_path(job.kind, job.number), record)
        return Outcome(record)
    except (InputError, OSError, RuntimeError, ValueError, MemoryError) as error:
        return Outcome(error=one_line(error) or type(error).__name__, seconds=time.perf_counter() - begin)


def _affine_mm(matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """The displacement of an affine map, ``(D, *grid)``, mm."""
    return ForwardCoordinates(grid, grid, grid, None).displacement_mm(torch.from_numpy(matrix), None)


def _deformation(state: BlockState, plan: FieldPlan, points: np.ndarray, signs: Sequence[float]) -> tuple[torch.Tensor, Grid]:
    """The displacements of ``exp(sign * v)`` on the points of the lattice around world points ``(N, D)``, and their grid.

    The margin contains the paths of all points, so that the result does not depend on where the block ends.
    """
    margin = int(np.ceil(plan.reach_mm / state.plan.step)) + 2
    box = box_around(state.lattice, points, margin)
    part = state.lattice.cropped(box)
    return exponential_mm(state.velocity(box), part, plan.squarings, signs), part


def _forward(state: BlockState, plan: FieldPlan, number: int) -> dict[str, Any]:
    """A block of the forward field and of the warped image."""
    image, box = state.fixed.image, field_boxes(state.fixed.image.grid)[number]
    around = grown(box, image.grid.shape, 1)
    part, matrix = image.grid.cropped(around), state.plan.affine
    deformation, lattice = _deformation(state, plan, part.corners(), [1.0])
    moved = warp(deformation[0], lattice, None, part, padding_mode="border")
    linear = torch.from_numpy(matrix[:-1, :-1].copy()).float()
    total = _affine_mm(matrix, part) + torch.tensordot(linear, moved, dims=1)
    inner = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, box, strict=True))
    determinant = jacobian_determinant(unmirrored(total, part, matrix), part)[inner]
    vectors = (slice(None), *inner)
    total = total[vectors].contiguous()
    _write_field(Path(plan.folder) / FIELDS["forward"], box, total, plan.units[0])
    warped = _warped(state, image.grid.cropped(box), total)
    NewImage(Path(plan.folder) / WARPED, False).write(box, warped)
    return {
        "voxels": determinant.numel(),
        "folding_voxels": int((determinant <= 0).sum()),
        "least_jacobian": float(determinant.min()),
        "most_jacobian": float(determinant.max()),
    }


def _warped(state: BlockState, part: Grid, total: torch.Tensor) -> np.ndarray:
    """The moving image on a part of the fixed grid, in its type."""
    moving, lowest = state.moving.image, state.plan.moving.lowest
    needed = needed_box(mapped_points(part, moving.grid, total), moving.grid.shape, 2)
    if needed is None:
        return np.full(part.shape, lowest, moving.dtype)
    values = torch.from_numpy(np.ascontiguousarray(moving.read(needed)))[None]
    return warp_intensities(values, moving.grid.cropped(needed), total, part, background=lowest)[0].numpy()


def _inverse(state: BlockState, plan: FieldPlan, number: int) -> dict[str, Any]:
    """A block of the inverse field."""
    grid, box = state.moving.image.grid, field_boxes(state.moving.image.grid)[number]
    part, matrix = grid.cropped(box), state.plan.affine
    back = np.linalg.inv(matrix)
    corners = apply_affine(back, part.corners())
    deformation, lattice = _deformation(state, plan, corners, [1.0, -1.0])
    at_fixed = Grid(part.shape, back @ part.affine)
    found = _affine_mm(back, part) + warp(deformation[1], lattice, None, at_fixed, padding_mode="border")
    linear = torch.from_numpy(matrix[:-1, :-1].copy()).float()
    forward = _affine_mm(matrix, lattice) + torch.tensordot(linear, deformation[0], dims=1)
    found = refined_inverse(found, part, forward, lattice, matrix)
    _write_field(Path(plan.folder) / FIELDS["inverse"], box, found, plan.units[1])
    return _consistency(state, found, part, forward, lattice)


def _consistency(state: BlockState, found: torch.Tensor, part: Grid, forward: torch.Tensor, lattice: Grid) -> dict[str, Any]:
    """How far the forward map takes the points of an inverse from where they came, on every fourth voxel, mm."""
    every = (slice(None), *[slice(None, None, SPREAD_STEP)] * part.dims)
    coarse = np.diag([*[float(SPREAD_STEP)] * part.dims, 1.0])
    some = found[every].contiguous()
    grid = Grid(tuple(some.shape[1:]), part.affine @ coarse)
    rest = some + warp(forward, lattice, some, grid, padding_mode="border")
    voxels = mapped_points(grid, state.fixed.image.grid, some)
    shape = torch.tensor(state.fixed.image.grid.shape).reshape(-1, *[1] * part.dims)
    inside = ((voxels >= 0) & (voxels <= shape - 1)).all(0)
    lengths = rest.square().sum(0).sqrt()[inside]
    most = float(lengths.max()) if lengths.numel() else 0.0
    return {"points": int(lengths.numel()), "largest_residual_mm": most, "sum_residual_mm": float(lengths.sum())}


def _write_field(folder: Path, box: Box, values_mm: torch.Tensor, unit: str) -> None:
    """Write displacements, RAS mm, as LPS in the unit of the file."""
    signs = lps_signs(len(values_mm)).reshape(-1, *[1] * (values_mm.ndim - 1)) / LENGTH_UNITS[unit]
    NewImage(folder, True).write(box, (values_mm.numpy() * signs).astype(np.float32))
