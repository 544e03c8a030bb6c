# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Landmarks in the viewer of a report: where they lie in its slices, their switch and their legend."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...geometry import apply_affine, or_identity
from .report_images import ReportImages
from .stacks import shown_grid

__all__ = ["landmark_parts", "landmark_voxels"]

SWITCH = '<label class="switch"><input type="checkbox" id="landmarks" checked>landmarks</label>'
LEGEND = (
    '<p class="legend points"><span><svg class="fixed" viewBox="-8 -8 16 16" aria-hidden="true"><circle r="5"/></svg> landmark '
    'of the fixed image</span><span><svg class="moving" viewBox="-8 -8 16 16" aria-hidden="true"><path d="M-5-5 5 5M5-5-5 5"/>'
    "</svg> its counterpart in the moving image, mapped to the fixed image</span></p>"
)


def landmark_voxels(images: ReportImages) -> dict[str, list[list[float]]] | None:
    """Positions of landmarks in voxels of the viewer; None if there are none.

    Returns:
        ``fixed``: the landmarks of the fixed image; ``before`` and ``after``: those of the moving image, mapped to the fixed
        image by the initial affine and by the registration.
    """
    result = images.result
    given = result.arguments.get("landmarks")
    if given is None:
        return None
    moving = torch.tensor(given["moving"], dtype=torch.float64)
    initial = or_identity(result.initial, images.grid.dims)
    mapped = result.transform_points(moving, inverse=True)
    found = {"fixed": given["fixed"], "before": apply_affine(np.linalg.inv(initial), moving.numpy()), "after": mapped.numpy()}
    scale = np.array(shown_grid(images.grid).shape) / np.array(images.grid.shape)
    to_voxels = np.linalg.inv(images.grid.affine)
    voxels = {name: apply_affine(to_voxels, np.array(points, dtype=float)) for name, points in found.items()}
    return {name: np.round((each + 0.5) * scale - 0.5, 2).tolist() for name, each in voxels.items()}


def landmark_parts(images: ReportImages) -> dict[str, Any]:
    """The parts of the viewer for landmarks; empty if there are none."""
    if images.result.arguments.get("landmarks") is None:
        return {"landmark_switch": "", "landmark_legend": "", "no_landmarks": " hidden"}
    return {"landmark_switch": SWITCH, "landmark_legend": LEGEND, "no_landmarks": ""}
