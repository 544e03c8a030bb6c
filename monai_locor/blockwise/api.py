# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Register two images block by block."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..cohort.machine import check_workers
from ..cohort.scheduling import check_dask, connected, run_jobs
from ..cohort.work import Outcome
from ..errors import InputError
from ..geometry import Grid, or_identity
from ..io.fields import write_affine
from ..io.paths import STATE_FOLDER, expanded, locked_folder, remove_state, write_json
from ..io.stored_files import stored_files
from ..registration import RegistrationConfig, RegistrationResult
from ..registration.basis_pair import BasisPair
from ..registration.judging import judge
from ..registration.labels import Labels, LabelSource, check_labels
from ..registration.landmarks import Landmarks, LandmarkSource
from ..registration.numbers import whole_seed
from ..registration.restriction import check_axes
from ..roles import ROLES
from ..run_log import collecting
from .checks import check_folder, check_settings
from .coarse import CoarseImage, coarse_factor, coarse_image, factors_of, register_coarse, tile_settings, whole_volumes
from .fields import compute_block, field_boxes, prepare_fields
from .guides import BlockGuides, field_means, fine_landmarks
from .images import BlockImage
from .outcome import BlockwiseResult, summary_of
from .state import BlockState, Plan, Side
from .tile import BlockJob, register_tile
from .tile_size import tiling_of

if TYPE_CHECKING:
    from distributed import Client

    from ..quality import Thresholds
    from ..registration.start.given import Initial

__all__ = ["register_blockwise"]

logger = logging.getLogger(__name__)


def register_blockwise(
    fixed: str | PathLike[str],
    moving: str | PathLike[str],
    output: str | PathLike[str],
    *,
    block: int | str = "auto",
    preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
    fixed_channel: int | None = None,
    moving_channel: int | None = None,
    fixed_mask: str | PathLike[str] | None = None,
    moving_mask: str | PathLike[str] | None = None,
    initial: Initial = None,
    landmarks: LandmarkSource | None = None,
    labels: LabelSource | None = None,
    initial_basis: BasisPair | str | PathLike[str] | None = None,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | None = None,
    scheduler: str | None = None,
    workers: int | None = 1,
    threads: int | None = None,
    inverse: bool = True,
    version: str = "0.4",
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> BlockwiseResult:
    """Register two images that need not fit memory, on a Dask cluster.

    The images are averaged over blocks of voxels until they are small, and registered as a whole with the settings. Then each
    tile of the fixed image, with a halo, continues from this result with the last stage at the finer resolutions. The
    velocities of the tiles are blended with smooth weights that sum to one. The exponential of the blended velocity and its
    inverse, and the warped image, are computed and written block by block, as OME-Zarr.

    A script that calls this function needs the guard ``if __name__ == "__main__":``, as for Python's ``multiprocessing``.

    Args:
        fixed, moving: files that can be read in parts: the folder of an OME-Zarr image or of one of its levels, or an
            uncompressed NIfTI file.
        output: output folder for ``forward_field.ome.zarr`` and ``inverse_field.ome.zarr`` (displacements including the
            affine, LPS in the unit of the axes), ``warped.ome.zarr``, ``affine.tfm`` and ``run.json``. With ``scheduler``, all
            workers must have it, and the images, under the same paths.
        block: voxels along each axis of a tile with its halo; ``"auto"`` adds the halo to 128, in 2-D to 960, or with
            the setting ``memory`` takes the largest size for which a tile fits.
        preset: settings, see :func:`monai_locor.register`. Their lengths are in voxels of the averaged images, and the last
            stage is repeated at halved lengths until they are in voxels of the fixed image.
        fixed_channel, moving_channel: channel or time point of each image, needed if there are several.
        fixed_mask, moving_mask: files of masks of the voxels to use, on any grid, likewise.
        initial: see :func:`monai_locor.register`.
        landmarks, labels: likewise. They drive the coarse registration and the tiles, see :mod:`.guides`. Label maps are read
            as a whole; those at the resolution of the averaged images are as good.
        initial_basis: see :func:`monai_locor.register`.
        thresholds: of the verdict on the coarse registration, see :func:`monai_locor.report.judge`.
        seed: random seed.
        device: device of the coarse registration and of the tiles.
        scheduler: address of an existing Dask scheduler, or its scheduler file; by default a local cluster is started.
        workers: number of processes of a local cluster; each holds one tile at a time. None is 1.
        threads: CPU threads of each worker; by default those of the machine, divided among the workers of a local cluster.
        inverse: whether to write the inverse field.
        version: of OME-Zarr: ``"0.4"``, or ``"0.5"``, which needs Python 3.11.
        resume: continue an interrupted run in the same folder; finished tiles are not registered again.
        force: delete the results of another run in the output folder.
        progress: show a progress bar.

    Returns:
        the result; its images are files.

    Raises:
        InputError: if an input, a setting or the output folder cannot be used, or a tile failed twice.
        ImportError: if ``dask.distributed`` or ``zarr`` is not installed; the message names the extra.
    """
    check_dask("registration in blocks")
    begin, config, seed = time.perf_counter(), RegistrationConfig.of(preset), whole_seed(seed)
    check_settings(config)
    check_workers(None, workers)
    count = workers or 1
    images = {
        "fixed": BlockImage(fixed, "fixed image", fixed_channel),
        "moving": BlockImage(moving, "moving image", moving_channel),
    }
    masks = {
        role: None if mask is None else BlockImage(mask, f"{role} mask")
        for role, mask in (("fixed", fixed_mask), ("moving", moving_mask))
    }
    folder = expanded(output, f"output folder {output}").absolute()
    share = threads if scheduler is not None else threads or max(1, (os.cpu_count() or 1) // count)
    with locked_folder(folder), collecting() as log:
        starts = stored_files(expanded(initial), transform=True) if isinstance(initial, (str, PathLike)) else ()
        check_folder(folder, resume, force, [fixed, moving, fixed_mask, moving_mask, initial_basis, *starts])
        jobs = _Jobs(folder / STATE_FOLDER, share, device)
        run = _Coarse(images, masks, {"fixed": fixed_channel, "moving": moving_channel}, config)
        beside = run.beside(landmarks, labels)
        arguments = {**beside, "initial": initial, "initial_basis": initial_basis, "seed": seed, "device": device}
        state_of_coarse = folder / STATE_FOLDER / "coarse"
        result = run.judged(run.register(**arguments, progress=progress, resume=state_of_coarse), thresholds)
        guides = run.guides(beside, result)
        plan = run.plan(result, block, seed, guides.numbers)
        state = BlockState.begin(folder / STATE_FOLDER, plan, result, guides)
        with connected(scheduler, count) as client:
            records = {"tile": jobs.run(client, "tile", len(plan.tiling), progress)}
            prepare_fields(state, folder, version, inverse)
            for kind in ("forward", *(["inverse"] if inverse else [])):
                grid = images["fixed" if kind == "forward" else "moving"].grid
                records[kind] = jobs.run(client, kind, len(field_boxes(grid)), progress)
        known = {
            "inputs": {role: str(image.path) for role, image in images.items()},
            "factor": run.factors["fixed"],
            "seed": seed,
            **run.agreement(guides, result, folder),
            "seconds": round(time.perf_counter() - begin, 3),
            "warnings": list(log.warnings),
        }
        summary = summary_of(plan, result, records, known)
        write_affine(folder / "affine.tfm", plan.affine)
        write_json(folder / "run.json", summary)
        remove_state(folder)
        return BlockwiseResult(folder, plan.affine, result, summary)


class _Coarse:
    """The coarse part of a run.

    Args:
        images, masks, channels: by role.
        config: settings.

    Attributes:
        factors: averaged voxels along an axis, by role.
    """

    def __init__(
        self,
        images: Mapping[str, BlockImage],
        masks: Mapping[str, BlockImage | None],
        channels: Mapping[str, int | None],
        config: RegistrationConfig,
    ) -> None:
        self.images, self.masks, self.channels, self.config = images, masks, channels, config
        self.factors = {role: coarse_factor(images[role].grid, 2 if role == "fixed" else 1) for role in images}
        if len({image.grid.dims for image in images.values()}) > 1:
            shapes = " and ".join(f"{role} image {image.grid.shape}" for role, image in images.items())
            raise InputError(f"{shapes}: both must be 2-D or both 3-D")
        check_axes(config.restrict_deformation, images["fixed"].grid.dims)
        self.means: list[CoarseImage] = []

    @property
    def grids(self) -> tuple[Grid, Grid]:
        """Grids of the images."""
        return self.images["fixed"].grid, self.images["moving"].grid

    def beside(self, landmarks: LandmarkSource | None, labels: LabelSource | None) -> dict[str, Any]:
        """Landmarks, read and checked, and labels, by their names in :func:`monai_locor.register`."""
        found = None if landmarks is None else Landmarks.of(landmarks)
        if found is not None:
            found.check_inside(*self.grids)
        if labels is not None:
            check_labels(labels)
        return {"landmarks": found, "labels": labels}

    def register(self, **arguments: Any) -> RegistrationResult:
        """Average the images and register them; arguments of :func:`monai_locor.register`."""
        self.means = [coarse_image(self.images[r], self.masks[r], self.factors[r]) for r in ROLES]
        return register_coarse(self.means, self.config, **arguments)

    def judged(self, result: RegistrationResult, thresholds: Thresholds | Mapping[str, Any] | None) -> RegistrationResult:
        """The result with the verdict of these thresholds, if there are any."""
        if thresholds is None:
            return result
        fixed, moving = self.means
        masks = {"fixed_mask": fixed.mask, "moving_mask": moving.mask}
        return dataclasses.replace(result, verdict=judge(result, fixed.image, moving.image, thresholds, **masks))

    def guides(self, beside: Mapping[str, Any], result: RegistrationResult) -> BlockGuides:
        """What drives the tiles beside the images."""
        fixed, moving = (Grid.of(each.image) for each in self.means)  # those of the coarse registration
        labels = None if beside["labels"] is None else Labels.of(beside["labels"], fixed, moving)
        return BlockGuides.of(beside["landmarks"], labels, result)

    def agreement(self, guides: BlockGuides, result: RegistrationResult, folder: Path) -> dict[str, Any]:
        """Distances of the landmarks by the written field, and Dice of the labels on the grid of the averaged image."""
        landmarks, dice = None, None
        if guides.landmarks is not None:
            landmarks = fine_landmarks(guides.landmarks, folder, result)
        if guides.labels is not None:
            grid = self.images["fixed"].grid
            field, coarse = field_means(folder, factors_of(grid, self.factors["fixed"]))
            dice = guides.labels.agreement(or_identity(result.initial, grid.dims), field, coarse)
        return {"landmarks_mm": landmarks, "label_dice": dice}

    def plan(self, result: RegistrationResult, block: int | str, seed: int, guides: int) -> Plan:
        """The plan of the tiles; distance maps of labels hold ``guides`` numbers."""
        grid, factor = self.images["fixed"].grid, self.factors["fixed"]
        config, unit = tile_settings(result, self.config.stages[-1], factor), float(grid.spacing.min())
        last = config.stages[-1]
        assert last.spacing is not None
        step = max(2.0, min(last.spacing / 2, 2 * last.factor)) * unit  # as the engine
        axes, flips = grid.canonical_order()
        volumes = whole_volumes(result, self.means, config, step, factor)
        fixed, moving = (self._side(role, means) for role, means in zip(ROLES, self.means, strict=True))
        tiling = tiling_of(grid.reordered(axes, flips), block, config, guides)
        return Plan(fixed, moving, config, result.affine, volumes.share, volumes.compared, tiling, step, seed)

    def _side(self, role: str, means: CoarseImage) -> Side:
        image, mask, channel = self.images[role], self.masks[role], self.channels[role]
        low, high = means.span(self.config.quantile)
        known = {} if mask is None else {"mask": str(mask.path.absolute()), "mask_signature": mask.signature()}
        return Side(str(image.path.absolute()), channel, image.signature(), low, high, means.lowest, **known)


@dataclass(frozen=True)
class _Jobs:
    """The jobs of a run.

    Attributes:
        folder: folder of the state.
        threads, device: see :class:`.tile.BlockJob`.
    """

    folder: Path
    threads: int | None
    device: str | None

    def run(self, client: Client, kind: str, count: int, progress: bool) -> list[dict[str, Any]]:
        """Run all jobs of a kind that are not finished; return the records of all.

        Raises:
            InputError: if a job failed twice.
        """
        state = BlockState(self.folder)
        records = [state.record(kind, number) for number in range(count)]
        jobs = [
            BlockJob(str(self.folder), number, kind, self.threads, self.device)
            for number, record in enumerate(records)
            if record is None
        ]
        failed: list[str] = []
        with tqdm(total=count, initial=count - len(jobs), disable=not progress, desc=kind, unit="block") as bar:

            def done(job: BlockJob, outcome: Outcome) -> None:
                if outcome.error:
                    failed.append(f"{job.label}: {outcome.error}")
                records[job.number] = outcome.record
                bar.update()

            if jobs:
                run_jobs(client, jobs, register_tile if kind == "tile" else compute_block, done)
        if failed:
            raise InputError(f"{len(failed)} blocks failed, the first is {failed[0]}; run again with --resume (resume=True)")
        return [record or {} for record in records]
