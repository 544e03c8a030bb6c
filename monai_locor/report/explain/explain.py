# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A figure that explains a registration at one point, as in the first figure of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...io import ImageSource, atomic_path, check_output_dir
from ...registration.result import RegistrationResult
from ..pictures.figures import new_figure
from .figure import fit_figure
from .fit import interesting_point, voxel_point
from .samples import samples_of_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["explain_fit"]


def explain_fit(
    result: RegistrationResult,
    fixed: ImageSource,
    moving: ImageSource,
    point_mm: Sequence[float] | np.ndarray | None = None,
    path: str | PathLike[str] | None = None,
    *,
    voxel: Sequence[float] | None = None,
    choose: str = "gain",
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    initial: np.ndarray | None = None,
    degree: int | None = None,
    plane: str = "axial",
    title: str = "",
    dpi: int = 150,
) -> Figure:
    """Draw the local fit of the similarity measure at a point before and after a registration, see :func:`fit_figure`.

    Args:
        result: registration result.
        fixed, moving, fixed_mask, moving_mask: as given to :func:`monai_locor.register`.
        point_mm: center of the window, ``(D,)`` RAS mm in the fixed image.
        path: file to write, ``.png``, ``.pdf`` or ``.svg``, or None.
        voxel: center of the window as an index of the fixed image, instead of ``point_mm``.
        choose: point to use if none is given: ``"gain"``, where the registration lowered the residual most, or ``"worst"``,
            where the residual is highest at its end.
        initial: affine "before", see :func:`.samples_of_result`.
        degree, plane, title: see :func:`fit_figure`.
        dpi: dots per inch.

    Raises:
        ImportError: if matplotlib is not installed.
        InputError: if the images do not belong to the result, there is no valid data at the point, or the figure cannot be
            written.
    """
    if point_mm is not None and voxel is not None:
        raise InputError(f"give point_mm or voxel, not both; got {point_mm!r} and {voxel!r}.")
    if path is not None:
        _check_path(Path(path))
    masks: dict[str, Any] = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    before, after = samples_of_result(result, fixed, moving, **masks, initial=initial)
    if voxel is not None:
        point_mm = voxel_point(result.fixed_grid, voxel)
    point = interesting_point(before, after, choose) if point_mm is None else np.asarray(point_mm, dtype=np.float64)
    figure = fit_figure(before, after, point, degree=degree, plane=plane, title=title)
    figure.set_dpi(dpi)
    if path is not None:
        with atomic_path(path) as temporary:
            figure.canvas.print_figure(str(temporary), dpi=dpi)
    return figure


def _check_path(path: Path) -> None:
    """Check the output path before the work."""
    known = sorted(new_figure()[1].get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"figure {path}: unknown format; use one of the extensions {', '.join(f'.{name}' for name in known)}.")
    check_output_dir(path.parent)
