# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Explain a registration: local fits, their residuals, and pictures of them; the names of ``monai_locor.report.explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazy

if TYPE_CHECKING:
    from .report.explain.explain import explain_fit
    from .report.explain.figure import fit_figure
    from .report.explain.fit import LocalFit, fit_at, interesting_point, voxel_point
    from .report.explain.fit_panels import draw_basis, draw_fit, draw_surface
    from .report.explain.residual import local_residual, residual_maps
    from .report.explain.samples import Samples, samples_of_images, samples_of_result

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
        ".report.explain.explain": ["explain_fit"],
        ".report.explain.figure": ["fit_figure"],
        ".report.explain.fit": ["LocalFit", "fit_at", "interesting_point", "voxel_point"],
        ".report.explain.fit_panels": ["draw_basis", "draw_fit", "draw_surface"],
        ".report.explain.residual": ["local_residual", "residual_maps"],
        ".report.explain.samples": ["Samples", "samples_of_images", "samples_of_result"],
    },
)
