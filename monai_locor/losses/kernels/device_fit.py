# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The Triton kernels of the ridge regressions of the windows. Importing this module needs Triton.

Each thread holds the system of one window: ``A + ridge I`` of J basis functions, padded to JP rows and columns with those of
the identity, and T right-hand sides, padded to TP. It is factorized as ``L D L^T`` with a unit lower triangular L. The entries
below the diagonal become those of L, those above it the ones of ``D L^T``.

The maps are the rows of a :class:`monai_locor.losses.products.LocalGram`. Tensors have windows last, see :mod:`.device`.
"""

import triton
import triton.language as tl

from .device import gram_row


@triton.jit
def place_of_c(window, inside, windows, J: tl.constexpr, T: tl.constexpr, JP: tl.constexpr, TP: tl.constexpr):
    """Where c ``(JP, TP, R)`` of some windows lies in the maps, and which entries are there."""
    i, t = tl.arange(0, JP), tl.arange(0, TP)
    row = J * (J + 1) // 2 + i[:, None] * T + t[None, :]
    used = ((i < J)[:, None] & (t < T)[None, :])[:, :, None] & inside[None, None, :]
    return row[:, :, None] * windows + window[None, None, :], used


@triton.jit
def normal_equations(
    maps, window, inside, windows, ridge, J: tl.constexpr, T: tl.constexpr, JP: tl.constexpr, TP: tl.constexpr
):
    """``A + ridge I`` ``(JP, JP, R)`` and c ``(JP, TP, R)`` of some windows."""
    i = tl.arange(0, JP)
    low, high = tl.minimum(i[:, None], i[None, :]), tl.maximum(i[:, None], i[None, :])
    at = gram_row(low, high, J, T, False, False)[:, :, None] * windows + window[None, None, :]
    a = tl.load(maps + at, mask=(high < J)[:, :, None] & inside[None, None, :], other=0.0)
    diagonal = tl.where(i < J, ridge, 1.0)
    a += tl.where((i[:, None] == i[None, :])[:, :, None], diagonal[:, None, None], 0.0)
    at, used = place_of_c(window, inside, windows, J, T, JP, TP)
    return a, tl.load(maps + at, mask=used, other=0.0)


@triton.jit
def moments_of_target(maps, window, inside, windows, eps, J: tl.constexpr, T: tl.constexpr, JP: tl.constexpr, TP: tl.constexpr):
    """Means of the basis functions ``(JP, R)``; mean, variance and deviation of the target ``(TP, R)``."""
    i, t = tl.arange(0, JP), tl.arange(0, TP)
    second: tl.constexpr = J * (J + 1) // 2 + J * T
    kept = (t < T)[:, None] & inside[None, :]
    at = t[:, None] * windows + window[None, :]
    square = tl.load(maps + second * windows + at, mask=kept, other=0.0)
    mean = tl.load(maps + (second + T + J) * windows + at, mask=kept, other=0.0)
    used = (i < J)[:, None] & inside[None, :]
    psi = tl.load(maps + (second + T + i[:, None]) * windows + window[None, :], mask=used, other=0.0)
    variance = square - mean * mean
    variance = tl.where(variance < 0.0, 0.0, variance)
    return psi, mean, variance, tl.sqrt(variance + eps) + eps


@triton.jit
def factored(a, ridge, J: tl.constexpr, JP: tl.constexpr):
    """The factors in one tensor ``(JP, JP, R)`` and the pivots ``(JP, R)``, from a symmetric matrix."""
    i = tl.arange(0, JP)
    pivots = tl.zeros_like(tl.sum(a, 1)) + 1.0
    for k in range(J):
        here, below = i == k, i > k
        row = tl.sum(tl.where(here[:, None, None] & below[None, :, None], a, 0.0), 0)
        column = tl.sum(tl.where(here[None, :, None], a, 0.0), 1)
        pivot = tl.sum(tl.where(here[:, None], column, 0.0), 0)
        # the exact pivot is at least the ridge: a smaller one is rounding error
        pivot = tl.where((k > 0) & (pivot < 0.5 * ridge), 0.5 * ridge, pivot)
        pivots = tl.where(here[:, None], pivot[None, :], pivots)
        part = tl.where(below[:, None], column / pivot[None, :], 0.0)
        rest = a - part[:, None, :] * row[None, :, :]
        a = tl.where(below[:, None, None], tl.where(here[None, :, None], part[:, None, :], rest), a)
    return a, pivots


@triton.jit
def reduced(factors, x, J: tl.constexpr, JP: tl.constexpr):
    """``L^-1 x``, ``(JP, TP, R)``."""
    i = tl.arange(0, JP)
    for k in range(J):
        column = tl.sum(tl.where((i == k)[None, :, None] & (i > k)[:, None, None], factors, 0.0), 1)
        known = tl.sum(tl.where((i == k)[:, None, None], x, 0.0), 0)
        x -= column[:, None, :] * known[None, :, :]
    return x


@triton.jit
def substituted(factors, pivots, x, J: tl.constexpr, JP: tl.constexpr):
    """``L^-T D^-1 x``, ``(JP, TP, R)``."""
    i = tl.arange(0, JP)
    x = x / pivots[:, None, :]
    for step in range(J):
        k = J - 1 - step
        column = tl.sum(tl.where((i == k)[None, :, None] & (i < k)[:, None, None], factors, 0.0), 1) / pivots
        known = tl.sum(tl.where((i == k)[:, None, None], x, 0.0), 0)
        x -= column[:, None, :] * known[None, :, :]
    return x


@triton.jit(do_not_specialize=["rows", "windows"])
def residual_kernel(
    maps, out, rows, windows, ridge, eps,
    J: tl.constexpr, T: tl.constexpr, JP: tl.constexpr, TP: tl.constexpr, STANDARDIZED: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write the residuals ``(B, T, windows)`` at the ridge solutions, at least zero, from maps ``(B, rows, windows)``."""
    item = tl.program_id(1).to(tl.int64)
    maps, out = maps + item * rows * windows, out + item * T * windows
    window = tl.program_id(0) * R + tl.arange(0, R)
    inside, t = window < windows, tl.arange(0, TP)
    kept, at = (t < T)[:, None] & inside[None, :], t[:, None] * windows + window[None, :]
    a, c = normal_equations(maps, window, inside, windows, ridge, J, T, JP, TP)
    if STANDARDIZED:
        psi, mean, _, deviation = moments_of_target(maps, window, inside, windows, eps, J, T, JP, TP)
        c = (c - psi[:, None, :] * mean[None, :, :]) / deviation[None, :, :]
        b = tl.zeros_like(mean) + 1.0
    else:
        b = tl.load(maps + (J * (J + 1) // 2 + J * T) * windows + at, mask=kept, other=0.0)
    factors, pivots = factored(a, ridge, J, JP)
    z = reduced(factors, c, J, JP)
    theta = substituted(factors, pivots, z, J, JP)
    left = b - tl.sum(z * z / pivots[:, None, :] + ridge * theta * theta, 0)
    # unlike a maximum, this keeps a NaN
    tl.store(out + at, tl.where(left < 0.0, 0.0, left), mask=kept)


@triton.jit(do_not_specialize=["rows", "windows"])
def residual_gradient_kernel(
    maps, residual, grad, out, rows, windows, ridge, eps,
    J: tl.constexpr, T: tl.constexpr, JP: tl.constexpr, TP: tl.constexpr, STANDARDIZED: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the rows of A, c, b and, to standardize, of the means, from that of the residuals.

    With ``u = (A + ridge I)^-1 theta``, see :func:`monai_locor.losses.ridge.ridge_residual`.
    """
    item = tl.program_id(1).to(tl.int64)
    maps, out = maps + item * rows * windows, out + item * rows * windows
    residual, grad = residual + item * T * windows, grad + item * T * windows
    window = tl.program_id(0) * R + tl.arange(0, R)
    inside, i, t = window < windows, tl.arange(0, JP), tl.arange(0, TP)
    second: tl.constexpr = J * (J + 1) // 2 + J * T
    kept, at = (t < T)[:, None] & inside[None, :], t[:, None] * windows + window[None, :]
    a, c = normal_equations(maps, window, inside, windows, ridge, J, T, JP, TP)
    if STANDARDIZED:
        psi, mean, variance, deviation = moments_of_target(maps, window, inside, windows, eps, J, T, JP, TP)
        c = (c - psi[:, None, :] * mean[None, :, :]) / deviation[None, :, :]
    factors, pivots = factored(a, ridge, J, JP)
    theta = substituted(factors, pivots, reduced(factors, c, J, JP), J, JP)
    u = substituted(factors, pivots, reduced(factors, theta, J, JP), J, JP)
    down = tl.load(grad + at, mask=kept, other=0.0)
    down = tl.where(tl.load(residual + at, mask=kept, other=0.0) <= 0.0, 0.0, down)  # clamped ones have no gradient
    slope = down[None, :, :] * (theta + 2.0 * ridge * u)
    dc = -slope - down[None, :, :] * theta
    if STANDARDIZED:
        ddeviation = -tl.sum(dc * c, 0) / deviation
        down = tl.where(variance <= 0.0, 0.0, 0.5 * ddeviation / (deviation - eps))  # of the variance
        dc = dc / deviation[None, :, :]
        dmean = -tl.sum(psi[:, None, :] * dc, 0) - 2.0 * mean * down
        tl.store(out + (second + T + J) * windows + at, dmean, mask=kept)
        means = (second + T + i[:, None]) * windows + window[None, :]
        tl.store(out + means, -tl.sum(mean[None, :, :] * dc, 1), mask=(i < J)[:, None] & inside[None, :])
    tl.store(out + second * windows + at, down, mask=kept)
    place, used = place_of_c(window, inside, windows, J, T, JP, TP)
    tl.store(out + place, dc, mask=used)
    outer = tl.zeros_like(a)
    for k in tl.static_range(T):
        mine = tl.sum(tl.where((t == k)[None, :, None], theta, 0.0), 1)
        other = tl.sum(tl.where((t == k)[None, :, None], slope, 0.0), 1)
        outer += mine[:, None, :] * other[None, :, :] + other[:, None, :] * mine[None, :, :]
    # off the diagonal an entry of the maps stands twice in A
    outer = tl.where((i[:, None] == i[None, :])[:, :, None], 0.5 * outer, outer)
    place = gram_row(i[:, None], i[None, :], J, T, False, False)[:, :, None] * windows + window[None, None, :]
    upper = ((i[:, None] <= i[None, :]) & (i < J)[None, :])[:, :, None] & inside[None, None, :]
    tl.store(out + place, outer, mask=upper)
