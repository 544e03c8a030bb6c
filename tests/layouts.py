# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Arrays with the same values, as NumPy stores them and torch does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["LAYOUTS"]


def reversed_axes(array: np.ndarray) -> np.ndarray:
    """A view with negative strides, as of points in the order z, y, x."""
    return np.flip(np.flip(array).copy())


def field_of_records(array: np.ndarray) -> np.ndarray:
    """A column of a table, whose strides are no multiples of the size of its values."""
    table = np.zeros(array.shape, [("flag", "u1"), ("values", array.dtype)])
    table["values"] = array
    return table["values"]


def read_only(array: np.ndarray) -> np.ndarray:
    """As of a file that is mapped to memory."""
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reversed": reversed_axes,
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder("S")),
    "extended precision": lambda array: array.astype(np.result_type(array, np.longdouble)),
    "records": field_of_records,
    "read-only": read_only,
}
