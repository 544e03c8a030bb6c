# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The syntax of elastix TransformParameters files: lines of ``(Key value value ...)``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry import Grid
from ..lps import lps_signs

__all__ = ["Parameters", "geometry_lines", "line"]

_LINE = re.compile(r"\((\w+)[ \t]+(.*?)\)[ \t]*(?://.*)?")  # of a line; linear in its length


@dataclass(frozen=True)
class Parameters:
    """Keys and values of a file, as text."""

    values: dict[str, str]
    name: str

    @classmethod
    def read(cls, path: Path, name: str) -> Parameters:
        """Parse a file.

        Raises:
            InputError: if it has no ``Transform`` key.
        """
        lines = (_LINE.fullmatch(text.strip()) for text in path.read_text(encoding="utf-8").splitlines())
        values = {found[1]: found[2].strip() for found in lines if found}
        if "Transform" not in values:
            raise InputError(f"{name}: has no line (Transform ...); is it complete, and of elastix?")
        return cls(values, name)

    def text(self, key: str, otherwise: str = "") -> str:
        """Return a value without its quotes."""
        return self.values.get(key, otherwise).strip('"')

    def numbers(self, key: str, count: int | None = None) -> np.ndarray:
        """Return the values of a key as float64.

        Raises:
            InputError: if they are missing, not numeric, or fewer or more than ``count``.
        """
        try:
            out = np.array(self.values[key].split(), dtype=np.float64)
        except (KeyError, ValueError):
            raise InputError(f"{self.name}: has no numbers ({key} ...); is it complete, and of elastix?") from None
        if count is not None and len(out) != count:
            raise InputError(f"{self.name}: has {len(out)} numbers in ({key} ...) instead of {count}; is it complete?")
        return out

    def grid(self, prefix: str, dims: int) -> Grid:
        """Return the grid given by ``<prefix>Size``, ``Spacing``, ``Origin`` and ``Direction`` (LPS, column-major)."""
        size, spacing, origin = (self.numbers(f"{prefix}{key}", dims) for key in ("Size", "Spacing", "Origin"))
        direction = np.eye(dims)
        if f"{prefix}Direction" in self.values:
            direction = self.numbers(f"{prefix}Direction", dims * dims).reshape(dims, dims).T
        affine = np.eye(dims + 1)
        affine[:-1, :-1] = lps_signs(dims)[:, None] * direction * spacing
        affine[:-1, -1] = lps_signs(dims) * origin
        return Grid(tuple(int(n) for n in size), affine)


def line(key: str, *values: object) -> str:
    """Return one line of a file; strings are quoted.

    >>> line("Transform", "AffineTransform")
    '(Transform "AffineTransform")'
    """
    words = [f'"{v}"' if isinstance(v, str) else str(v) if isinstance(v, int) else repr(float(str(v))) for v in values]
    return f"({key} {' '.join(words)})"


def geometry_lines(grid: Grid) -> list[str]:
    """Return the lines that define the output grid of ``transformix``."""
    signs = lps_signs(grid.dims)
    direction = signs[:, None] * grid.affine[:-1, :-1] / grid.spacing
    return [
        line("FixedImageDimension", grid.dims),
        line("MovingImageDimension", grid.dims),
        line("Size", *grid.shape),
        line("Index", *[0] * grid.dims),
        line("Spacing", *grid.spacing),
        line("Origin", *(signs * grid.affine[:-1, -1])),
        line("Direction", *direction.T.ravel()),
        line("UseDirectionCosines", "true"),
    ]
