# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The state of a blockwise registration on disk: its plan, the coarse result and the finished tiles.

Workers read it, and a run that was interrupted continues from it. It is read without pickle.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..differences import first_difference
from ..errors import InputError
from ..geometry import Grid, SpatialTransform
from ..io.paths import atomic_path, check_output_dir, write_json
from ..registration import RegistrationConfig, RegistrationResult
from ..registration.basis_pair import BasisPair
from .canonical import CanonicalImage
from .guides import BlockGuides
from .images import BlockImage
from .tiling import Box, Tiling
from .velocity import CoarseVelocity, lattice_of

__all__ = ["BlockState", "Plan", "Side"]

PLAN_FORMAT = "monai_locor blocks 1"


@dataclass(frozen=True)
class Side:
    """One of the two images.

    Attributes:
        path: its file.
        channel: selected channel, or None.
        signature: see :meth:`.images.BlockImage.signature`.
        low, high: intensities that become 0 and 1.
        lowest: smallest voxel, the value outside of the field of view.
        mask: file of a mask, or None.
        mask_signature: likewise of the mask.
    """

    path: str
    channel: int | None
    signature: str
    low: float
    high: float
    lowest: float
    mask: str | None = None
    mask_signature: str | None = None


@dataclass(frozen=True)
class Plan:
    """The values that the tiles and the fields depend on, besides the coarse result.

    Attributes:
        fixed, moving: the images.
        config: settings of a tile, with its stages.
        affine: ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        share: see :class:`.tile.Volumes`, of the whole images.
        volume: the volume of the whole images that is compared, likewise, mm^D.
        tiling: tiles of the fixed image in canonical axis order.
        step: distance of the points of the integration lattice, mm.
        seed: random seed.
    """

    fixed: Side
    moving: Side
    config: RegistrationConfig
    affine: np.ndarray
    share: float
    volume: float
    tiling: Tiling
    step: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = {
            "format": PLAN_FORMAT,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "fixed": dataclasses.asdict(self.fixed),
            "moving": dataclasses.asdict(self.moving),
            "config": self.config.to_dict(),
            "affine": self.affine.tolist(),
            "tiling": dataclasses.asdict(self.tiling),
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan of :meth:`to_json`."""
        tiling = values["tiling"]
        return cls(
            fixed=Side(**values["fixed"]),
            moving=Side(**values["moving"]),
            config=RegistrationConfig.of(values["config"]),
            affine=np.array(values["affine"]),
            share=values["share"],
            volume=values["volume"],
            tiling=Tiling(tuple(tiling["shape"]), tuple(map(tuple, tiling["edges"])), tuple(tiling["halo"])),
            step=values["step"],
            seed=values["seed"],
        )


class BlockState:
    """The folder of a blockwise registration.

    Args:
        folder: the folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def begin(cls, folder: Path, plan: Plan, coarse: RegistrationResult, guides: BlockGuides) -> BlockState:
        """Write the plan, the coarse result and the guides, or continue with a folder that has the same plan.

        Raises:
            InputError: if the folder holds another registration.
        """
        state = cls(check_output_dir(folder))
        values = plan.to_json()
        if state.plan_path.exists():
            difference = first_difference(json.loads(state.plan_path.read_text(encoding="utf-8")), values)
            if difference:
                raise InputError(f"{folder}: is the state of another registration ({difference}); delete it, or use another")
            return state
        assert coarse.velocity is not None
        arrays = {
            "velocity": coarse.velocity.values.numpy(),
            "lattice": coarse.velocity.lattice.affine,
            "forward": coarse.forward_mm.numpy(),
            "forward_affine": coarse.fixed_grid.affine,
        }
        if coarse.basis is not None:
            arrays |= {f"{k}.{n}": v.numpy() for k in _BASES for n, v in getattr(coarse.basis, k).items()}
            write_json(state.folder / "basis.json", {name: getattr(coarse.basis, name) for name in _BASIS_FIELDS})
        for name, content in (("coarse.npz", arrays), ("guides.npz", guides.arrays())):
            with atomic_path(state.folder / name) as temporary, temporary.open("wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type]
        write_json(state.plan_path, values)
        return state

    @property
    def plan_path(self) -> Path:
        """The plan, written last."""
        return self.folder / "plan.json"

    @cached_property
    def plan(self) -> Plan:
        """The plan."""
        return Plan.of_json(json.loads(self.plan_path.read_text(encoding="utf-8")))

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "coarse.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def fixed(self) -> CanonicalImage:
        """The fixed image."""
        return self._image("fixed")

    @cached_property
    def moving(self) -> CanonicalImage:
        """The moving image."""
        return self._image("moving")

    def _image(self, role: str) -> CanonicalImage:
        side: Side = getattr(self.plan, role)
        mask = None if side.mask is None else BlockImage(side.mask, f"{role} mask", quiet=True)
        return CanonicalImage(BlockImage(side.path, f"{role} image", side.channel, quiet=True), (side.low, side.high), mask)

    @cached_property
    def coarse(self) -> CoarseVelocity:
        """The velocity of the coarse registration."""
        values = self._arrays["velocity"]
        return CoarseVelocity(torch.from_numpy(values), Grid(values.shape[1:], self._arrays["lattice"]))

    @cached_property
    def coarse_transform(self) -> SpatialTransform:
        """The coarse transform, on a coarse grid."""
        field = self._arrays["forward"]
        return SpatialTransform.of_field(field, Grid(field.shape[1:], self._arrays["forward_affine"]))

    @cached_property
    def basis(self) -> BasisPair | None:
        """The bases of the coarse registration; None for other measures."""
        path = self.folder / "basis.json"
        if not path.exists():
            return None
        states: dict[str, Any] = {
            k: {n.removeprefix(f"{k}."): torch.from_numpy(v) for n, v in self._arrays.items() if n.startswith(f"{k}.")}
            for k in _BASES
        }
        known = json.loads(path.read_text(encoding="utf-8"))
        return BasisPair(**states, **{**known, "hidden_channels": tuple(known["hidden_channels"])})

    @cached_property
    def guides(self) -> BlockGuides:
        """Landmarks and labels."""
        with np.load(self.folder / "guides.npz", allow_pickle=False) as file:
            return BlockGuides.of_arrays({name: file[name] for name in file.files})

    @cached_property
    def lattice(self) -> Grid:
        """The integration lattice of the whole fixed image."""
        return lattice_of(self.fixed.grid, self.plan.step)

    def nodes(self, number: int) -> Box:
        """The points of the lattice where the weight of a tile is not zero."""
        out = []
        for axis, n in enumerate(self.lattice.shape):
            where = self.node_positions(axis)
            low, high = self.plan.tiling.reach(number, axis)
            index = np.flatnonzero((where > low) & (where < high))
            out.append(slice(int(index[0]), int(index[-1]) + 1) if len(index) else slice(0, min(1, n)))
        return tuple(out)

    def node_positions(self, axis: int) -> np.ndarray:
        """Positions of the points of the lattice along an axis, in voxels of the fixed image."""
        grid, step = self.fixed.grid, self.plan.step
        first = (np.linalg.inv(grid.affine) @ self.lattice.affine)[axis, -1]
        return first + np.arange(self.lattice.shape[axis]) * step / grid.spacing[axis]

    def record_path(self, kind: str, number: int) -> Path:
        """The record of a finished job."""
        return self.folder / f"{kind}_{number:06d}.json"

    def record(self, kind: str, number: int) -> dict[str, Any] | None:
        """The record of a job, if it is finished."""
        path = self.record_path(kind, number)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def save_tile(self, number: int, values: np.ndarray | None, record: Mapping[str, Any]) -> None:
        """Save a finished tile.

        Args:
            values: its weighted velocity without the coarse one on :meth:`nodes`, ``(D, *nodes)``, RAS mm; None for zero.
            record: its state, its largest velocity and its losses.
        """
        if values is not None:
            with atomic_path(self._tile_path(number)) as temporary, temporary.open("wb") as file:
                np.save(file, values)
        write_json(self.record_path("tile", number), record)

    def _tile_path(self, number: int) -> Path:
        return self.folder / f"tile_{number:06d}.npy"

    def velocity(self, box: Box) -> torch.Tensor:
        """The velocity in a box of the lattice, ``(D, *box)`` float32, RAS mm, from all finished tiles."""
        out = self.coarse.on(self.lattice.cropped(box)).numpy()
        for number in self.plan.tiling:
            nodes = self.nodes(number)
            shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(nodes, box, strict=True)]
            if any(s.stop <= s.start for s in shared) or not self._tile_path(number).exists():
                continue
            values = np.load(self._tile_path(number), mmap_mode="r", allow_pickle=False)
            target = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(shared, box, strict=True))
            source = tuple(slice(s.start - n.start, s.stop - n.start) for s, n in zip(shared, nodes, strict=True))
            to, of = (slice(None), *target), (slice(None), *source)
            out[to] += values[of]
        return torch.from_numpy(out)


_BASES = ("forward", "inverse")
_BASIS_FIELDS = ("in_channels", "num_basis", "hidden_channels", "derivative", "quantile", "limits")
