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

import logging
import time
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch

from monai_locor.errors import InputError
from monai_locor.geometry import Grid, from_voxels, reorder, voxel_to_voxel, warp
from monai_locor.io import ImageSource, read_affine, read_displacement_field, read_image, read_mask
from monai_locor.metrics import jacobian_statistics
from monai_locor.tensors import plain

from .config import RegistrationConfig
from .engine import RegistrationEngine
from .initial import check_overlap, initial_affine, split_displacement
from .prepare import PreparedImage, prepare
from .result import RegistrationResult, _warp

__all__ = ["register"]

logger = logging.getLogger(__name__)

Initial = np.ndarray | torch.Tensor | str | PathLike[str] | None


def register(
    fixed: ImageSource,
    moving: ImageSource,
    *,
    preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: Initial = None,
    initial_velocity: torch.Tensor | None = None,
    device: torch.device | str | None = None,
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
        device: by default CUDA where there is a GPU, else the CPU.
        seed: of the basis networks and the window shifts; on a CPU the same seed gives the same bytes.
        progress: show a progress bar.

    Returns:
        The transform in both directions and the warped images, on the host.

    Raises:
        InputError: for input that cannot be registered, before any long work, in one line that names it and the remedy.
    """
    start = time.perf_counter()
    config = RegistrationConfig.of(preset)
    target = _device(device)
    images = {"fixed": read_image(fixed, "fixed"), "moving": read_image(moving, "moving")}
    grids = {role: Grid.of(image) for role, (image, _) in images.items()}
    if grids["fixed"].dims != grids["moving"].dims:
        shapes = " and ".join(f"{role} {grid.shape}" for role, grid in grids.items())
        raise InputError(f"fixed and moving image must both be 2-D or both 3-D, got {shapes}.")
    masks = {"fixed": fixed_mask, "moving": moving_mask}
    prepared = {
        role: prepare(image, _weight(role, masks[role], valid, grids[role]), config.quantile, target)
        for role, (image, valid) in images.items()
    }
    matrix, displacement = _initial(prepared["fixed"], prepared["moving"], config, initial)
    check_overlap(grids["fixed"], grids["moving"], matrix)
    velocity = None if initial_velocity is None else _velocity(initial_velocity, prepared["fixed"])
    engine = RegistrationEngine(prepared["fixed"], prepared["moving"], config, matrix, seed, velocity, displacement)
    engine.run(progress)
    return _result(engine, images["fixed"][0], images["moving"][0], seed, start, {"fixed": fixed, "moving": moving})


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!s} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from error
    return torch.device(device)


def _weight(role: str, mask: ImageSource | None, valid: torch.Tensor | None, grid: Grid) -> torch.Tensor | None:
    """Voxel weights from a mask on any grid and from where the image is finite."""
    if mask is None:
        return None if valid is None else valid.float()
    given = read_mask(mask, role)
    source = Grid.of(given)
    if source.dims != grid.dims:
        raise InputError(f"{role} mask has shape {source.shape}, its image {grid.shape}: both must be 2-D or both 3-D.")
    weight = plain(given)
    if not _same_grid(source, grid):
        logger.warning("%s mask lies on another grid than its image and is resampled", role)
        weight = warp(weight, source, None, grid)
    weight = weight if valid is None else weight * valid
    if float(weight.sum()) == 0:
        raise InputError(f"{role} mask does not meet its image: no voxel is left; check that they share world coordinates.")
    return weight


def _same_grid(a: Grid, b: Grid) -> bool:
    """To within a hundredth of a voxel, which is what headers in single precision leave."""
    return a.shape == b.shape and np.allclose(voxel_to_voxel(a, b), np.eye(a.dims + 1), atol=1e-2)


def _initial(
    fixed: PreparedImage, moving: PreparedImage, config: RegistrationConfig, initial: Initial
) -> tuple[np.ndarray, torch.Tensor | None]:
    """The affine to start from and, where a field was given, the rest of it in the prepared image's order."""
    if initial is None:
        return initial_affine(fixed, moving, config.initialization), None
    if isinstance(initial, (str, PathLike)):
        initial = _read_initial(initial, fixed)
    dims, shape = fixed.grid.dims, tuple(initial.shape)
    finite = bool(torch.as_tensor(initial).isfinite().all())
    if finite and shape == (dims, *fixed.stored.shape):
        matrix, rest = split_displacement(plain(torch.as_tensor(initial)), fixed.stored)
        return matrix, reorder(rest, fixed.axes, fixed.flips).to(fixed.image)
    matrix = np.asarray(initial, dtype=np.float64)
    if not finite or shape != (dims + 1, dims + 1) or abs(np.linalg.det(matrix)) < 1e-6:
        raise InputError(
            f"initial must be an invertible {dims + 1}x{dims + 1} matrix or a displacement field of shape "
            f"{(dims, *fixed.stored.shape)}, all finite; got {matrix.tolist() if matrix.size <= 16 else shape}."
        )
    return matrix, None


def _read_initial(path: str | PathLike[str], fixed: PreparedImage) -> np.ndarray | torch.Tensor:
    if not str(path).endswith((".nii", ".nii.gz")):
        return read_affine(path)
    field, grid = read_displacement_field(path)
    if grid.shape != fixed.stored.shape or not np.allclose(
        voxel_to_voxel(grid, fixed.stored), np.eye(grid.dims + 1), atol=1e-2
    ):
        raise InputError(f"{path}: the initial field, {grid.shape}, does not lie on the fixed grid, {fixed.stored.shape}.")
    return field


def _velocity(velocity: torch.Tensor, fixed: PreparedImage) -> torch.Tensor:
    """From voxels of the fixed grid as it is stored to mm in the prepared image's order."""
    expected = (fixed.grid.dims, *fixed.stored.shape)
    values = plain(torch.as_tensor(velocity)).detach()
    if tuple(values.shape) != expected or not bool(values.isfinite().all()):
        raise InputError(f"initial_velocity must be finite and of shape {expected}, got shape {tuple(values.shape)}.")
    return reorder(from_voxels(values.double(), fixed.stored), fixed.axes, fixed.flips).to(fixed.image)


def _result(
    engine: RegistrationEngine, fixed: torch.Tensor, moving: torch.Tensor, seed: int, start: float, sources: dict[str, Any]
) -> RegistrationResult:
    forward = engine.fixed.to_stored(engine.forward_mm()).cpu()
    inverse = engine.moving.to_stored(engine.inverse_mm()).cpu()
    fixed_grid, moving_grid = engine.fixed.stored, engine.moving.stored
    mask = None if engine.fixed.weight is None else engine.fixed.to_stored(engine.fixed.weight).cpu()
    with torch.no_grad():
        affine = engine.affine().cpu().numpy()
    return RegistrationResult(
        affine=affine,
        forward_mm=forward,
        inverse_mm=inverse,
        warped_moving=_warp(moving, moving_grid, forward, fixed_grid, "bilinear"),
        warped_fixed=_warp(fixed, fixed_grid, inverse, moving_grid, "bilinear"),
        fixed_grid=fixed_grid,
        moving_grid=moving_grid,
        history=engine.history,
        jacobian=jacobian_statistics(forward, fixed_grid, mask),
        config=engine.config,
        seed=seed,
        seconds=time.perf_counter() - start,
        device=str(engine.device),
        inputs={role: str(s) for role, s in sources.items() if isinstance(s, (str, PathLike))},
    )
