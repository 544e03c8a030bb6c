# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK's text format for transforms (``.tfm``, ``.txt``), read and written without ITK, which takes seconds to import."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .itk_linear import ItkTransform

__all__ = ["TEXT_SIGNATURE", "affine_text", "read_text"]

#: start of each file
TEXT_SIGNATURE = "#Insight Transform File"


def affine_text(lps: np.ndarray) -> str:
    """File content for a matrix ``(D + 1, D + 1)``, LPS mm, with its center at the origin."""
    dims = len(lps) - 1
    numbers = " ".join(repr(float(v)) for v in [*lps[:dims, :dims].ravel(), *lps[:dims, dims]])
    return (
        f"{TEXT_SIGNATURE} V1.0\n#Transform 0\n"
        f"Transform: AffineTransform_double_{dims}_{dims}\n"
        f"Parameters: {numbers}\nFixedParameters: {' '.join(['0'] * dims)}\n"
    )


def read_text(path: Path) -> list[ItkTransform]:
    """The transforms in a text file, of any type and precision.

    Raises:
        ValueError: if it is not an ITK text file, or is damaged.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # comments may be in any language
    if not text.lstrip().startswith(TEXT_SIGNATURE):
        raise ValueError(f"does not begin with {TEXT_SIGNATURE!r} as ITK's text files do")
    found: list[dict[str, str]] = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if key == "Transform":
            found.append({})
        if not colon or not found or key not in ("Transform", "Parameters", "FixedParameters") or key in found[-1]:
            raise ValueError(f"has an unexpected line {line[:40]!r}")
        found[-1][key] = value.strip()
    return [_transform(values) for values in found]


def _transform(values: dict[str, str]) -> ItkTransform:
    kind = values["Transform"]
    missing = [key for key in ("Parameters", "FixedParameters") if key not in values and "Composite" not in kind]
    if missing:
        raise ValueError(f"has no line {missing[0]!r} for its {kind}")
    numbers = (np.array(values.get(key, "").split(), dtype=np.float64) for key in ("Parameters", "FixedParameters"))
    return ItkTransform.of(kind, *numbers)
