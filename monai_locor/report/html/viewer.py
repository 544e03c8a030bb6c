# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The images of the report on one upright grid: overview and viewer, with masks and label maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import Grid, apply_affine, warp, warped
from ...io import ImageSource, read_image
from ...io.masks import mask_on_grid
from ...quality.labels import LabelOverlap
from ..explain.residual import residual_maps
from ..pictures.contours import bright_center, smoothed_outline
from ..pictures.planes import intensity_limits, upright, window
from .assets import asset
from .images import View, data_uri, views_of
from .labels import color_indices
from .stacks import columns_of, shown_grid, stack

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult

__all__ = ["ReportImages"]

IMAGE_NAMES = {"fixed": "fixed image", "before": "moving image before", "after": "warped moving image"}
MASK_NAMES = {"fixed_mask": "fixed mask", "moving_mask": "moving mask, warped"}


@dataclass(frozen=True)
class ReportImages:
    """The images of a registration as upright volumes, with the views that are shown.

    Attributes:
        result: registration result.
        volumes: ``fixed``, ``before``, ``after`` in [0, 1], ``(*shape)``.
        masks: ``fixed_mask`` and ``moving_mask`` if given, likewise.
        labels: label maps on the fixed grid.
        outline: smoothed fixed image, for contours.
        grid: of all volumes, upright.
        views: planes that are shown.
        residuals: maps before and after, ``(*shape)`` with NaN; the reason why they are missing; or None.
    """

    result: RegistrationResult
    volumes: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    labels: Sequence[LabelOverlap]
    outline: np.ndarray
    grid: Grid
    views: list[View]
    residuals: tuple[np.ndarray, np.ndarray] | str | None

    @classmethod
    def of(
        cls,
        result: RegistrationResult,
        fixed: ImageSource,
        moving: ImageSource,
        masks: Mapping[str, ImageSource | None],
        labels: Sequence[LabelOverlap] = (),
        residuals: bool = True,
    ) -> ReportImages:
        """Read the images and resample everything onto the fixed grid, upright.

        Args:
            result: registration result.
            fixed, moving: images.
            masks: ``fixed_mask`` and ``moving_mask``.
            labels: see :func:`monai_locor.report.labels.label_overlaps`.
            residuals: whether to map the local residual.
        """
        most = result.config.max_pixels
        images = {role: read_image(x, role, max_pixels=most)[0] for role, x in (("fixed", fixed), ("moving", moving))}
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
        views = views_of(straight, bright_center(volumes["fixed"]))
        maps = _residuals(result, fixed, moving, masks) if residuals else None
        outline = smoothed_outline(volumes["fixed"], straight)
        return cls(result, volumes, _masks(result, masks), labels, outline, straight, views, maps)

    def overview(self) -> str:
        """The overview: the warped image with contours of the fixed image and outlines of the masks."""
        figures = []
        for view in self.views:
            picture = data_uri(view.picture(self.volumes["after"]))
            alt = f"warped moving image with contours of the fixed image, {view.name}"
            contour = f'<path id="contour-{view.name}" vector-effect="non-scaling-stroke" d="{view.contours(self.outline)}"/>'
            lines = [f'<g class="contour">{contour}</g>']
            lines += [f'<path class="{name}" d="{view.contours(mask, [0.5])}"/>' for name, mask in self.masks.items()]
            width, height = view.size
            figures.append(
                f'<figure><div class="map first" style="--w:{width};--h:{height}"><img alt="{alt}" src="{picture}">'
                f'<svg viewBox="0 0 {width} {height}">{"".join(lines)}</svg>{_letters(view)}</div>'
                f"<figcaption>{view.name}</figcaption></figure>"
            )
        return f'<div class="maps">{"".join(figures)}</div>{self._legend()}'

    def _legend(self) -> str:
        """Legend of the lines."""
        marks = {"contour": "contours of the fixed image", **{name: MASK_NAMES[name] for name in self.masks}}
        items = "".join(f'<span><i class="{name}"></i>{text}</span>' for name, text in marks.items())
        return f'<p class="legend">{items}</p>'

    def viewer(self) -> str:
        """The viewer, which compares all slices of both images."""
        note = "Before: the moving image at the start of the registration, resampled onto the fixed grid."
        note += " Patient's right is on the left." if self.grid.dims == 3 else ""
        return Template(asset("report_viewer.html")).substitute(
            data=escape(json.dumps(self._data())),
            views="\n".join(self._view(view) for view in self.views),
            stacks="\n".join(self._stacks()),
            labels=self._label_selector(),
            masks="" if self.masks else " hidden",
            flat="" if self.grid.dims == 3 else " hidden",
            note=f"{note} {self._extent()}",
        )

    def _data(self) -> dict[str, Any]:
        """Geometry of the volumes for the script."""
        grid = shown_grid(self.grid)
        center = (np.array(self.grid.shape) - 1) / 2
        places = []
        for axis, factor in enumerate(np.array(self.grid.shape) / np.array(grid.shape)):
            ends = [
                np.where(np.arange(grid.dims) == axis, place, center) for place in ((factor - 1) / 2, (factor - 1) / 2 + factor)
            ]
            low, high = (float(apply_affine(self.grid.affine, end)[axis]) for end in ends)
            places.append([round(low, 3), round(high - low, 5)])
        start = [
            round(p * n / m) for p, n, m in zip(bright_center(self.volumes["fixed"]), grid.shape, self.grid.shape, strict=True)
        ]
        blur = [0.007 * float(grid.extent.max()) / float(s) for s in grid.spacing]
        return {
            "shape": list(grid.shape),
            "spacing": [round(float(s), 5) for s in grid.spacing],
            "columns": columns_of(grid.shape),
            "places": places,
            "start": [min(s, n - 1) for s, n in zip(start, grid.shape, strict=True)],
            "blur": [round(b, 3) for b in blur],
        }

    def _extent(self) -> str:
        """Note on the resolution of the viewer."""
        shown, there = ("×".join(map(str, shape)) for shape in (shown_grid(self.grid).shape, self.grid.shape))
        if shown == there:
            return f"All {there} voxels of the fixed grid are shown."
        return f"To keep this file small, {shown} voxels are shown, averages of the {there} voxels of the fixed grid."

    def _stacks(self) -> list[str]:
        """Hidden images with all slices of every volume."""
        found = [(name, IMAGE_NAMES[name], stack(volume), "") for name, volume in self.volumes.items()]
        found += [
            (name, MASK_NAMES[name], stack(np.round(255 * m).astype(np.uint8), True), "") for name, m in self.masks.items()
        ]
        for number, pair in enumerate(self.labels):
            maps, palette = color_indices(pair, self.result.fixed_grid)
            for side, volume in maps.items():
                colors = f' data-colors="{escape(json.dumps(palette))}"'
                found.append((f"labels-{number}-{side}", f"{pair.name}, {side}", stack(volume, True), colors))
        return [
            f'<img class="stack" hidden data-name="{name}" alt="all slices: {escape(text)}" src="{uri}"{more}>'
            for name, text, uri, more in found
        ]

    def _label_selector(self) -> str:
        """Selector of the label map that is drawn."""
        if not self.labels:
            return ""
        options = "".join(f'<option value="{n}">{escape(pair.name)}</option>' for n, pair in enumerate(self.labels))
        return f'<label class="switch">labels <select id="labels"><option value="">none</option>{options}</select></label>'

    def _view(self, view: View) -> str:
        plane = view.plane
        cut = 3 - plane.across - plane.up if self.grid.dims == 3 else -1
        count = shown_grid(self.grid).shape[cut] if cut >= 0 else 1
        name = f"{view.name} position"
        slider = f'<input class="slice" type="range" min="0" max="{count - 1}" aria-label="{name}">' if count > 1 else ""
        return (
            f'<figure class="view" data-axes="{plane.across} {plane.up} {cut}" style="--w:{view.size[0]};--h:{view.size[1]}">'
            f'<div class="stage"><canvas tabindex="0" aria-label="{view.name} view"></canvas>{_letters(view)}</div>{slider}'
            f"<figcaption><span>{view.name}</span><output></output></figcaption></figure>"
        )


def _letters(view: View) -> str:
    """Orientation letters at the left, right, top and bottom."""
    pairs = zip("lrtb", view.plane.labels, strict=True)
    return "".join(f'<span class="letter {side}">{letter}</span>' for side, letter in pairs if letter)


def _masks(result: RegistrationResult, masks: Mapping[str, ImageSource | None]) -> dict[str, np.ndarray]:
    """The given masks, upright on the fixed grid, in [0, 1]."""
    found = {}
    for name, field in (("fixed_mask", None), ("moving_mask", result.forward_mm)):
        source = masks.get(name)
        if source is not None:
            role, own = ("fixed", result.fixed_grid) if field is None else ("moving", result.moving_grid)
            mask = mask_on_grid(source, role, own)
            on_fixed = mask if field is None else warp(mask, own, field, result.fixed_grid)
            found[name] = upright(on_fixed, result.fixed_grid)[0][0].clip(0, 1)
    return found


def _residuals(
    result: RegistrationResult, fixed: ImageSource, moving: ImageSource, masks: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray] | str:
    try:
        maps = residual_maps(result, fixed, moving, **masks, initial=result.initial)
    except InputError as error:
        return str(error)
    before, after = (upright(m, result.fixed_grid)[0][0] for m in maps)
    return before, after
