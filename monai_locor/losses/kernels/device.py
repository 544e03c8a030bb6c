# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The Triton kernels of the local Gram matrices. Importing this module needs Triton.

Tensors have features or units first and voxels or windows last. With one warp per program, a thread then holds all features of
its voxels, and a sum over features needs no exchange between threads.

The features are ``[psi, t, root]``, with psi and t weighted by the root. The upper triangle of their Gram matrix holds every
map of a :class:`monai_locor.losses.products.LocalGram`: the means are products with the root, and the mass is its square.

The weights of the network lie in one buffer, padded with zeros: ``w1`` ``(C, P1)``, ``b1`` ``(P1)``, ``w2`` ``(P1, P2)``,
``b2`` ``(P2)``, ``w3`` ``(J, P2)``, ``b3`` ``(J)``. P1, P2 and FP are powers of two.

Loops over units are not unrolled, and the address of the weights changes in the loop over voxels: otherwise the compiler loads
all weights in advance, into more registers than a thread has.
"""

import triton
import triton.language as tl

DOT = tl.constexpr(16)  # shortest axis of a matrix product


@triton.jit
def gram_row(i, j, J: tl.constexpr, T: tl.constexpr, MEANS: tl.constexpr, MASS: tl.constexpr):
    """Row of the product of the features i <= j in the maps, -1 where it is not one of them."""
    means: tl.constexpr = J * (J + 1) // 2 + J * T + T
    # psi_i psi_j one cyclic diagonal after the other, as in `gram_pairs`
    row = tl.where(2 * (j - i) <= J, (j - i) * J + i, (J - j + i) * J + j)
    row = tl.where(j < J, row, J * (J + 1) // 2 + i * T + j - J)
    row = tl.where((i >= J) & (j < J + T), tl.where(i == j, means - T + i - J, -1), row)
    if MEANS:
        row = tl.where(j == J + T, means + i, row)
    else:
        row = tl.where(j == J + T, -1, row)
    if MASS:
        row = tl.where((i == J + T) & (j == J + T), means + (J + T) * MEANS, row)
    else:
        row = tl.where(i == J + T, -1, row)
    return tl.where((i <= j) & (j <= J + T), row, -1)


@triton.jit
def weight_of(rows, starts, row, item, inside, count, width):
    """Weights of voxels in rows of the table, zero where a row does not hold the voxel or is none of the axis."""
    inside = inside & (row < count)
    column = item - tl.load(starts + row, mask=inside, other=0)
    return tl.load(rows + row * width + column, mask=inside & (column >= 0) & (column < width), other=0.0)


@triton.jit(do_not_specialize=["width", "reach"])
def lists_kernel(table, known, integers, weights, width, reach, M: tl.constexpr, HEAD: tl.constexpr):
    """Write the windows of an axis one by one, and those of its voxels, see :class:`.lists.WindowLists`.

    The weights of a window lie beside each other in its row of the table, with zeros around them. At most ``reach`` rows can
    hold a voxel.
    """
    head = known + tl.program_id(1) * HEAD
    count, size, covered, covering = tl.load(head), tl.load(head + 1), tl.load(head + 2), tl.load(head + 3)
    starts, lows, rows = known + tl.load(head + 4), known + tl.load(head + 5), table + tl.load(head + 6) * width
    item = tl.program_id(0) * M + tl.arange(0, M)
    inside = item < count
    first = item * 0
    for k in range(width):
        present = tl.load(rows + item * width + width - 1 - k, mask=inside, other=0.0) != 0.0
        first = tl.where(present, width - 1 - k, first)
    tl.store(integers + tl.load(head + 7) + item, tl.load(starts + item, mask=inside, other=0) + first, mask=inside)
    for k in range(covered):
        value = tl.load(rows + item * width + first + k, mask=inside & (first + k < width), other=0.0)
        tl.store(weights + tl.load(head + 9) + item * covered + k, value, mask=inside)
    inside = item < size
    low = tl.load(lows + item, mask=inside, other=0)
    first = low
    for k in range(reach):
        row = low + reach - 1 - k
        first = tl.where(weight_of(rows, starts, row, item, inside, count, width) != 0.0, row, first)
    tl.store(integers + tl.load(head + 8) + item, first, mask=inside)
    for k in range(covering):
        value = weight_of(rows, starts, first + k, item, inside, count, width)
        tl.store(weights + tl.load(head + 10) + item * covering + k, value, mask=inside)


@triton.jit
def first_layer(pred, weights, voxel, inside, voxels, C: tl.constexpr, P1: tl.constexpr, M: tl.constexpr):
    """Sums of the first layer before the ReLU, ``(P1, M)``."""
    unit = tl.arange(0, P1)
    value = tl.zeros((P1, M), dtype=tl.float32) + tl.load(weights + C * P1 + unit)[:, None]
    for c in tl.static_range(C):
        given = tl.load(pred + c * voxels + voxel, mask=inside, other=0.0)
        value += tl.load(weights + c * P1 + unit)[:, None] * given[None, :]
    return value


@triton.jit
def second_layer(pred, weights, voxel, inside, voxels, C: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, M: tl.constexpr):
    """Values of the second layer after the ReLU, ``(P2, M)``."""
    unit = tl.arange(0, P2)
    hidden = tl.zeros((P2, M), dtype=tl.float32) + tl.load(weights + (C + 1 + P2) * P1 + unit)[:, None]
    for k in range(P1):
        value = tl.zeros((M,), dtype=tl.float32) + tl.load(weights + C * P1 + k)
        for c in tl.static_range(C):
            value += tl.load(weights + c * P1 + k) * tl.load(pred + c * voxels + voxel, mask=inside, other=0.0)
        value = tl.where(value < 0.0, 0.0, value)  # unlike a maximum, this keeps a NaN
        hidden += tl.load(weights + (C + 1) * P1 + k * P2 + unit)[:, None] * value[None, :]
    return tl.where(hidden < 0.0, 0.0, hidden)


@triton.jit
def features_of(
    hidden, target, root, weights, voxel, inside, voxels,
    C: tl.constexpr, J: tl.constexpr, T: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, FP: tl.constexpr,
    ROOT: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Basis values before weighting ``(FP, M)``, all features ``(FP, M)``, and the root of the weights ``(M,)``."""
    unit, feature = tl.arange(0, P2), tl.arange(0, FP)
    start: tl.constexpr = (C + 1 + P2) * P1 + P2
    psi = tl.zeros((FP, M), dtype=tl.float32)
    for j in range(J):
        row = tl.sum(tl.load(weights + start + j * P2 + unit)[:, None] * hidden, 0) + tl.load(weights + start + J * P2 + j)
        psi = tl.where(feature[:, None] == j, (1.0 / (1.0 + tl.exp(-row)))[None, :], psi)
    scale = tl.zeros((M,), dtype=tl.float32) + 1.0
    if ROOT:
        scale = tl.load(root + voxel, mask=inside, other=0.0)
    found = tl.where(feature[:, None] == J + T, 1.0, psi)
    for c in tl.static_range(T):
        row = tl.load(target + c * voxels + voxel, mask=inside, other=0.0)
        found = tl.where(feature[:, None] == J + c, row[None, :], found)
    return psi, found * scale[None, :], scale


@triton.jit(do_not_specialize=["item", "root_item", "begin", "end", "voxels"])
def features_kernel(
    pred, target, root, weights, out, item, root_item, begin, end, voxels,
    C: tl.constexpr, J: tl.constexpr, T: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, FP: tl.constexpr,
    ROOT: tl.constexpr, F: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Write the features of the voxels from ``begin`` to ``end`` of an item, ``(F, end - begin)``."""
    pred, target = pred + item.to(tl.int64) * (C * voxels), target + item.to(tl.int64) * (T * voxels)
    root += root_item.to(tl.int64) * voxels
    voxel = begin + tl.program_id(0) * M + tl.arange(0, M)
    inside = voxel < end
    hidden = second_layer(pred, weights, voxel, inside, voxels, C, P1, P2, M)
    _, found, _ = features_of(hidden, target, root, weights, voxel, inside, voxels, C, J, T, P1, P2, FP, ROOT, M)
    feature = tl.arange(0, FP)
    at = feature[:, None] * (end - begin) + (voxel - begin)[None, :]
    tl.store(out + at, found, mask=(feature[:, None] < F) & inside[None, :])


@triton.jit(do_not_specialize=["item", "plane0", "plane1", "row0", "row1", "s0", "s1", "s2", "n0", "n1", "n2"])
def average_kernel(
    features, first0, first1, first2, weight0, weight1, weight2, out,
    item, plane0, plane1, row0, row1, s0, s1, s2, n0, n1, n2,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr,
    J: tl.constexpr, T: tl.constexpr, MEANS: tl.constexpr, MASS: tl.constexpr, F: tl.constexpr, FP: tl.constexpr,
    R: tl.constexpr,
):  # fmt: skip
    """Add the share of the planes from ``plane0`` to ``plane1`` to the maps of the windows in the rows ``row0`` to ``row1``."""
    out += item.to(tl.int64) * ((J * (J + 1) // 2 + J * T + T + (J + T) * MEANS + MASS) * n0 * n1 * n2)
    window = row0 * n1 * n2 + tl.program_id(0) * R + tl.arange(0, R)
    inside = window < row1 * n1 * n2
    window = tl.where(inside, window, 0)
    r0, r1, r2 = window // (n1 * n2), (window // n2) % n1, window % n2
    z0, y0, x0 = tl.load(first0 + r0), tl.load(first1 + r1), tl.load(first2 + r2)
    feature = tl.arange(0, FP)
    stride = (plane1 - plane0) * s1 * s2
    gram = tl.zeros((FP, FP, R), dtype=tl.float32)
    for step in range(W0 * W1 * W2):
        k0, k1, k2 = step // (W1 * W2), (step // W2) % W1, step % W2
        z, y, x = z0 + k0, y0 + k1, x0 + k2
        seen = inside & (z >= plane0) & (z < plane1) & (y < s1) & (x < s2)
        weight = tl.load(weight0 + r0 * W0 + k0, mask=seen, other=0.0)
        weight *= tl.load(weight1 + r1 * W1 + k1, mask=seen, other=0.0)
        weight *= tl.load(weight2 + r2 * W2 + k2, mask=seen, other=0.0)
        at = feature[:, None] * stride + (((z - plane0) * s1 + y) * s2 + x)[None, :]
        values = tl.load(features + at, mask=(feature[:, None] < F) & seen[None, :], other=0.0)
        gram += (values * weight[None, :])[:, None, :] * values[None, :, :]
    row = gram_row(feature[:, None], feature[None, :], J, T, MEANS, MASS)
    place = out + row[:, :, None] * (n0 * n1 * n2) + window[None, None, :]
    keep = (row >= 0)[:, :, None] & inside[None, None, :]
    tl.store(place, tl.load(place, mask=keep, other=0.0) + gram, mask=keep)


@triton.jit
def features_gradient(
    slopes, values, first0, first1, first2, weight0, weight1, weight2, voxel, inside, s0, s1, s2, n0, n1, n2,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, F: tl.constexpr, FP: tl.constexpr, N: tl.constexpr,
    M: tl.constexpr,
):  # fmt: skip
    """Gradient of the first N features, ``(FP, M)``, from the slopes ``(F, N, windows)`` of the windows that see the voxels."""
    z, y, x = tl.where(inside, voxel // (s1 * s2), 0), (voxel // s2) % s1, voxel % s2
    r0, r1, r2 = tl.load(first0 + z), tl.load(first1 + y), tl.load(first2 + x)
    feature = tl.arange(0, FP)
    found = tl.zeros((FP, M), dtype=tl.float32)
    for step in range(K0 * K1 * K2):
        k0, k1, k2 = step // (K1 * K2), (step // K2) % K1, step % K2
        i0, i1, i2 = r0 + k0, r1 + k1, r2 + k2
        seen = inside & (i0 < n0) & (i1 < n1) & (i2 < n2)
        weight = tl.load(weight0 + z * K0 + k0, mask=seen, other=0.0)
        weight *= tl.load(weight1 + y * K1 + k1, mask=seen, other=0.0)
        weight *= tl.load(weight2 + x * K2 + k2, mask=seen, other=0.0)
        window = (i0 * n1 + i1) * n2 + i2
        for i in tl.static_range(F):
            at = (i * N + feature)[:, None] * (n0 * n1 * n2) + window[None, :]
            slope = tl.load(slopes + at, mask=(feature < N)[:, None] & seen[None, :], other=0.0)
            mine = tl.sum(tl.where(feature[:, None] == i, values, 0.0), 0) * weight
            found += slope * mine[None, :]
    return found


@triton.jit
def last_layer_gradient(
    outward, hidden, weights,
    C: tl.constexpr, J: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, FP: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """From the gradient before the sigmoid, that before the ReLU of the second layer, ``(P2, M)``, and itself, ``(DOT, M)``."""
    unit, feature, column = tl.arange(0, P2), tl.arange(0, FP), tl.arange(0, DOT)
    dhidden = tl.zeros((P2, M), dtype=tl.float32)
    dlast = tl.zeros((DOT, M), dtype=tl.float32)
    for j in range(J):
        row = tl.sum(tl.where(feature[:, None] == j, outward, 0.0), 0)
        dhidden += tl.load(weights + (C + 1 + P2) * P1 + P2 + j * P2 + unit)[:, None] * row[None, :]
        dlast = tl.where(column[:, None] == j, row[None, :], dlast)
    return tl.where(hidden <= 0.0, 0.0, dhidden), dlast


@triton.jit
def inputs_and_one(pred, voxel, inside, voxels, C: tl.constexpr, M: tl.constexpr):
    """The channels of the voxels and a row of ones after them, which stands for the bias, ``(DOT, M)``."""
    column = tl.arange(0, DOT)
    inputs = tl.where(column[:, None] == C, 1.0, tl.zeros((DOT, M), dtype=tl.float32))
    for c in tl.static_range(C):
        given = tl.load(pred + c * voxels + voxel, mask=inside, other=0.0)
        inputs = tl.where(column[:, None] == c, given[None, :], inputs)
    return inputs


@triton.jit(do_not_specialize=["item", "root_item", "s0", "s1", "s2", "n0", "n1", "n2", "zero"])
def gradient_kernel(
    pred, target, root, weights, slopes, first0, first1, first2, weight0, weight1, weight2,
    dpred, dtarget, partial, item, root_item, s0, s1, s2, n0, n1, n2, zero,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, T: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, FP: tl.constexpr,
    ROOT: tl.constexpr, F: tl.constexpr, N: tl.constexpr, NEED_PRED: tl.constexpr, NEED_WEIGHTS: tl.constexpr,
    PRECISION: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Gradients of the images of an item, and this program's share of those of the weights, in their order.

    ``slopes`` ``(F, N, windows)`` are the derivatives of the loss by the entries of the Gram matrix of all features and the
    first N, those on its diagonal doubled. N is J, or J + T where the target needs a gradient.
    """
    voxels = s0 * s1 * s2
    pred, dpred = pred + item.to(tl.int64) * (C * voxels), dpred + item.to(tl.int64) * (C * voxels)
    target, dtarget = target + item.to(tl.int64) * (T * voxels), dtarget + item.to(tl.int64) * (T * voxels)
    root += root_item.to(tl.int64) * voxels
    feature, unit1, unit2, column = tl.arange(0, FP), tl.arange(0, P1), tl.arange(0, P2), tl.arange(0, DOT)
    start: tl.constexpr = (C + 1 + P2) * P1 + P2
    d1 = tl.zeros((P1, DOT), dtype=tl.float32)
    d2 = tl.zeros((P2, P1), dtype=tl.float32)
    d3 = tl.zeros((DOT, P2), dtype=tl.float32)
    b2 = tl.zeros((P2, M), dtype=tl.float32)  # summed over voxels at the end
    b3 = tl.zeros((FP, M), dtype=tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(voxels, M), tl.num_programs(0)):
        voxel = block * M + tl.arange(0, M)
        inside = voxel < voxels
        layers = weights + tl.multiple_of(block * zero, 16)
        hidden = second_layer(pred, layers, voxel, inside, voxels, C, P1, P2, M)
        psi, values, scale = features_of(hidden, target, root, layers, voxel, inside, voxels, C, J, T, P1, P2, FP, ROOT, M)
        outward = features_gradient(
            slopes, values, first0, first1, first2, weight0, weight1, weight2, voxel, inside, s0, s1, s2, n0, n1, n2,
            K0, K1, K2, F, FP, N, M,
        )  # fmt: skip
        outward *= scale[None, :]
        if N > J:
            for c in tl.static_range(T):
                row = tl.sum(tl.where(feature[:, None] == J + c, outward, 0.0), 0)
                tl.store(dtarget + c * voxels + voxel, row, mask=inside)
        if NEED_PRED or NEED_WEIGHTS:
            outward = tl.where((feature[:, None] < J) & inside[None, :], outward * psi * (1.0 - psi), 0.0)
            dhidden, dlast = last_layer_gradient(outward, hidden, layers, C, J, P1, P2, FP, M)
            first = first_layer(pred, layers, voxel, inside, voxels, C, P1, M)
            w2 = tl.load(layers + (C + 1) * P1 + unit1[:, None] * P2 + unit2[None, :])
            dfirst = tl.where(first <= 0.0, 0.0, tl.dot(w2, dhidden, input_precision=PRECISION))
            if NEED_PRED:
                for c in tl.static_range(C):
                    row = tl.sum(tl.load(layers + c * P1 + unit1)[:, None] * dfirst, 0)
                    tl.store(dpred + c * voxels + voxel, row, mask=inside)
            if NEED_WEIGHTS:
                inputs = inputs_and_one(pred, voxel, inside, voxels, C, M)
                d1 += tl.dot(dfirst, tl.trans(inputs), input_precision=PRECISION)
                d2 += tl.dot(dhidden, tl.trans(tl.where(first < 0.0, 0.0, first)), input_precision=PRECISION)
                d3 += tl.dot(dlast, tl.trans(hidden), input_precision=PRECISION)
                b2 += dhidden
                b3 += outward
    if NEED_WEIGHTS:
        mine = partial + tl.program_id(0) * (start + J * P2 + J)
        tl.store(mine + column[None, :] * P1 + unit1[:, None], d1, mask=(column[None, :] <= C) & (unit1[:, None] < P1))
        tl.store(mine + (C + 1) * P1 + unit1[None, :] * P2 + unit2[:, None], d2)
        tl.store(mine + (C + 1 + P2) * P1 + unit2, tl.sum(b2, 1))
        tl.store(mine + start + column[:, None] * P2 + unit2[None, :], d3, mask=column[:, None] < J)
        tl.store(mine + start + J * P2 + feature, tl.sum(b3, 1), mask=feature < J)
