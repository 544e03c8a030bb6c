# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The estimated error over the anatomy: colors, lines of equal error, scale, and slices for the viewer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...quality.error_map import ErrorMap
from ..evidence import two_digits
from ..pictures.planes import upright
from .images import View, colors, contour_path

__all__ = ["ERROR_NAMES", "ShownError"]

COLOR_MAP = "viridis"  # lighter is more, for all kinds of color vision
NUM_COLORS = 33
MAX_OPACITY = 0.75
TOP_QUANTILE = 0.98  # of the expected error, that the colors reach at least
MIN_TOP_VOXELS = 2.0  # that the colors reach at least, so that small errors look calm
LEVELS = {"dotted": 0.25, "dashed": 0.5, "solid": 1.0}  # of lines, relative to the end of the colors
CODE_REACH = 4.0  # highest coded error, relative to the end of the colors
HATCH_PIXELS = 8  # distance of the lines where the error is not determined
ERROR_NAMES = {"expected": "expected error", "low": "lower bound of the error", "high": "upper bound of the error"}


@dataclass(frozen=True)
class ShownError:
    """The estimated error in the anatomy, upright, ``(*shape)`` each.

    Attributes:
        expected, low, high: mm; NaN outside the anatomy and where it is not determined.
        anatomy: bool.
        top: error at the end of the colors, mm.
    """

    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    anatomy: np.ndarray
    top: float

    @classmethod
    def of(cls, error: ErrorMap | None, anatomy: np.ndarray) -> ShownError | None:
        """Restrict an error map to the anatomy, ``(*shape)`` bool, upright; None if it is determined nowhere there."""
        if error is None:
            return None
        expected, low, high = (np.where(anatomy, values, math.nan) for values in upright(error.channels(), error.grid)[0])
        known = expected[np.isfinite(expected)]
        if not known.size:
            return None
        high_quantile = float(np.quantile(known, TOP_QUANTILE))
        top = 2.0 ** math.ceil(math.log2(max(high_quantile, MIN_TOP_VOXELS * float(error.grid.spacing.min()))))
        return cls(expected, low, high, anatomy, top)

    @property
    def determined(self) -> np.ndarray:
        """Voxels of the anatomy whose error is estimated, ``(*shape)`` bool."""
        return np.isfinite(self.expected)

    def summary(self) -> str:
        """The errors in words."""
        known = self.expected[self.determined]
        median, high = np.quantile(known, (0.5, 0.95))
        unknown = 100 * (1 - known.size / max(1, int(self.anatomy.sum())))
        rest = f"; not determined in {unknown:.0f} % of it" if unknown >= 0.5 else ""
        return f"Estimated error in the anatomy: median {two_digits(median)} mm, 95th percentile {two_digits(high)} mm{rest}."

    def picture(self, view: View, fixed: np.ndarray) -> np.ndarray:
        """A plane of the fixed image under the colors of the expected error, ``(height, width, 3)``, in [0, 1].

        Gray diagonal lines mark anatomy where the error is not determined.
        """
        errors = self._plane(view)
        known = np.isfinite(errors)
        shade = _shades(np.clip(np.nan_to_num(errors) / self.top, 0, 1))
        gray = np.clip(view.picture(fixed), 0, 1)
        opacity = np.where(known, shade[..., 3], 0.0)[..., None]
        mixed: np.ndarray = gray[..., None] * (1 - opacity) + shade[..., :3] * opacity
        rows, columns = np.indices(gray.shape)
        hatched = (view.picture(self.anatomy.astype(np.float32)) > 0.5) & ~known
        mixed[hatched & ((rows + columns) % HATCH_PIXELS < 2)] = 0.6
        return mixed

    def lines(self, view: View) -> str:
        """SVG paths of the lines of equal expected error in a plane."""
        plane = self._plane(view)
        return "".join(
            f'<path class="iso {style}" d="{contour_path(plane, [share * self.top])}"/>' for style, share in LEVELS.items()
        )

    def _plane(self, view: View) -> np.ndarray:
        """The expected error in a plane, ``(height, width)``; NaN where less than half of a pixel is determined."""
        weight, errors = view.picture(self.determined.astype(np.float32)), view.picture(np.nan_to_num(self.expected))
        return np.where(weight > 0.5, errors / np.maximum(weight, 1e-6), math.nan)

    def scale(self) -> str:
        """The color bar, the lines and the hatching in words."""
        stops = [(1 - a) * 0.5 + a * rgb for rgb, a in ((s[:3], s[3]) for s in _shades(np.linspace(0, 1, 9)))]  # over gray
        shades = ",".join("#" + "".join(f"{round(255 * c):02x}" for c in stop) for stop in stops)
        bar = f'<i class="bar" style="background:linear-gradient(90deg,{shades})"></i>'
        lines = "".join(f"<span>{_sample(style)}{_mm(share * self.top)}</span>" for style, share in LEVELS.items())
        return (
            f'<p class="legend error"><span>error 0 {bar} {_mm(self.top)} and more</span>{lines}'
            '<span><i class="hatch"></i>not determined</span></p>'
        )

    def data(self) -> dict[str, Any]:
        """Colors, opacities and levels for the script."""
        shades = np.round(_shades(np.linspace(0, 1, NUM_COLORS)) * 255).astype(int).tolist()
        return {"top": self.top, "reach": CODE_REACH * self.top, "shades": shades, "levels": list(LEVELS.values())}

    def stacks(self) -> dict[str, np.ndarray]:
        """Volumes for the viewer in [0, 1]: the square roots of the errors relative to the highest coded one."""
        middle = float(np.median(self.expected[self.determined]))  # smooth where nothing is shown, for the compression
        maps = {name: np.where(self.determined, getattr(self, name), middle) for name in ERROR_NAMES}
        return {name: np.sqrt(np.clip(values / (CODE_REACH * self.top), 0, 1)) for name, values in maps.items()}

    def region(self) -> np.ndarray:
        """0 outside the anatomy, 128 where the error is not determined, 255 where it is, ``(*shape)`` uint8."""
        return np.where(self.determined, 255, np.where(self.anatomy, 128, 0)).astype(np.uint8)


def _shades(shares: np.ndarray) -> np.ndarray:
    """Color and opacity of errors relative to the end of the colors, ``(*any, 4)``."""
    opacity = MAX_OPACITY * np.sqrt(shares)
    return np.concatenate([colors(shares, 0, 1, COLOR_MAP), opacity[..., None]], -1)


def _sample(style: str) -> str:
    """A short line of this style."""
    return f'<svg viewBox="0 0 30 6" aria-hidden="true"><path class="iso {style}" d="M0 3H30"/></svg>'


def _mm(value: float) -> str:
    return f"{value:g} mm"
