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
