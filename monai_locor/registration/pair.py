# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading, checking and preparation of a pair of images from files or memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import Grid, check_planes, from_voxels, reorder
from ..io import ImageSource
from ..run_log import doubt
from ..tensors import as_tensor
from .background import has_noisy_background
from .channels import name_of, paired, read_channels
from .config import RegistrationConfig
from .padding import without_padding
from .start.given import Initial, given_start
from .start.initial import check_kind, check_overlap
from .start.prepare import PreparedImage, prepare
from .weights import voxel_weight

__all__ = ["Pair", "check_grids", "load_pair", "select_device"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """The input of a registration, read and prepared.

    Attributes:
        fixed_image, moving_image: images as read, ``(1, *spatial)``, on the host; only the first of several channels.
        fixed, moving: images prepared for the engine.
        affine: initial affine, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm.
        displacement: initial displacement without the affine, ``(D, *fixed)`` in the prepared axis order, RAS mm, or None.
        velocity: initial velocity, likewise.
        valid: mask of the finite voxels of each image, ``(1, *spatial)`` bool; None if all are finite.
        channels: all channels of both images, ``(C, *spatial)``, on the host.
    """

    fixed_image: MetaTensor
    moving_image: MetaTensor
    fixed: PreparedImage
    moving: PreparedImage
    affine: np.ndarray
    displacement: torch.Tensor | None = None
    velocity: torch.Tensor | None = None
    valid: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
    channels: tuple[MetaTensor, MetaTensor] | None = None

    def without_masks(self, quantile: float) -> tuple[PreparedImage, PreparedImage]:
        """Prepare both images without their masks, on the same devices."""
        images, seen = self.channels or (self.fixed_image, self.moving_image), (self.fixed, self.moving)
        weights = [None if valid is None else valid.float() for valid in self.valid]
        fixed, moving = (prepare(i, w, quantile, s.device) for i, w, s in zip(images, weights, seen, strict=True))
        return paired(fixed, moving)


def load_pair(
    fixed: ImageSource,
    moving: ImageSource,
    config: RegistrationConfig,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: Initial = None,
    initial_velocity: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Pair:
    """Read and check a pair; arguments and errors as for :func:`monai_locor.register`."""
    target = select_device(device)
    images = {role: read_channels(image, role, config.max_pixels) for role, image in (("fixed", fixed), ("moving", moving))}
    grids = check_grids({role: image for role, (image, _) in images.items()})
    masks = {"fixed": fixed_mask, "moving": moving_mask}
    for role, (image, valid) in images.items():
        if masks[role] is None and config.padding == "auto":
            images[role] = image, _counted(role, image, valid, grids[role])
        if masks[role] is None and has_noisy_background(image):
            logger.warning(
                "%s: its background is noise as strong as the image, as in MP2RAGE; a mask of the head helps (--%s-mask)",
                *(name_of(role, image), role),
            )
    prepared = {
        role: prepare(image, voxel_weight(role, masks[role], valid, grids[role]), config.quantile, target)
        for role, (image, valid) in images.items()
    }
    prepared["fixed"], prepared["moving"] = paired(prepared["fixed"], prepared["moving"])
    affine, displacement = given_start(initial, prepared["fixed"], prepared["moving"], config.initialization)
    if displacement is not None and initial_velocity is not None:
        raise InputError("initial is a displacement field and initial_velocity is given; give only one of them.")
    displacement = check_kind(config.transform, affine, displacement, grids["fixed"], initial_velocity)
    check_overlap(grids["fixed"], grids["moving"], affine)
    channels = cast(MetaTensor, images["fixed"][0].cpu()), cast(MetaTensor, images["moving"][0].cpu())
    first = [image if len(image) == 1 else cast(MetaTensor, image[:1]) for image in channels]
    return Pair(
        fixed_image=first[0],
        moving_image=first[1],
        fixed=prepared["fixed"],
        moving=prepared["moving"],
        affine=affine,
        displacement=displacement,
        velocity=None if initial_velocity is None else _velocity(initial_velocity, prepared["fixed"]),
        valid=(images["fixed"][1], images["moving"][1]),
        channels=channels,
    )


def _counted(role: str, image: MetaTensor, valid: torch.Tensor | None, grid: Grid) -> torch.Tensor | None:
    """Return the mask of the valid voxels that are no padding, and log if there is any."""
    counts = without_padding(image, valid, grid)
    if counts is not None and counts is not valid:
        text = "%s: a part of its grid is padding beyond a plane; %.0f %% of the voxels count (padding=never counts all)"
        logger.warning(text, name_of(role, image), 100 * float(counts.float().mean()))
    return counts


def check_grids(images: Mapping[str, MetaTensor]) -> dict[str, Grid]:
    """The grids of the fixed and the moving image; single-slice 3-D images are doubtful.

    Args:
        images: by role, ``"fixed"`` and ``"moving"``.

    Raises:
        InputError: if one is 2-D and the other 3-D, or if they are slices in different planes.
    """
    grids = {role: Grid.of(image) for role, image in images.items()}
    if grids["fixed"].dims != grids["moving"].dims:
        shapes = " and ".join(f"{role} image {grid.shape}" for role, grid in grids.items())
        raise InputError(f"{shapes}: both must be 2-D or both 3-D.")
    names = {role: name_of(role, image) for role, image in images.items()}
    check_planes(grids["fixed"], grids["moving"], (names["fixed"], names["moving"]))
    for role, grid in grids.items():
        name = names[role]
        if grid.dims == 3 and min(grid.shape) == 1:
            text = "%s: has one voxel along an axis, %s, and may move out of its plane; store it as (X, Y, 1) for 2-D"
            doubt(logger, text, name, grid.shape)
    return grids


def select_device(device: torch.device | str | None) -> torch.device:
    """Return the device of this name; for None, CUDA if available, else the CPU.

    Raises:
        InputError: if it cannot be used.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, dtype=torch.float32, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!s} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from error
    return torch.device(device)


def _velocity(velocity: torch.Tensor, fixed: PreparedImage) -> torch.Tensor:
    """Convert from voxels of the stored fixed grid to mm in the prepared axis order."""
    expected = (fixed.grid.dims, *fixed.stored.shape)
    values = as_tensor(velocity).detach()
    if tuple(values.shape) != expected or not bool(values.isfinite().all()):
        raise InputError(f"initial_velocity must be finite and of shape {expected}, got shape {tuple(values.shape)}.")
    return reorder(from_voxels(values.double(), fixed.stored), fixed.axes, fixed.flips).to(fixed.image)
