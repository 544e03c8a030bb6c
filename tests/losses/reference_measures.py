# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The measures once more, from their formulas: loops over voxels, bins and windows in plain Python. One item, one channel.

Nothing is shared with the package. Images are `(*spatial)` tensors, intensities in [0, 1] where there are bins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch

Index = tuple[int, ...]
Image = dict[Index, float]
Parzen = Callable[[float, int], list[float]]


def voxels(shape: Sequence[int]) -> Iterator[Index]:
    return itertools.product(*(range(n) for n in shape))


def as_image(tensor: torch.Tensor) -> Image:
    return {at: float(tensor[at]) for at in voxels(tensor.shape)}


def gaussian_parzen(u: float, bins: int, ratio: float = 0.5) -> list[float]:
    """`exp(-(u - b_k)^2 / 2 sigma^2)`, normalized over the bins, `sigma` a share of the distance of two bins."""
    sigma = ratio / (bins - 1)
    raw = [math.exp(-((u - k / (bins - 1)) ** 2) / (2 * sigma**2)) for k in range(bins)]
    return [value / sum(raw) for value in raw]


def spline_parzen(u: float, bins: int) -> list[float]:
    """Xu et al. 2008."""

    def h(t: float) -> float:
        if t < 0.5:
            return 1 - 0.1 * t - 1.8 * t**2
        return 1.9 - 3.7 * t + 1.8 * t**2 if t < 1 else 0.0

    return [h(abs(u * (bins - 1) - k)) for k in range(bins)]


def joint_probability(pred: Image, target: Image, weight: Image, bins: int, parzen: Parzen) -> list[list[float]]:
    total = sum(weight.values())
    joint = [[0.0] * bins for _ in range(bins)]
    for at, w in weight.items():
        for k, a in enumerate(parzen(pred[at], bins)):
            for l, b in enumerate(parzen(target[at], bins)):
                joint[k][l] += w * a * b / total
    return joint


def mutual_information(joint: list[list[float]], eps: float = 1e-5) -> float:
    rows, columns = [sum(row) for row in joint], [sum(column) for column in zip(*joint, strict=True)]
    out = 0.0
    for k, p in enumerate(rows):
        for l, q in enumerate(columns):
            out -= joint[k][l] * math.log((joint[k][l] + eps) / (p * q + eps) + eps)
    return out


def normalized_mutual_information(joint: list[list[float]]) -> float:
    """Without any epsilon."""

    def entropy(values: list[float]) -> float:
        return -sum(p * math.log(p) for p in values if p > 0)

    rows, columns = [sum(row) for row in joint], [sum(column) for column in zip(*joint, strict=True)]
    return -(entropy(rows) + entropy(columns)) / entropy([p for row in joint for p in row])


def unexplained(pred: Image, target: Image, weight: Image, bins: int, parzen: Parzen, eps: float = 1e-5) -> float:
    """Remaining over whole variance, for weights of sum one."""
    remaining = mean = square = 0.0
    for k in range(bins):
        mass = first = second = 0.0
        for at, w in weight.items():
            h = w * parzen(pred[at], bins)[k]
            mass, first, second = mass + h, first + h * target[at], second + h * target[at] ** 2
        remaining += second - first**2 / (mass + eps)
        mean, square = mean + first, square + second
    return remaining / (square - mean**2 / (1 + eps) + eps)


def window_weights(axes: Sequence[torch.Tensor]) -> Iterator[Image]:
    """Weights of the voxels of one window after the other, from one matrix `(windows, size)` per axis."""
    for window in voxels([len(matrix) for matrix in axes]):
        rows = [matrix[r] for matrix, r in zip(axes, window, strict=True)]
        yield {
            at: math.prod(float(row[i]) for row, i in zip(rows, at, strict=True)) for at in voxels([len(row) for row in rows])
        }


def box_matrix(size: int, edge: int) -> torch.Tensor:
    """Mean of the voxels no further than half an edge that exist, around every voxel."""
    near = torch.tensor([[float(abs(i - j) <= edge // 2) for j in range(size)] for i in range(size)], dtype=torch.float64)
    return near / near.sum(1, keepdim=True)


def squared_correlation(pred: Image, target: Image, weight: Image, eps: float = 1e-5) -> float:
    """For weights of sum one."""
    p, t = (sum(w * image[at] for at, w in weight.items()) for image in (pred, target))
    covariance = sum(w * (pred[at] - p) * (target[at] - t) for at, w in weight.items())
    variances = [sum(w * (image[at] - m) ** 2 for at, w in weight.items()) for image, m in ((pred, p), (target, t))]
    return covariance**2 / ((variances[0] + eps) * (variances[1] + eps))


def windowed(axes: Sequence[torch.Tensor], mask: Image, least: float, value: Callable[[Image], float]) -> list[float]:
    """A value of every window, 0 where it does not hold enough of the mask, from its weights, which sum to one."""
    out = []
    for weights in window_weights(axes):
        masked = {at: w * mask[at] for at, w in weights.items()}
        mass = sum(masked.values())
        out.append(value({at: w / mass for at, w in masked.items()}) if mass >= least else 0.0)
    return out


def cubic_spline(t: float) -> float:
    t = abs(t)
    if t < 1:
        return (4 - 6 * t**2 + 3 * t**3) / 6
    return (2 - t) ** 3 / 6 if t < 2 else 0.0


def spline_matrix(size: int, spacing: int) -> torch.Tensor:
    """Regions centered on the edges between voxels, the set in the middle of the axis, not normalized."""
    count = size // spacing + 1
    centers = [(size - 1) / 2 + spacing * (r - (count - 1) / 2) for r in range(count)]
    return torch.tensor([[cubic_spline((i - c) / spacing) for i in range(size)] for c in centers], dtype=torch.float64)


def srwcr(pred: Image, target: Image, mask: Image, axes: Sequence[torch.Tensor], bins: int, eps: float = 1e-6) -> float:
    """With the joint histogram of every region, and every sum over a and b written out."""
    centers = [k / (bins - 1) for k in range(bins)]
    regions = []
    for weights in window_weights(axes):
        joint = [[0.0] * bins for _ in range(bins)]
        for at, w in weights.items():
            for k, a in enumerate(spline_parzen(pred[at], bins)):
                for l, b in enumerate(spline_parzen(target[at], bins)):
                    joint[k][l] += w * mask[at] * a * b
        regions.append(joint)
    total = sum(p for joint in regions for row in joint for p in row)
    out = 0.0
    for counts in regions:
        joint = [[p / total for p in row] for row in counts]
        mass = sum(p for row in joint for p in row)
        conditional = [[p / (mass + eps) for p in row] for row in joint]
        of_target = [sum(column) for column in zip(*conditional, strict=True)]
        mean = sum(b * p for b, p in zip(centers, of_target, strict=True))
        variance = sum((b - mean) ** 2 * p for b, p in zip(centers, of_target, strict=True))
        for k, row in enumerate(joint):
            given = sum(b * p for b, p in zip(centers, conditional[k], strict=True)) / (sum(conditional[k]) + eps)
            out += sum(p * (b**2 - given**2) for b, p in zip(centers, row, strict=True)) / (variance + eps)
    return out


def mind(image: Image, shape: Sequence[int], weight: Image, radius: int = 2, dilation: int = 2) -> dict[Index, list[float]]:
    """MIND-SSC of every voxel."""

    def clamped(at: Sequence[int]) -> Index:
        return tuple(min(max(i, 0), n - 1) for i, n in zip(at, shape, strict=True))

    steps = [tuple(sign * dilation * (i == axis) for i in range(len(shape))) for axis in range(len(shape)) for sign in (1, -1)]
    pairs = [(p, q) for p, q in itertools.combinations(steps, 2) if sum((a - b) ** 2 for a, b in zip(p, q)) == 2 * dilation**2]
    patch = list(itertools.product(range(-radius, radius + 1), repeat=len(shape)))
    squares = {}
    for at in voxels(shape):
        ends = [[image[clamped([i + s for i, s in zip(at, step)])] for step in pair] for pair in pairs]
        squares[at] = [(first - second) ** 2 for first, second in ends]
    distances: dict[Index, list[float]] = {}
    for at in voxels(shape):
        around = [squares[clamped([i + o for i, o in zip(at, offset)])] for offset in patch]
        values = [sum(of_pair) / len(patch) for of_pair in zip(*around, strict=True)]
        distances[at] = [value - min(values) for value in values]
    variance = {at: sum(d) / len(d) for at, d in distances.items()}
    mean = sum(weight[at] * v for at, v in variance.items()) / sum(weight.values())
    limited = {at: min(max(v, 1e-3 * mean), 1e3 * mean) for at, v in variance.items()}
    return {at: [math.exp(-x / limited[at]) for x in d] for at, d in distances.items()}


def mind_difference(first: dict[Index, list[float]], second: dict[Index, list[float]], weight: Image) -> float:
    """Weighted mean over voxels and pairs of the squared difference."""
    out = 0.0
    for at, w in weight.items():
        out += w * sum((a - b) ** 2 for a, b in zip(first[at], second[at], strict=True)) / len(first[at])
    return out / sum(weight.values())
