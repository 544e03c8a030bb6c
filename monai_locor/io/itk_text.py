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

"""One affine map in ITK's text format (``.tfm``, ``.txt``), written and read without ITK.

ITK's own reader and writer first load every transform that it has, for ten seconds.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

__all__ = ["affine_text", "read_affine_text"]

_FIRST = ["#Insight Transform File V1.0", "#Transform 0"]
_KIND = re.compile(r"AffineTransform_double_([23])_\1")


def affine_text(lps: np.ndarray) -> str:
    """The file of a matrix ``(D + 1, D + 1)`` on LPS mm; its centre is the origin."""
    dims = len(lps) - 1
    numbers = " ".join(repr(float(v)) for v in [*lps[:dims, :dims].ravel(), *lps[:dims, dims]])
    return (
        "\n".join(_FIRST) + "\n"
        f"Transform: AffineTransform_double_{dims}_{dims}\n"
        f"Parameters: {numbers}\nFixedParameters: {' '.join(['0'] * dims)}\n"
    )


def read_affine_text(path: Path) -> np.ndarray | None:
    """The matrix ``(D + 1, D + 1)`` on LPS mm of a text file with one affine map of doubles.

    Returns:
        ``None`` for every other file, a damaged one included: ITK reads it, or says what is wrong with it.
    """
    if path.suffix.lower() not in (".tfm", ".txt"):
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return None
    names = [line.split(":")[0] for line in lines[2:]]
    if lines[:2] != _FIRST or names != ["Transform", "Parameters", "FixedParameters"]:
        return None
    kind, *values = (line.split(":", 1)[1].strip() for line in lines[2:])
    match = _KIND.fullmatch(kind)
    return None if match is None else _matrix(int(match[1]), *values)


def _matrix(dims: int, parameters: str, centre: str) -> np.ndarray | None:
    try:
        values, fixed = (np.array(text.split(), dtype=np.float64) for text in (parameters, centre))
    except ValueError:
        return None
    if values.shape != (dims * (dims + 1),) or fixed.shape != (dims,):
        return None
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1] = values[: dims * dims].reshape(dims, dims)
    matrix[:-1, -1] = values[dims * dims :]
    if fixed.any():  # the map turns about its centre
        matrix[:-1, -1] += fixed - matrix[:-1, :-1] @ fixed
    return matrix
