# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pictures of both images that need no script: they are printed, and shown where the viewer cannot run."""

from __future__ import annotations

import numpy as np

from .images import View, data_uri, views_of
from .report_images import ReportImages

__all__ = ["MASK_NAMES", "contour_shapes", "letters", "stills"]

CONTOURS = " with contours of the fixed image"
MASK_NAMES = {"fixed_mask": "fixed mask", "moving_mask": "moving mask, warped"}


def stills(images: ReportImages) -> str:
    """The fixed image, and the warped image with contours of the fixed one, through the most doubtful place or the middle."""
    views, where = images.views, "the middle of the anatomy"
    if images.places:
        center = images.voxel_at(images.places[0].position_mm)
        views, where = views_of(images.grid, np.rint(center).astype(int).tolist()), "place 1, in the circle"
    first = "".join(_first(view, images) for view in views)
    second = "".join(
        _figure(view, "warped moving image", CONTOURS, view.picture(images.volumes["after"]), _lines(view, images))
        for view in views
    )
    scale = "" if images.error is None else images.error.scale()
    note = f'<p class="note">Planes through {where}.</p>'
    return f'<div class="maps">{first}</div>{scale}<div class="maps">{second}</div>{_legend(images)}{note}'


def _first(view: View, images: ReportImages) -> str:
    """The fixed image, under the estimated error if there is one."""
    if images.error is None:
        return _figure(view, "fixed image", "", view.picture(images.volumes["fixed"]), _mark(view, images))
    picture = images.error.picture(view, images.volumes["fixed"])
    return _figure(view, "expected error", " over the fixed image", picture, images.error.lines(view) + _mark(view, images))


def _figure(view: View, name: str, more: str, picture: np.ndarray, lines: str) -> str:
    """A picture with lines over it; ``more`` follows the name in the text alternative."""
    width, height = view.size
    image = f'<img alt="{name}{more}, {view.name}" src="{data_uri(picture)}">'
    return (
        f'<figure><div class="map first" style="--w:{width};--h:{height}">{image}'
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{lines}</svg>{letters(view)}</div>'
        f"<figcaption>{name}, {view.name}</figcaption></figure>"
    )


def _mark(view: View, images: ReportImages) -> str:
    """A circle around the first place; empty without places."""
    if not images.places:
        return ""
    voxel = images.voxel_at(images.places[0].position_mm)
    x, y = view.pixel_of(voxel, images.grid.shape)
    return f'<circle class="spot" cx="{x:.1f}" cy="{y:.1f}" r="{0.03 * max(view.size):.1f}"/>'


def _lines(view: View, images: ReportImages) -> str:
    lines = [f'<use class="contour" href="#contour-{view.name}"/>']
    if view not in images.views:
        lines = [f'<path class="contour" d="{view.contours(images.outline)}"/>']
    lines += [f'<path class="{name}" d="{view.contours(mask, [0.5])}"/>' for name, mask in images.masks.items()]
    return "".join(lines)


def _legend(images: ReportImages) -> str:
    """Legend of the lines."""
    marks = {"contour": "contours of the fixed image", **{name: MASK_NAMES[name] for name in images.masks}}
    items = "".join(f'<span><i class="{name}"></i>{text}</span>' for name, text in marks.items())
    return f'<p class="legend">{items}</p>'


def contour_shapes(images: ReportImages) -> str:
    """Contours of the fixed image in the middle planes, which the maps refer to."""
    shapes = "".join(
        f'<path id="contour-{view.name}" vector-effect="non-scaling-stroke" d="{view.contours(images.outline)}"/>'
        for view in images.views
    )
    return f'<svg class="shapes" width="0" height="0" aria-hidden="true"><defs>{shapes}</defs></svg>'


def letters(view: View) -> str:
    """Orientation letters at the left, right, top and bottom."""
    pairs = zip("lrtb", view.plane.labels, strict=True)
    return "".join(f'<span class="letter {side}" aria-hidden="true">{letter}</span>' for side, letter in pairs if letter)
