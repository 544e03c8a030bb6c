# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The viewer of all slices, with the list of doubtful places."""

from __future__ import annotations

import json
from html import escape
from string import Template
from typing import Any

import numpy as np

from ...geometry import apply_affine
from ..evidence import two_digits
from ..pictures.contours import bright_center
from ..places import Place
from .assets import asset
from .error_pictures import ERROR_NAMES
from .images import View
from .labels import color_indices, label_values
from .landmark_points import landmark_parts, landmark_voxels
from .report_images import ReportImages
from .stacks import columns_of, shown_grid, stack
from .stills import MASK_NAMES, letters

__all__ = ["places_list", "viewer"]

ERROR_MODE = '<label><input type="radio" name="mode" value="error" checked><span>error map</span></label>'
ERROR_OF = (
    '<label class="switch error">show <select id="error-of"><option value="expected">the expected error</option>'
    '<option value="high">the upper bound</option></select></label>'
)
ERROR_NOTE = (
    "Error: distance between the point that a voxel is mapped to and its true position, estimated with a 90 % "
    "interval. Not determined: the images do not tell."
)
ERROR_PLACES = (
    "The highest upper bounds of the error, with expected error and 90 % interval; local measures decide between equal ones."
)
MEASURE_PLACES = "Places where local measures stand out, the most doubtful first. They need not be misaligned."
IMAGE_NAMES = {"fixed": "fixed image", "before": "moving image before", "after": "warped moving image"}


def viewer(images: ReportImages) -> str:
    """The viewer, which compares all slices of both images."""
    note = "Before: the moving image at the start of the registration, resampled onto the fixed grid."
    note += " Patient's right is on the left." if images.grid.dims == 3 else ""
    return Template(asset("report_viewer.html")).substitute(
        data=escape(json.dumps(_data(images))),
        views="\n".join(_view(images, view) for view in images.views),
        stacks="\n".join(_stacks(images)),
        labels=_label_selector(images),
        masks="" if images.masks else " hidden",
        flat="" if images.grid.dims == 3 else " hidden",
        places=places_list(images),
        **_error_parts(images),
        **landmark_parts(images),
        no_places="" if images.places else " hidden",
        note=f"{note} {_extent(images)}",
    )


def places_list(images: ReportImages) -> str:
    """The list of doubtful places, each a button that moves the viewer there; empty if there are none."""
    if not images.places:
        return ""
    items = "\n".join(
        f'<li><button type="button" class="place" data-place="{number}" aria-pressed="false" aria-keyshortcuts="{number}">'
        f'<span class="number">{number}</span><span class="about">{_about(place)}</span></button></li>'
        for number, place in enumerate(images.places, 1)
    )
    title = '<h3 id="places-title">Where to look first</h3>'
    note = f'<p class="note">{MEASURE_PLACES if images.places[0].error_mm is None else ERROR_PLACES}</p>'
    return f'<section class="places" aria-labelledby="places-title">\n{title}\n<ol>\n{items}\n</ol>\n{note}\n</section>'


def _about(place: Place) -> str:
    """Reason and position of a place."""
    position = ", ".join(f"{x:.1f}" for x in place.position_mm).replace("-", "−")
    voxel = ", ".join(map(str, place.voxel))
    unit = "RAS mm" if len(place.position_mm) == 3 else "mm"
    where = f'<span class="where">{position} {unit} · voxel {voxel}</span>'
    if place.error_mm is None:
        return f"<b>{escape(place.reason)}</b> {where}"
    expected, low, high = (two_digits(value) for value in place.error_mm)
    return f"<b>{expected} mm expected, {low} to {high} mm</b> {escape(place.reason)} {where}"


def _error_parts(images: ReportImages) -> dict[str, str]:
    """The parts of the viewer that show the estimated error; empty if there is none."""
    if images.error is None:
        parts = dict.fromkeys(("error_mode", "error_of", "error_scale"), "")
        return {**parts, "mode": "blend", "blend": " checked", "no_error": " hidden"}
    scale = f'{images.error.scale()}<p class="note error">{ERROR_NOTE}</p>'
    parts = {"error_mode": ERROR_MODE, "error_of": ERROR_OF, "error_scale": scale}
    return {**parts, "mode": "error", "blend": "", "no_error": ""}


def _data(images: ReportImages) -> dict[str, Any]:
    """Geometry of the volumes for the script."""
    grid = shown_grid(images.grid)
    center = (np.array(images.grid.shape) - 1) / 2
    axes = []
    for axis, factor in enumerate(np.array(images.grid.shape) / np.array(grid.shape)):
        ends = [
            np.where(np.arange(grid.dims) == axis, place, center) for place in ((factor - 1) / 2, (factor - 1) / 2 + factor)
        ]
        low, high = (float(apply_affine(images.grid.affine, end)[axis]) for end in ends)
        axes.append([round(low, 3), round(high - low, 5)])
    blur = [0.007 * float(grid.extent.max()) / float(s) for s in grid.spacing]
    return {
        "error": None if images.error is None else images.error.data(),
        "shape": list(grid.shape),
        "columns": columns_of(grid.shape),
        "axes": axes,
        "affine": np.round(grid.affine[:-1], 4).tolist(),
        "start": _shown(images, np.array(bright_center(images.volumes["fixed"]), dtype=float)),
        "blur": [round(b, 3) for b in blur],
        "landmarks": landmark_voxels(images),
        "places": [_shown(images, images.voxel_at(place.position_mm)) for place in images.places],
    }


def _shown(images: ReportImages, voxel: np.ndarray) -> list[int]:
    """The voxel of the viewer at a position in voxels of the images."""
    shape, shown = np.array(images.grid.shape), np.array(shown_grid(images.grid).shape)
    nearest = np.rint((voxel + 0.5) * shown / shape - 0.5).astype(int)
    return [int(v) for v in np.clip(nearest, 0, shown - 1)]


def _extent(images: ReportImages) -> str:
    """Note on the resolution of the viewer."""
    shown, there = ("×".join(map(str, shape)) for shape in (shown_grid(images.grid).shape, images.grid.shape))
    if shown == there:
        return f"All {there} voxels of the fixed grid are shown."
    return f"To keep this file small, {shown} voxels are shown, averages of the {there} voxels of the fixed grid."


def _stacks(images: ReportImages) -> list[str]:
    """Hidden images with all slices of every volume."""
    found = [(name, IMAGE_NAMES[name], stack(volume), "") for name, volume in images.volumes.items()]
    found += [(name, MASK_NAMES[name], stack(np.round(255 * m).astype(np.uint8), True), "") for name, m in images.masks.items()]
    for number, pair in enumerate(images.labels):
        maps, palette = color_indices(pair, images.result.fixed_grid)
        for side, volume in maps.items():
            values = label_values(pair)[: len(palette)]
            colors = f' data-colors="{escape(json.dumps(palette))}" data-values="{json.dumps(values)}"'
            found.append((f"labels-{number}-{side}", f"{pair.name}, {side}", stack(volume, True), colors))
    if images.error is not None:
        found += [(name, ERROR_NAMES[name], stack(volume), "") for name, volume in images.error.stacks().items()]
        found.append(("region", "where the error is determined", stack(images.error.region(), True), ""))
    return [
        f'<img class="stack" hidden data-name="{name}" alt="all slices: {escape(text)}" src="{uri}"{more}>'
        for name, text, uri, more in found
    ]


def _label_selector(images: ReportImages) -> str:
    """Selector of the label map that is drawn."""
    if not images.labels:
        return ""
    options = "".join(f'<option value="{n}">{escape(pair.name)}</option>' for n, pair in enumerate(images.labels))
    return f'<label class="switch">labels <select id="labels"><option value="">none</option>{options}</select></label>'


def _view(images: ReportImages, view: View) -> str:
    plane = view.plane
    cut = 3 - plane.across - plane.up if images.grid.dims == 3 else -1
    count = shown_grid(images.grid).shape[cut] if cut >= 0 else 1
    slider = ""
    if count > 1:
        slider = f'<input class="slice" type="range" min="0" max="{count - 1}" aria-label="{view.name} slice">'
    kind = f'role="slider" aria-valuemin="1" aria-valuemax="{count}" aria-valuenow="1"' if count > 1 else 'role="img"'
    return (
        f'<figure class="view" data-axes="{plane.across} {plane.up} {cut}" style="--w:{view.size[0]};--h:{view.size[1]}">'
        f'<div class="stage"><canvas tabindex="0" {kind} aria-label="{view.name} view"></canvas>{letters(view)}</div>{slider}'
        f"<figcaption><span>{view.name}</span><output></output></figcaption></figure>"
    )
