# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Explain a registration at one place: local fits, their residuals, and pictures of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy

if TYPE_CHECKING:
    from .explain import explain_fit
    from .figure import fit_figure
    from .fit import LocalFit, fit_at, interesting_point, voxel_point
    from .fit_panels import draw_basis, draw_fit, draw_surface
    from .residual import local_residual, residual_maps
    from .samples import Samples, samples_of_images, samples_of_result

__all__ = [
    "LocalFit",
    "Samples",
    "draw_basis",
    "draw_fit",
    "draw_surface",
    "explain_fit",
    "fit_at",
    "fit_figure",
    "interesting_point",
    "local_residual",
    "residual_maps",
    "samples_of_images",
    "samples_of_result",
    "voxel_point",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "explain": ["explain_fit"],
        "figure": ["fit_figure"],
        "fit": ["LocalFit", "fit_at", "interesting_point", "voxel_point"],
        "fit_panels": ["draw_basis", "draw_fit", "draw_surface"],
        "residual": ["local_residual", "residual_maps"],
        "samples": ["Samples", "samples_of_images", "samples_of_result"],
    },
)
