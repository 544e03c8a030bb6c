# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Conversion between closed contours in a slice and the covered fraction of its pixels. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..itk_library import load_itk

__all__ = ["coverage", "keyholes", "outlines"]

LINES_PER_PIXEL = 8  # scan lines; along a line, coverage is exact
MIN_CONTOUR_AREA = 1e-3  # pixels; smaller contours come from rounding


def coverage(contours: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fraction of each pixel that lies inside an odd number of contours (exclusive or), so that inner contours are holes.

    Args:
        contours: closed polygons ``(N, 2)``, pixels; pixel centers are at whole numbers.
        shape: number of pixels along both axes.

    Returns:
        ``shape``, float32, from 0 to 1.

    >>> coverage([np.array([[0.5, -0.5], [2.25, -0.5], [2.25, 0.5], [0.5, 0.5]])], (4, 1))[:, 0].tolist()
    [0.0, 1.0, 0.75, 0.0]
    """
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    first, last = ((points[:, 1] + 0.5) * LINES_PER_PIXEL - 0.5 for points in (start, end))  # in scan lines
    low, high = (
        np.ceil(ends).clip(0, shape[1] * LINES_PER_PIXEL).astype(int)
        for ends in (np.minimum(first, last), np.maximum(first, last))
    )
    counts = high - low
    edge = np.repeat(np.arange(len(start)), counts)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (last[edge] - first[edge])  # edges along a scan line have a count of 0
    crossing = start[edge, 0] + (line - first[edge]) * slope
    order = np.lexsort((crossing, line))
    line, crossing = line[order], (crossing[order] + 0.5).clip(0, shape[0])
    # A line has an even number of crossings. The inside starts at the first, ends at the second, and so on.
    sign = np.where(np.arange(len(order)) % 2, -1.0, 1.0)
    pixel = np.floor(crossing).astype(int)
    part = crossing - pixel
    changes = np.zeros((shape[1], shape[0] + 2))  # of coverage, from one pixel to the next
    np.add.at(changes, (line // LINES_PER_PIXEL, pixel), sign * (1 - part))
    np.add.at(changes, (line // LINES_PER_PIXEL, pixel + 1), sign * part)
    covered = np.cumsum(changes, axis=1)[:, : shape[0]].T / LINES_PER_PIXEL
    return covered.clip(0, 1).astype(np.float32)


def outlines(values: np.ndarray, level: float = 0.5) -> list[np.ndarray]:
    """Closed contours of an image at a level, by marching squares; outside of the image, values are zero.

    Args:
        values: ``(X, Y)``.
        level: positive.

    Returns:
        polygons ``(N, 2)``, pixels, without a repeated first point; holes have contours of their own, of the opposite
        orientation.
    """
    itk = load_itk("RTSTRUCT")
    padded = np.ascontiguousarray(np.pad(np.asarray(values, dtype=np.float32), 1).T)
    tracer = itk.ContourExtractor2DImageFilter.New(itk.image_view_from_array(padded), ContourValue=level)
    tracer.Update()
    found = []
    for k in range(tracer.GetNumberOfIndexedOutputs()):
        vertices = tracer.GetOutput(k).GetVertexList()
        vertex = (vertices.ElementAt(i) for i in range(vertices.Size() - 1))  # the last is the first again
        points = np.array([(place[0], place[1]) for place in vertex]).reshape(-1, 2) - 1
        if abs(_area(points)) >= MIN_CONTOUR_AREA:
            found.append(points)
    return found


def keyholes(contours: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Join each hole to the contour around it by a channel of zero width.

    The result is the same region for readers that fill an odd number of contours, every contour, or by the winding number.

    Args:
        contours: the result of :func:`outlines`.
    """
    ordered = sorted(contours, key=lambda contour: abs(_area(contour)))
    if not ordered:
        return []
    sign = np.sign(_area(ordered[-1]))  # the largest contour is not a hole
    outer = [contour for contour in ordered if np.sign(_area(contour)) == sign]
    holes: list[list[np.ndarray]] = [[] for _ in outer]
    for hole in ordered:
        if np.sign(_area(hole)) != sign:
            around = (
                k for k, contour in enumerate(outer) if abs(_area(contour)) > abs(_area(hole)) and _holds(contour, hole[0])
            )
            holes[next(around)].append(hole)
    return [_joined(contour, inner) for contour, inner in zip(outer, holes)]


def _joined(outer: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon of a contour and its holes, the nearest first."""
    for hole in sorted(holes, key=lambda hole: float(_distances(outer, hole).min())):
        away = _distances(outer, hole)
        i, j = np.unravel_index(int(away.argmin()), away.shape)
        outer = np.concatenate([outer[: i + 1], hole[j:], hole[: j + 1], outer[i:]])
    return outer


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs of points, ``(N, M)``."""
    return np.square(first[:, None] - second).sum(axis=2)


def _holds(contour: np.ndarray, point: np.ndarray) -> bool:
    """Whether a point is inside a polygon."""
    x, y = (contour - point).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    crossed = (y > 0) != (next_y > 0)
    at = x[crossed] - y[crossed] * (next_x - x)[crossed] / (next_y - y)[crossed]
    return int((at > 0).sum()) % 2 == 1


def _area(points: np.ndarray) -> float:
    """Area of a polygon; its sign is the orientation."""
    x, y = points.T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
