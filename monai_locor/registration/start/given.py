# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The initial transform as given by the user: a name, an array, a transform or files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ...errors import InputError
from ...geometry import Grid, SpatialTransform, apply_affine, inside, reorder, to_voxels
from ...geometry.steps import world_to_voxels
from ...io.paths import expanded
from ...io.transforms.conversion import as_transform
from ...run_log import doubt
from ...tensors import as_tensor
from ..config import STARTS
from ..restriction import free_axes
from .initial import initial_affine, split_displacement
from .prepare import PreparedImage

__all__ = ["Initial", "check_restricted", "given_start", "given_transform", "start_word"]

logger = logging.getLogger(__name__)

#: a name, a matrix or field, a transform of this or of another library, a file or a list of these
Initial: TypeAlias = "np.ndarray | torch.Tensor | str | PathLike[str] | SpatialTransform | Sequence[Any] | Any | None"
MIN_DETERMINANT = 1e-6  # of an invertible matrix
MAX_EXCLUDED_VOXELS = 0.1  # of an initial deformation along an axis that is not free; resampling a field causes such errors
MIN_FIELD_COVERAGE = 0.95  # fraction of the fixed image, below which a warning is logged


def start_word(initial: Initial) -> str | None:
    """Return the value of the setting ``initialization`` for a name; None for anything else.

    >>> start_word("center"), start_word("start.tfm")
    ('centers', None)
    """
    return STARTS.get(initial) if isinstance(initial, str) else None


def given_start(
    initial: Initial, fixed: PreparedImage, moving: PreparedImage, initialization: str
) -> tuple[np.ndarray, torch.Tensor | None]:
    """Return the initial affine and, for a given deformation, the remaining displacement.

    Args:
        initial: see :func:`monai_locor.register`.
        fixed, moving: the prepared images.
        initialization: value of the setting, used if ``initial`` is None.

    Returns:
        the affine, ``(D + 1, D + 1)``, fixed to moving world points, RAS mm; the displacement, ``(D, *fixed)`` in the
        prepared axis order, RAS mm, or None.

    Raises:
        InputError: if it is not a transform, singular, not finite, or of another number of dimensions.
    """
    word = initialization if initial is None else start_word(initial)
    if word is not None:
        return initial_affine(fixed, moving, word), None
    _check_name(initial, f"initial {initial!r} is neither a file nor one of {', '.join(STARTS)}.")
    transform = as_transform(initial, "initial", fixed=fixed.stored, moving=moving.stored)
    values = _numbers(initial, "initial") if transform is None else _of_transform(transform, fixed.stored, "initial")
    matrix, field = _matrix_or_field(values, fixed.stored, "initial")
    if field is None:
        return matrix, None
    matrix, rest = split_displacement(field, fixed.stored)
    return matrix, reorder(rest, fixed.axes, fixed.flips).to(fixed.image)


def given_transform(given: Initial, name: str, fixed: Grid, moving: Grid) -> SpatialTransform:
    """Return a transform from fixed to moving points given as a matrix, a field, an object, or files.

    Args:
        given: as ``initial`` of :func:`monai_locor.register`, except the names of starts.
        name: used in messages.
        fixed, moving: grids of the images.

    Raises:
        InputError: if it is not a transform, singular, not finite, or of another number of dimensions.
    """
    _check_name(given, f"{name} {given!r}: no such file; check its path.")
    found = as_transform(given, name, fixed=fixed, moving=moving)
    if found is not None:
        _check_dims(found, fixed, name)
        _warn_of_coverage(found, fixed, name)
        return found
    matrix, field = _matrix_or_field(_numbers(given, name), fixed, name)
    return SpatialTransform.of_affine(matrix) if field is None else SpatialTransform.of_field(field.float(), fixed)


def _matrix_or_field(values: torch.Tensor, grid: Grid, name: str) -> tuple[np.ndarray, torch.Tensor | None]:
    """Return the matrix and None, or the identity and the displacement, ``(D, *grid)``.

    Raises:
        InputError: if it is neither, or not finite; if the matrix is singular or not that of an affine map.
    """
    dims, shape = grid.dims, tuple(values.shape)
    identity, finite = np.eye(dims + 1), bool(values.isfinite().all())
    if finite and shape == (dims, *grid.shape):
        return identity, values
    if finite and shape == identity.shape:
        matrix = values.double().numpy()
        if np.allclose(matrix[-1], identity[-1], rtol=0, atol=1e-6) and abs(np.linalg.det(matrix)) >= MIN_DETERMINANT:
            return matrix, None
    shown = values.tolist() if values.numel() <= 16 else shape
    raise InputError(
        f"{name} must be an invertible {dims + 1}x{dims + 1} matrix, not transposed, with the last row {'0 ' * dims}1, or a "
        f"displacement field of shape {(dims, *grid.shape)}, all finite; got {shown}."
    )


def _check_name(given: Initial, message: str) -> None:
    """Raise InputError for a mistyped name."""
    if isinstance(given, str) and not Path(given).suffix and not given.startswith("["):
        path = expanded(given)
        if not path.exists() and not list(path.parent.glob(f"{path.name}*")):  # the prefix of an ANTs registration
            raise InputError(message)


def _numbers(given: Any, name: str) -> torch.Tensor:
    try:
        values = as_tensor(given)
    except Exception as error:  # libraries raise various types
        kinds = "a matrix, a displacement field, a transform, a file, a list of transforms"
        words = f" or one of {', '.join(STARTS)}" if name == "initial" else ""
        raise InputError(f"{name} is a {type(given).__name__}; give {kinds}{words}.") from error
    return values.detach().cpu()


def _of_transform(transform: SpatialTransform, fixed: Grid, name: str) -> torch.Tensor:
    """Return the matrix of an affine transform, or else the displacement on the fixed grid."""
    _check_dims(transform, fixed, name)
    if transform.is_affine:
        return torch.from_numpy(transform.matrix.copy())
    _warn_of_coverage(transform, fixed, name)
    return transform.displacement(fixed).cpu()


def _check_dims(transform: SpatialTransform, fixed: Grid, name: str) -> None:
    if transform.dims != fixed.dims:
        raise InputError(f"{name} has {transform.dims} dimensions, the fixed image {fixed.dims}; give one of the same.")


def _warn_of_coverage(transform: SpatialTransform, fixed: Grid, name: str) -> None:
    """Log a doubt if a field covers only a part of the fixed image."""
    domain = transform.domain
    if domain is not None:
        step = np.maximum(1, np.array(fixed.shape) // 16)
        points = apply_affine(fixed.affine, np.stack(np.meshgrid(*map(_centers, fixed.shape, step), indexing="ij"), -1))
        voxels = world_to_voxels(torch.from_numpy(points.reshape(-1, fixed.dims)), domain)
        share = float(inside(voxels, domain.shape, margin=-0.5).double().mean())
        if share < MIN_FIELD_COVERAGE:
            doubt(
                logger,
                "%s: its field covers %.0f %% of the fixed image, and is zero outside, as in ITK; it may belong to "
                "another fixed image, or to the other direction",
                *(name, 100 * share),
            )


def _centers(size: int, step: int) -> np.ndarray:
    return np.arange(0, size, step, dtype=np.float64)


def check_restricted(restriction: Sequence[int] | None, fixed: PreparedImage, field_mm: torch.Tensor | None) -> None:
    """Check that an initial deformation moves only along the axes that are free.

    Args:
        restriction, fixed: see :func:`monai_locor.registration.restriction.free_axes`.
        field_mm: displacement without the affine, or velocity, ``(D, *fixed)`` in the prepared axis order, RAS mm, or None.

    Raises:
        InputError: if it moves by more than a tenth of a voxel along another axis.
    """
    free = free_axes(restriction, fixed)
    if free is None or field_mm is None:
        return
    for axis, largest in enumerate(to_voxels(field_mm, fixed.grid).abs().flatten(1).amax(1).tolist()):
        if not free[axis] and largest > MAX_EXCLUDED_VOXELS:
            distance = largest * float(fixed.grid.spacing[axis])
            raise InputError(
                f"the initial deformation moves by up to {distance:.3g} mm along axis {fixed.axes[axis] + 1} of the fixed "
                "image, which restrict_deformation excludes; give only its affine part, or leave out the restriction."
            )
