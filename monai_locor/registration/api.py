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

"""Register two images in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch

from monai_locor.errors import InputError
from monai_locor.io import ImageSource
from monai_locor.metrics import jacobian_statistics
from monai_locor.networks.learned_bases import LearnedBases

from .config import RegistrationConfig
from .engine import RegistrationEngine
from .pair import Initial, Pair, load_pair, select_device
from .parallel import Exchange, second_process
from .prepare import PreparedImage
from .result import RegistrationResult, warped

__all__ = ["register"]


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
    initial_basis: LearnedBases | str | PathLike[str] | None = None,
    device: torch.device | str | None = None,
    devices: Sequence[torch.device | str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RegistrationResult:
    """Register two images of the same or different modality.

    An affine stage, then a multi-resolution, bidirectional, diffeomorphic deformation, both driven by
    :class:`monai_locor.losses.LocalLearnedBasisCRLoss`. The images may differ in size, spacing, orientation and field
    of view; each keeps its own grid.

    Args:
        fixed, moving: file names, or images ``(1, *spatial)`` in memory (a MetaTensor carries its affine), 2-D or 3-D.
        preset: a :class:`RegistrationConfig`, the name of a preset, a mapping of settings or a JSON file of them.
        fixed_mask, moving_mask: where the images count; on any grid.
        initial: where to start: an affine, ``(D + 1, D + 1)`` RAS mm from fixed to moving points; a displacement field on
            the fixed grid, ``(D, *fixed)`` RAS mm, affine included; or a file of either (ITK transform, NIfTI field). By
            default see ``initialization`` of the settings.
        initial_velocity: stationary velocity field to start from, for instance a network's prediction: ``(D, *fixed)`` along
            the fixed grid's array axes in its voxels (MONAI's DVF); what is optimised adds to it.
        predict: gives an initial velocity when the affine stages are through: called with the fixed and the moving image as
            the engine sees them and the affine, it returns ``(D, *fixed)`` in the order of that fixed image, RAS mm. See
            :func:`monai_locor.registration.network_input.predict_velocity`. Not with two devices.
        initial_basis: what :attr:`RegistrationResult.basis` of another pair of the same contrasts learned, or a file of it
            (:meth:`RegistrationResult.save_basis`), to start from; it goes on learning. The settings must be of its sizes.
        device: by default CUDA where there is a GPU, else the CPU.
        devices: two devices instead of one, ``["cuda:0", "cuda:1"]``: a process of its own computes the second direction on
            the second one, and gradients are summed after every step (gloo). The result is that of one device up to the
            order of sums. A script that uses it needs the ``if __name__ == "__main__":`` of Python's ``multiprocessing``.
        seed: of the basis networks and the window shifts; on a CPU the same seed gives the same bytes.
        progress: show a progress bar.

    Returns:
        The transform in both directions and the warped images, on the host.

    Raises:
        InputError: for input that cannot be registered, before any long work, in one line that names it and the remedy.
    """
    start = time.perf_counter()
    config = RegistrationConfig.of(preset)
    basis = _basis(initial_basis, config)
    first, second = _devices(device, devices)
    if predict is not None and (second is not None or initial_velocity is not None):
        raise InputError("a prediction goes with one device, and with no other initial velocity: leave one of them out.")
    pair = load_pair(
        fixed,
        moving,
        config,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        initial=initial,
        initial_velocity=initial_velocity,
        device=first,
    )
    start_fields = [None if x is None else x.cpu() for x in (pair.velocity, pair.displacement)]
    begin: dict[str, Any] = {
        "config": config,
        "initial": pair.affine,
        "seed": seed,
        "initial_velocity": start_fields[0],
        "initial_displacement": start_fields[1],
        "search": _searches(config, initial is not None, pair),
        "initial_basis": basis,
    }
    if second is None:
        predictor = None if predict is None else partial(predict, pair.fixed, pair.moving)
        engine = RegistrationEngine(pair.fixed, pair.moving, **begin, predict=predictor).run(progress)
    else:
        with second_process(_second_direction, second, pair.fixed, pair.moving, begin) as exchange:
            engine = RegistrationEngine(pair.fixed, pair.moving, **begin, exchange=exchange).run(progress)
            engine.share_bases()
    names = {role: str(s) for role, s in (("fixed", fixed), ("moving", moving)) if isinstance(s, (str, PathLike))}
    return _result(engine, pair, seed, time.perf_counter() - start, names)


def _devices(
    device: torch.device | str | None, devices: Sequence[torch.device | str] | None
) -> tuple[torch.device, torch.device | None]:
    """The device, and the second one where there are two."""
    if devices is None:
        return select_device(device), None
    if device is not None or isinstance(devices, str) or len(devices) not in (1, 2):
        raise InputError(f"give either device or one or two devices, got device {device!r} and devices {devices!r}.")
    chosen = [select_device(d) for d in devices]
    if len(chosen) == 2 and not torch.distributed.is_available():
        raise InputError("this build of torch has no torch.distributed, which two devices need; give one device.")
    return chosen[0], chosen[1] if len(chosen) == 2 else None


def _basis(given: LearnedBases | str | PathLike[str] | None, config: RegistrationConfig) -> LearnedBases | None:
    if given is None:
        return None
    basis = given if isinstance(given, LearnedBases) else LearnedBases.load(given)
    basis.check(
        derivative=config.derivative,
        num_basis=config.num_basis,
        hidden_channels=config.hidden_channels,
        basis=config.basis,
    )
    return basis


def _searches(config: RegistrationConfig, given: bool, pair: Pair) -> bool:
    """Whether the first affine is to be compared with other starts. A deformation to start from belongs to its affine."""
    if pair.velocity is not None or pair.displacement is not None:
        return False
    return config.multistart == "always" or (config.multistart == "auto" and not given)


def _second_direction(exchange: Exchange, fixed: PreparedImage, moving: PreparedImage, begin: Mapping[str, Any]) -> None:
    """All that the second process does."""
    RegistrationEngine(fixed, moving, **begin, exchange=exchange).run().share_bases()


def _result(engine: RegistrationEngine, pair: Pair, seed: int, seconds: float, names: dict[str, str]) -> RegistrationResult:
    prepared = engine.forward_mm()
    forward = pair.fixed.to_stored(prepared).cpu()
    inverse = pair.moving.to_stored(engine.inverse_mm(prepared)).cpu()
    del prepared
    fixed_grid, moving_grid = pair.fixed.stored, pair.moving.stored
    mask = None if pair.fixed.weight is None else pair.fixed.to_stored(pair.fixed.weight).cpu()
    with torch.no_grad():
        affine = engine.affine().cpu().numpy()
    return RegistrationResult(
        affine=affine,
        forward_mm=forward,
        inverse_mm=inverse,
        warped_moving=warped(pair.moving_image, moving_grid, forward, fixed_grid),
        warped_fixed=warped(pair.fixed_image, fixed_grid, inverse, moving_grid),
        fixed_grid=fixed_grid,
        moving_grid=moving_grid,
        history=engine.history,
        jacobian=jacobian_statistics(forward, fixed_grid, mask),
        config=engine.config,
        seed=seed,
        seconds=seconds,
        device=str(engine.device),
        inputs=names,
        basis=engine.learned_bases(),
    )
