# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Empty matplotlib figures, and the colors of the dark ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BACKGROUND", "FOREGROUND", "new_figure"]

FOREGROUND, BACKGROUND = "#e8e8e8", "#101010"


def new_figure(background: str = BACKGROUND) -> tuple[Figure, Any]:
    """A figure with an Agg canvas of its own, which leaves matplotlib's backend as it is.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'monai-locor[plot]'") from error
    figure = Figure(facecolor=background)
    return figure, FigureCanvasAgg(figure)
