# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Register two images in one call."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..free_memory import MemoryPeak, free_bytes
from ..io import ImageSource
from ..precision import optimizing
from ..roles import ROLES
from ..run_log import RunLog, collecting
from .basis_pair import BasisPair
from .channels import first_image
from .config import RegistrationConfig
from .described import described_arguments
from .engine import RegistrationEngine
from .finish import finished_result
from .labels import Labels, LabelSource
from .landmarks import Landmarks, LandmarkSource
from .manifest import CODE_ARGUMENTS
from .memory import RunShape
from .memory_plan import MemoryPlan, plans_within, with_retries
from .numbers import whole_seed
from .pair import Pair, load_pair, select_device
from .pairing import checked_weights
from .parallel import Exchange, second_process
from .restriction import check_axes
from .result import RegistrationResult
from .resume import StageStates, state_identity
from .run import Run, optimize
from .schedule import for_pictures, picture_size
from .similarity import OwnSimilarity, chosen_similarity
from .stages import run_stage
from .start.given import Initial, check_restricted, start_word
from .start.losses import InitialLosses
from .start.prepare import PreparedImage
from .start.start import Start
from .surfaces import Surfaces, SurfaceSource

__all__ = ["Task", "prepare_task", "register"]

logger = logging.getLogger(__name__)


def register(
    fixed: ImageSource,
    moving: ImageSource,
    *,
    preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: Initial = None,
    initial_velocity: torch.Tensor | None = None,
    predict: Callable[[PreparedImage, PreparedImage, np.ndarray], torch.Tensor] | None = None,
    initial_basis: BasisPair | str | PathLike[str] | None = None,
    similarity: str | OwnSimilarity | None = None,
    transform: str | None = None,
    channel_weights: Sequence[float] | None = None,
    landmarks: LandmarkSource | None = None,
    labels: LabelSource | None = None,
    surfaces: SurfaceSource | None = None,
    device: torch.device | str | None = None,
    devices: Sequence[torch.device | str] | None = None,
    seed: int = 0,
    progress: bool = True,
    keep_interrupted: bool = False,
    resume: str | PathLike[str] | None = None,
) -> RegistrationResult:
    """Register two images of the same or different modality.

    An affine stage is followed by a multi-resolution, bidirectional, diffeomorphic deformation. Both minimize
    :class:`monai_locor.losses.LocalLearnedBasisCRLoss` or another similarity measure. The images may differ in size,
    spacing, orientation and field of view; each keeps its own grid.

    Args:
        fixed, moving: file names, a :class:`monai_locor.io.FileChannel` for one channel or DICOM series, or images in memory,
            2-D or 3-D: a MetaTensor ``(1, *spatial)``; a tensor, an array or a nested list, alone (voxels of 1 mm) or as
            ``(array, affine)`` with an affine in RAS mm, see :func:`monai_locor.io.arrays.channel_first`; an image of nibabel,
            SimpleITK, ITK or ANTsPy. Lists of images are registered jointly: the first fixed with the first moving image, and
            so on, or a single image of one side with each of the other. All images of a side are resampled to the grid of the
            first. The verdict, the warped images and the search use the first pair; :attr:`RegistrationResult.basis` is None.
        preset: a :class:`RegistrationConfig`, the name of a preset (``"default"``, ``"fast"``, ``"draft"``,
            ``"intersubject"`` for images of two subjects, or ``"paper"``, close to the published method), a mapping of settings
            or their JSON file.
        fixed_mask, moving_mask: masks of the voxels to use, on any grid.
        initial: initial transform: ``"world"`` (coordinates), ``"centers"`` (of the fields of view), ``"moments"`` (centers of
            mass) or ``"auto"``, overriding the setting ``initialization``; an affine, ``(D + 1, D + 1)`` RAS mm from fixed to
            moving points; a displacement field on the fixed grid, ``(D, *fixed)`` RAS mm, including the affine; a
            :class:`monai_locor.geometry.SpatialTransform`, or the result of another registration; a SimpleITK, ITK or ANTsPy
            transform, or a displacement field as an image of these libraries (LPS mm); a file of any format that
            :func:`monai_locor.io.read_transform` reads; or a list of transforms and files in the order of
            ``antsApplyTransforms -t``, where ``"[FILE,1]"`` or ``(transform, True)`` denotes an inverse.
        initial_velocity: initial stationary velocity field, for instance a network's prediction: ``(D, *fixed)`` along the
            fixed grid's array axes in its voxels (MONAI's DVF); the optimized velocity adds to it.
        predict: returns an initial velocity after the affine stages: called with the prepared fixed and moving image and the
            affine, it returns ``(D, *fixed)`` in the axis order of the prepared fixed image, RAS mm. See
            :func:`monai_locor.inferers.network_input.predict_velocity`. Not with two devices.
        initial_basis: initial basis, optimized further: :attr:`RegistrationResult.basis` of another pair of the same contrasts,
            or its file (:meth:`RegistrationResult.save_basis`). Its sizes must match the settings.
        similarity: overrides the measure of the settings: the name of a measure, used with its default options, see
            :data:`monai_locor.registration.similarity.SIMILARITIES`; or a MONAI or custom loss to be minimized, with
            ``forward(pred, target)`` of the warped and the target image, ``(1, 1, *spatial)``, intensities about [0, 1] (the
            robust range; from -0.25 to 1.25): a module, copied for each direction, or a function
            ``(spatial_dims) -> module``. If ``forward`` has a parameter ``mask``, it receives the mask of both images;
            otherwise the whole images are compared (see ``monai.losses.MaskedLoss``). With an attribute ``in_channels`` of 2,
            ``pred`` also has the derivative magnitude. Parameters of the module are optimized at ``learning_rate_basis``.
        transform: ``"rigid"``, ``"similarity"``, ``"affine"`` or ``"deformable"``, overriding the setting. It is composed
            with ``initial``.
        channel_weights: weights of several pairs of images, by default equal: the loss is the weighted mean of the losses of
            the pairs, each with its own basis functions.
        landmarks: corresponding points, ``(fixed points, moving points)`` or ``(fixed points, moving points, weights)``, each a
            file or ``(N, D)`` RAS mm, see :meth:`.landmarks.Landmarks.of`. Their distances are part of the loss in all stages
            and both directions, with the setting ``landmark_weight``; see :attr:`RegistrationResult.landmarks_mm`. The search
            of the multi-start compares the images only.
        labels: label maps of both images, ``(fixed, moving)`` or ``(fixed, moving, {label: weight})``, on any grids, see
            :meth:`.labels.Labels.of`. The distances of the surfaces of the labels that both have are part of the loss likewise,
            with the setting ``label_weight``; see :attr:`RegistrationResult.label_dice`.
        surfaces: meshes of both images, ``(fixed, moving)`` or a list of pairs, see :func:`.surfaces.surface_pairs`. Their
            distances are part of the loss likewise, by ``surface_weight``; see :attr:`RegistrationResult.surface_mm`.
        device: by default CUDA if available, else the CPU.
        devices: two devices instead of one, ``["cuda:0", "cuda:1"]``: another process computes the second direction on the
            second device, and gradients are summed after every step (gloo). The result differs from that of one device by
            rounding only. Scripts need the guard ``if __name__ == "__main__":``, as for Python's ``multiprocessing``.
        seed: random seed of the basis networks and the window shifts; CPU results are reproducible to the byte.
        progress: show a progress bar.
        keep_interrupted: if interrupted by Ctrl-C (KeyboardInterrupt), return the current state, with ``interrupted`` set,
            instead of raising. A second interrupt raises.
        resume: folder in which the state is saved at the end of each stage. If it has states of this registration, whose
            process was killed, these stages are not run again; on a CPU, the result has the same bytes. The states are kept
            until the caller deletes the folder. Not with two devices, ``predict`` or a similarity given as code.

    Returns:
        the transform in both directions and the warped images, on the host.

    Raises:
        InputError: if the input cannot be registered. It is raised before any long computation; the one-line message names
            the input and the remedy.
    """
    given = dict(locals())  # all arguments, for run.json
    first, second = _devices(device, devices)
    with collecting() as log, optimizing(first):
        return _registered(given, first, second, log)


def _registered(given: Mapping[str, Any], first: torch.device, second: torch.device | None, log: RunLog) -> RegistrationResult:
    """Implement :func:`register` on the selected devices."""
    task = prepare_task(given, first, second)
    states = None if given["resume"] is None else _states(given, task, second, log)

    def attempt(plan: MemoryPlan) -> RegistrationResult:
        own = task.following(plan)
        began, saved = time.perf_counter(), states if plan is task.plans[0] else None
        run, interrupted = _optimized(own.start, own.config, second, given["progress"], given["keep_interrupted"], saved)
        return own.result(run, log, time.perf_counter() - began, interrupted)

    return with_retries(task.plans if second is None else task.plans[:1], attempt)


def _states(given: Mapping[str, Any], task: Task, second: torch.device | None, log: RunLog) -> StageStates:
    """The saved states of a registration.

    Raises:
        InputError: if an argument does not allow to save states.
    """
    code = [name for name in CODE_ARGUMENTS if given[name] is not None and not isinstance(given[name], str)]
    if second is not None or code:
        raise InputError(f"resume {given['resume']}: not possible with {', '.join(code) or 'two devices'}; leave it out.")
    settings = {**task.config.to_dict(), "thrifty": task.start.thrifty}
    return StageStates(given["resume"], state_identity(task.arguments, settings, task.start.device), log)


@dataclass(frozen=True, eq=False)
class Task:
    """A registration before its optimization.

    Attributes:
        given: all arguments of :func:`register`.
        config: settings.
        pair: the images.
        start: the start of the optimization.
        arguments: description of the arguments, for ``run.json``.
        reading_seconds: time to read the images and to prepare the start.
        plans: how to fit it into memory, the present plan first.
        peak: peak of the memory since the start.
    """

    given: Mapping[str, Any]
    config: RegistrationConfig
    pair: Pair
    start: Start
    arguments: dict[str, Any]
    reading_seconds: float
    plans: Sequence[MemoryPlan]
    peak: MemoryPeak

    def following(self, plan: MemoryPlan) -> Task:
        """Return the same registration with another memory plan."""
        start = dataclasses.replace(self.start, thrifty=plan.thrifty)
        return dataclasses.replace(self, config=plan.config, start=start, plans=[plan])

    def memory(self) -> dict[str, int | None]:
        """Return the predicted and the measured memory, for ``run.json``."""
        plan = self.plans[0]
        return {"predicted": plan.need.peak, "available": plan.budget, "peak": self.peak.bytes()}

    def result(self, run: Run, log: RunLog, seconds: float, interrupted: bool = False) -> RegistrationResult:
        """Return the result of a completed optimization, with its verdict.

        Args:
            run: the optimization.
            log: warnings.
            seconds: duration of the optimization.
            interrupted: whether it was interrupted.
        """
        now = time.perf_counter()
        times = [now - seconds - self.reading_seconds, now - seconds, now]
        first_images = {role: first_image(self.given[role]) for role in ROLES}
        names = {role: str(image) for role, image in first_images.items() if isinstance(image, (str, PathLike))}
        known = {"interrupted": interrupted, "arguments": self.arguments, "inputs": names}
        found = finished_result(run, self.pair, times, log, **known)
        return dataclasses.replace(found, memory=self.memory())


def prepare_task(given: Mapping[str, Any], first: torch.device, second: torch.device | None = None) -> Task:
    """Read and check the arguments of :func:`register`.

    Raises:
        InputError: if the input cannot be registered.
    """
    began, peak, available = time.perf_counter(), MemoryPeak(first), free_bytes(first)
    given = {**given, "seed": whole_seed(given["seed"])}
    settings = RegistrationConfig.of(given["preset"]).with_transform(given["transform"])
    word = start_word(given["initial"])
    if word is not None:  # names are a setting
        settings, given = dataclasses.replace(settings, initialization=word), {**given, "initial": None}
    config, own = chosen_similarity(settings, given["similarity"])
    if second is not None:
        _check_picklable(own)
    if given["predict"] is not None:
        _check_prediction(given, config, second)
    basis = _basis(given["initial_basis"], config)
    inputs = {name: given[name] for name in ("fixed_mask", "moving_mask", "initial", "initial_velocity")}
    pair = load_pair(given["fixed"], given["moving"], config, **inputs, device=first)
    if given["landmarks"] is not None:
        given = {**given, "landmarks": Landmarks.of(given["landmarks"])}
        given["landmarks"].check_inside(pair.fixed.grid, pair.moving.grid)
    grid = pair.fixed.grid
    check_axes(config.restrict_deformation, grid.dims)
    for field in (pair.displacement, pair.velocity):
        check_restricted(config.restrict_deformation, pair.fixed, field)
    if grid.dims == 2:
        config = dataclasses.replace(config, stages=for_pictures(config.stages, picture_size(grid)))
    start = _start(given, pair, config, own, basis)
    plans = plans_within(RunShape.of(start), config, available)
    seconds = time.perf_counter() - began
    config, start = plans[0].config, dataclasses.replace(start, thrifty=plans[0].thrifty)
    return Task(given, config, pair, start, described_arguments(given), seconds, plans, peak)


def _check_prediction(given: Mapping[str, Any], config: RegistrationConfig, second: torch.device | None) -> None:
    """Refuse arguments that cannot be combined with ``predict``."""
    if config.transform != "deformable":
        raise InputError(f'a predicted velocity requires transform "deformable", got "{config.transform}".')
    if second is not None or given["initial_velocity"] is not None:
        raise InputError("predict cannot be combined with two devices or with initial_velocity; give one of them.")


def _start(
    given: Mapping[str, Any], pair: Pair, config: RegistrationConfig, own: OwnSimilarity | None, basis: BasisPair | None
) -> Start:
    """The start of the optimization: prepared images, initial transform and losses."""
    weights, predict = checked_weights(given["channel_weights"], len(pair.fixed.image)), given["predict"]
    if len(weights) > 1 and (predict is not None or basis is not None):
        raise InputError("several images per side cannot be combined with predict or initial_basis; give one image per side.")
    velocity, displacement = (None if x is None else x.cpu() for x in (pair.velocity, pair.displacement))
    grids = pair.fixed.stored, pair.moving.stored
    return Start(
        images=(pair.fixed, pair.moving),
        affine=pair.affine,
        velocity=velocity,
        displacement=displacement,
        losses=InitialLosses(given["seed"], own, weights, basis),
        landmarks=given["landmarks"],
        labels=None if given["labels"] is None else Labels.of(given["labels"], *grids),
        surfaces=None if given["surfaces"] is None else Surfaces.of(given["surfaces"], *grids, config.surface_space),
        search=_searches(config, given["initial"] is not None, pair),
        predict=None if predict is None else partial(_predicted, predict, pair),
        unmasked=partial(pair.without_masks, config.quantile),
    )


def _optimized(
    start: Start,
    config: RegistrationConfig,
    second: torch.device | None,
    progress: bool,
    keep_interrupted: bool,
    states: StageStates | None,
) -> tuple[Run, bool]:
    """Run the optimization; return the run and whether it was interrupted."""
    run = None
    try:
        if second is None:
            run = Run(RegistrationEngine(start, config))
            run.complete(progress, run_stage if states is None else states.run)
            return run, False
        sent = dataclasses.replace(start, unmasked=None)  # only the first process uses it
        with second_process(_second_direction, second, sent, config) as exchange:
            run = Run(RegistrationEngine(start, config, exchange))
            run.complete(progress).share_bases()
            return run, False
    except KeyboardInterrupt:
        if run is None or not keep_interrupted:
            raise
        logger.warning("interrupted: the result is the state at the interrupt")
        return run, True


def _predicted(
    predict: Callable[[PreparedImage, PreparedImage, np.ndarray], torch.Tensor], pair: Pair, matrix: np.ndarray
) -> torch.Tensor:
    """Return the predicted velocity, ``(D, *fixed)`` in the axis order of the prepared image, RAS mm.

    Raises:
        InputError: if it is not finite, for instance because the training of the network diverged.
    """
    velocity = predict(pair.fixed, pair.moving, matrix)
    bad = int((~velocity.isfinite()).sum())
    if bad:
        raise InputError(
            f"the predicted velocity has {bad} of {velocity.numel()} values that are NaN or infinite; the training of the "
            "network may have diverged: use an earlier checkpoint, or register without it."
        )
    return velocity


def _devices(
    device: torch.device | str | None, devices: Sequence[torch.device | str] | None
) -> tuple[torch.device, torch.device | None]:
    """Return the device and the second device, or None if there is only one."""
    if devices is None:
        return select_device(device), None
    if device is not None or isinstance(devices, str) or len(devices) not in (1, 2):
        raise InputError(f"give either device or one or two devices, got device {device!r} and devices {devices!r}.")
    chosen = [select_device(d) for d in devices]
    if len(chosen) == 2 and not torch.distributed.is_available():
        raise InputError("this build of torch has no torch.distributed, which two devices need; give one device.")
    return chosen[0], chosen[1] if len(chosen) == 2 else None


def _check_picklable(own: OwnSimilarity | None) -> None:
    try:
        pickle.dumps(own)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InputError(
            f"the similarity cannot be sent to the process of the second device ({error}); give a module, or a function that "
            "can be imported."
        ) from error


def _basis(given: BasisPair | str | PathLike[str] | None, config: RegistrationConfig) -> BasisPair | None:
    if given is None:
        return None
    if config.similarity != "locor":
        raise InputError(f"an initial basis requires similarity 'locor', the settings have {config.similarity!r}.")
    basis = given if isinstance(given, BasisPair) else BasisPair.load(given)
    basis.check(
        derivative=config.derivative,
        num_basis=config.num_basis,
        hidden_channels=config.hidden_channels,
        basis=config.basis,
    )
    return basis


def _searches(config: RegistrationConfig, given: bool, pair: Pair) -> bool:
    """Whether to run the multi-start search; not with an initial deformation, which is valid only with its own affine."""
    if pair.velocity is not None or pair.displacement is not None:
        return False
    return config.multistart == "always" or (config.multistart == "auto" and not given)


def _second_direction(exchange: Exchange, start: Start, config: RegistrationConfig) -> None:
    """Run the optimization of the second direction in the second process."""
    optimize(RegistrationEngine(start, config, exchange)).share_bases()
