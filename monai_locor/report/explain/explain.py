# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One picture that explains a registration at one place, as in the first figure of the paper."""

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
    """Draw what the similarity measure sees at a point, before and after a registration, see :func:`fit_figure`.

    Args:
        result: of the registration.
        fixed, moving, fixed_mask, moving_mask: as they were given to :func:`monai_locor.register`.
        point_mm: center of the window, ``(D,)`` RAS mm in the fixed image.
        path: file to write, ``.png``, ``.pdf`` or ``.svg``, or None.
        voxel: the same point as an index of the fixed image, instead.
        choose: without a point: ``"gain"``, where the registration lowered the residual most, or ``"worst"``, where it is
            highest after it.
        initial: what "before" means, see :func:`.samples_of_result`.
        degree, plane, title: see :func:`fit_figure`.
        dpi: dots per inch.

    Raises:
        ImportError: when matplotlib is not installed, naming the extra that brings it.
        InputError: when the images are not those of the result, the point lies outside them or where nothing counts, or the
            picture cannot be written there.
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
        with atomic_path(Path(path)) as temporary:
            figure.canvas.print_figure(str(temporary), dpi=dpi)
    return figure


def _check_path(path: Path) -> None:
    """Before the work."""
    known = sorted(new_figure()[1].get_supported_filetypes())
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"picture {path}: unknown format; end its name in one of {', '.join(f'.{name}' for name in known)}.")
    check_output_dir(path.parent)
