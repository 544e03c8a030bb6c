# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Why a registration did what it did: local fits, their residuals, and pictures of them."""

from __future__ import annotations

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
