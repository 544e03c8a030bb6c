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


"""Both images of a report, brought to one upright grid, and the viewer that compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..geometry import Grid, apply_affine, warped
from ..io import ImageSource, read_image
from .assets import asset
from .html_images import View, views_of
from .picture import middle, smoothed
from .planes import intensity_limits, upright, window

if TYPE_CHECKING:
    from ..registration.result import RegistrationResult

__all__ = ["Pictures"]


@dataclass(frozen=True)
class Pictures:
    """A registration as upright volumes, and how to cut them.

    Attributes:
        result: that is shown.
        volumes: ``fixed``, ``before``, ``after`` in [0, 1], ``(*shape)``.
        outline: the fixed image smoothed, for contours.
        grid: upright, of all volumes.
        views: the cuts.
        residuals: before and after, ``(*shape)`` with NaN, or why there are none, or None.
    """

    result: RegistrationResult
    volumes: Mapping[str, np.ndarray]
    outline: np.ndarray
    grid: Grid
    views: list[View]
    residuals: tuple[np.ndarray, np.ndarray] | str | None

    @classmethod
    def of(
        cls, result: RegistrationResult, fixed: ImageSource, moving: ImageSource, masks: Mapping[str, ImageSource | None] | None
    ) -> Pictures:
        """Read the images and bring everything to the fixed grid, upright.

        Args:
            masks: ``fixed_mask`` and ``moving_mask`` for the residuals; None for no residuals.
        """
        images = {"fixed": read_image(fixed, "fixed")[0], "moving": read_image(moving, "moving")[0]}
        for role, grid in (("fixed", result.fixed_grid), ("moving", result.moving_grid)):
            if tuple(images[role].shape[1:]) != grid.shape:
                shape = tuple(images[role].shape[1:])
                raise InputError(f"the {role} image has shape {shape}, that of the result {grid.shape}; give the same.")
        start = warped(images["moving"], result.moving_grid, result.initial_mm, result.fixed_grid)
        after = result.warp_moving(images["moving"]) if result.warped_moving is None else result.warped_moving
        limits = intensity_limits(images["moving"].numpy())
        first, straight = upright(images["fixed"], result.fixed_grid)
        volumes = {
            "fixed": window(first[0]),
            "before": window(upright(start, result.fixed_grid)[0][0], limits),
            "after": window(upright(after, result.fixed_grid)[0][0], limits),
        }
        views = views_of(straight, middle(volumes["fixed"]), volumes["fixed"] > 0.25)
        residuals = None if masks is None else _residuals(result, fixed, moving, masks)
        return cls(result, volumes, smoothed(volumes["fixed"], straight), straight, views, residuals)

    def viewer(self) -> str:
        """The images, to be compared."""
        before = "at the positions that the registration started from"
        note = f"Before: the moving image {before}, resampled onto the fixed grid. Patient's right is on the left."
        if len(self.grid.shape) == 2:
            note = f"Before: the moving image {before}, resampled onto the fixed grid."
        views = "\n".join(self._view(view) for view in self.views)
        return Template(asset("report_viewer.html")).substitute(views=views, note=note)

    def _view(self, view: View) -> str:
        width, height = view.size
        count, box = len(view.planes), f'viewBox="0 0 {width} {height}"'
        over = f'<use class="contour" href="#{view.name}-{view.start}"/>'
        names = {"fixed": "fixed", "before": "moving, before", "after": "moving, warped"}
        layers = "".join(
            f'<div class="layer {key}"><img alt="{name}, {view.name}" src="{view.strip(self.volumes[key])}">'
            f'<svg {box}>{over}</svg><span class="name">{name}</span></div>'
            for key, name in names.items()
        )
        paths = view.contours(self.outline)
        defined = "".join(
            f'<path id="{view.name}-{i}" vector-effect="non-scaling-stroke" d="{d}"/>' for i, d in enumerate(paths)
        )
        letters = "".join(
            f'<span class="letter {side}">{letter}</span>'
            for side, letter in zip("lrtb", view.planes[0].labels, strict=True)
            if letter
        )
        ends = f'min="0" max="{count - 1}" value="{view.start}"'
        slider = f'<input class="slice" type="range" {ends} aria-label="{view.name} position">' if count > 1 else ""
        return (
            f'<figure class="view" data-plane="{view.name}" data-places="{escape(json.dumps(self._places(view)))}" '
            f'style="--w:{width};--h:{height};--n:{count};--k:{view.start}">'
            f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{defined}</defs></svg>'
            f'<div class="stage">{layers}<svg class="over" {box}>{over}</svg>{letters}</div>{slider}'
            f"<figcaption><span>{view.name}</span><output></output></figcaption></figure>"
        )

    def _places(self, view: View) -> list[int]:
        """World position of every cut along the axis across it, mm."""
        if len(self.grid.shape) == 2:
            return [0]
        axis = 3 - view.planes[0].across - view.planes[0].up
        point, out = (np.array(self.grid.shape) - 1) / 2, []
        for plane in view.planes:
            point[axis] = plane.index
            out.append(round(float(apply_affine(self.grid.affine, point)[axis])))
        return out


def _residuals(
    result: RegistrationResult, fixed: ImageSource, moving: ImageSource, masks: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray] | str:
    from ..visualize import residual_maps  # which draws with this package

    try:
        maps = residual_maps(result, fixed, moving, **masks, initial=result.initial)
    except InputError as error:
        return str(error)
    before, after = (upright(m, result.fixed_grid)[0][0] for m in maps)
    return before, after
