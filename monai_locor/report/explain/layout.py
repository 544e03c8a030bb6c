# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Layout of the panels of the figure of a local fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .image_panels import Cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Layout", "make_layout"]

FIGURE_WIDTH = 13.4  # inches, as all lengths below
NUM_IMAGES = 5
IMAGES_WIDTH_SHARE = 0.914  # of the figure's
IMAGE_GAP = 0.04  # between images, share of their width
MIN_IMAGE_HEIGHT, MAX_IMAGE_HEIGHT = 1.1, 3.4  # limits for flat and tall images
TOP_MARGIN, IMAGES_FITS_GAP, FIT_HEIGHT, BOTTOM_MARGIN = 0.72, 0.5, 2.25, 0.45
FIT_GAP = 0.26  # between rows of fits, share of their height


@dataclass(frozen=True)
class Layout:
    """Axes of the figure: images ``(5,)``, fits ``(rows, columns)``, bases; and the color bars to their right."""

    images: list[Axes]
    fits: np.ndarray
    bases: list[Axes]
    image_bar: Axes
    fit_bars: list[Axes]


def make_layout(figure: Figure, cut: Cut, columns: int, bases: int, surface: bool) -> Layout:
    """Size the figure and make its axes.

    Args:
        figure: empty.
        cut: gives the shape of the images.
        columns: of the fits.
        bases: number of panels of basis functions.
        surface: whether the fits have a second row; the panels of basis functions are then stacked vertically.
    """
    panel = IMAGES_WIDTH_SHARE * FIGURE_WIDTH / (NUM_IMAGES + (NUM_IMAGES - 1) * IMAGE_GAP)
    picture = min(max(panel * cut.size[1] / cut.size[0], MIN_IMAGE_HEIGHT), MAX_IMAGE_HEIGHT)
    rows = 2 if surface else 1
    height = TOP_MARGIN + picture + IMAGES_FITS_GAP + (rows + (rows - 1) * FIT_GAP) * FIT_HEIGHT + BOTTOM_MARGIN
    figure.set_size_inches(FIGURE_WIDTH, height)
    low = (height - TOP_MARGIN - picture) / height
    right, top = 0.012 + IMAGES_WIDTH_SHARE, 1 - TOP_MARGIN / height
    images = figure.add_gridspec(1, NUM_IMAGES, left=0.012, bottom=low, right=right, top=top, wspace=IMAGE_GAP)
    bottom, top = BOTTOM_MARGIN / height, low - IMAGES_FITS_GAP / height
    fits = figure.add_gridspec(rows, columns, left=0.045, bottom=bottom, right=0.6, top=top, wspace=0.12, hspace=FIT_GAP)
    if surface:
        basis = figure.add_gridspec(bases, 1, left=0.705, bottom=bottom, right=0.945, top=top, hspace=FIT_GAP)
    else:
        basis = figure.add_gridspec(1, bases, left=0.66, bottom=bottom, right=0.945, top=top, wspace=0.85)
    grid = np.array([[figure.add_subplot(fits[i, j]) for j in range(columns)] for i in range(rows)])
    places = [axis.get_position() for axis in grid[:, -1]] if surface else []
    return Layout(
        images=[figure.add_subplot(images[0, i]) for i in range(NUM_IMAGES)],
        fits=grid,
        bases=[figure.add_subplot(basis[i]) for i in range(bases)],
        image_bar=figure.add_axes((0.024 + IMAGES_WIDTH_SHARE, low, 0.007, picture / height)),
        fit_bars=[figure.add_axes((0.607, place.y0, 0.007, place.height)) for place in places],
    )
