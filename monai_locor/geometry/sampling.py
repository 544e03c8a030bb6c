# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Interpolation of images and fields between their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..precision import guarded

__all__ = ["identity_points", "reorder", "sample", "sample_gradient", "sample_gradients", "sample_normalized", "to_normalized"]


def identity_points(
    shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Voxel indices of a grid, ``(D, *shape)``."""
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def to_normalized(shape: Sequence[int]) -> tuple[list[float], list[float]]:
    """Scale and offset, per axis, from voxel indices to the [-1, 1] of ``grid_sample`` with aligned corners.

    An axis of one voxel has no extent: every position on it means that voxel, up to half a voxel away.
    """
    scale = [2.0 / (n - 1) if n > 1 else 2.0 for n in shape]
    return scale, [-1.0 if n > 1 else 0.0 for n in shape]


@guarded
def sample(image: torch.Tensor, points: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros") -> torch.Tensor:
    """Sample images at voxel positions.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3 spatial axes; with ``"nearest"`` of any type, which is kept, else of that of
            the points.
        points: ``(B, D, *out)``, positions in voxels of ``image``, channel i along array axis i.
        mode: ``"bilinear"`` (linear in each axis) or ``"nearest"``.
        padding_mode: ``"zeros"`` or ``"border"``, the values outside the image.

    Returns:
        ``(B, C, *out)``.
    """
    if mode == "nearest":
        return _nearest(image, points, padding_mode)
    # one axis after the other with numbers of Python: a tensor of them would have to be copied to a GPU
    scaled = [points[:, axis] * scale + offset for axis, (scale, offset) in enumerate(zip(*to_normalized(image.shape[2:])))]
    flat = torch.stack(scaled[::-1], -1).flatten(1, -2)
    return sample_normalized(image, flat, padding_mode).reshape(*image.shape[:2], *points.shape[2:])


SIGNED_TYPES = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # which torch can gather


def _nearest(image: torch.Tensor, points: torch.Tensor, padding_mode: str) -> torch.Tensor:
    """The voxels nearest to positions, as they are; half way between two the even one, as ``grid_sample`` has it."""
    index = torch.zeros((), dtype=torch.int64, device=points.device)
    inside = torch.ones((), dtype=torch.bool, device=points.device)
    for axis, n in enumerate(image.shape[2:]):
        where = points[:, axis].round()
        if n > 1:  # an axis of one voxel has no outside
            inside = inside & (where >= 0) & (where <= n - 1)
        index = index * n + where.nan_to_num(0).clamp(0, n - 1).long()
    stored = image.view(SIGNED_TYPES[image.dtype]) if image.dtype in SIGNED_TYPES else image
    values = stored.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, image.shape[1], -1))
    values = values.unflatten(2, points.shape[2:])
    values = values if padding_mode == "border" else values.masked_fill(~inside[:, None], 0)
    return values.view(image.dtype) if image.dtype in SIGNED_TYPES else values


def sample_normalized(image: torch.Tensor, points: torch.Tensor, padding_mode: str = "zeros") -> torch.Tensor:
    """Sample images at a list of positions that are already normalized, linearly in each axis.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3.
        points: ``(B, N, D)`` in [-1, 1], *last array axis first* as in ``torch.nn.functional.grid_sample``.

    Returns:
        ``(B, C, N)``.
    """
    chunks = _cpu_chunks(image, points)
    if chunks > 1:  # grid_sample on the CPU shares work between threads over the batch axis only
        out = _grid_sample(image.expand(chunks, *image.shape[1:]), _chunked(points, chunks), padding_mode)
        return out.transpose(0, 1).reshape(1, image.shape[1], -1)[..., : points.shape[1]]
    return _grid_sample(image, points, padding_mode)


def sample_gradient(image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Adjoint of :func:`sample_normalized` (linear, zeros outside) in the positions; nothing of its forward is needed.

    Args:
        image: ``(1, C, *spatial)``.
        points: ``(1, N, D)``.
        gradient: ``(1, C, N)``, of the sampled values.

    Returns:
        ``(1, N, D)``.
    """
    chunks = _cpu_chunks(image, points)
    if chunks > 1:
        image = image.expand(chunks, *image.shape[1:])
        gradient = _chunked(gradient.transpose(1, 2), chunks).transpose(1, 2)
    out = _backward(image, _chunked(points, chunks), gradient, "zeros", False)[1]
    return out.reshape(1, -1, points.shape[2])[:, : points.shape[1]]


def sample_gradients(image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adjoint of :func:`sample_normalized` (linear, ``"border"``) in the image and in the positions.

    Args:
        image: ``(B, C, *spatial)``.
        points: ``(B, N, D)``.
        gradient: ``(B, C, N)``.

    Returns:
        ``(B, C, *spatial)`` and ``(B, N, D)``.
    """
    found, where = _backward(image, points, gradient, "border", True)
    return found, where.view_as(points)


def _backward(
    image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor, padding_mode: str, need_image: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    dims = points.shape[2]
    backward = torch.ops.aten.grid_sampler_2d_backward if dims == 2 else torch.ops.aten.grid_sampler_3d_backward
    values = gradient.reshape(*gradient.shape[:2], *(1,) * (dims - 1), -1)
    # linear, what lies outside, aligned corners
    return backward(values, image, _as_grid(points), 0, ("zeros", "border").index(padding_mode), True, [need_image, True])


def _cpu_chunks(image: torch.Tensor, points: torch.Tensor) -> int:
    worth = image.device.type == "cpu" and points.shape[0] == 1 and points.shape[1] >= 16384 and points.shape[2] == 3
    # the adjoint of a shared image would be held once per chunk
    return torch.get_num_threads() if worth and not image.requires_grad else 1


def _chunked(values: torch.Tensor, chunks: int) -> torch.Tensor:
    """``(1, N, C)`` to ``(chunks, N / chunks, C)``, filled up with zeros."""
    if chunks == 1:
        return values
    count = values.shape[1]
    size = -(-count // chunks)
    return F.pad(values, (0, 0, 0, size * chunks - count)).reshape(chunks, size, -1)


def _as_grid(points: torch.Tensor) -> torch.Tensor:
    return points.reshape(points.shape[0], *(1,) * (points.shape[2] - 1), -1, points.shape[2])


def _grid_sample(image: torch.Tensor, points: torch.Tensor, padding_mode: str) -> torch.Tensor:
    return F.grid_sample(image, _as_grid(points), mode="bilinear", padding_mode=padding_mode, align_corners=True).flatten(2)


def reorder(image: torch.Tensor, axes: Sequence[int], flips: Sequence[bool], leading: int = 1) -> torch.Tensor:
    """Store an image ``(*leading, *spatial)`` in another axis order, see :meth:`monai_locor.geometry.Grid.reordered`."""
    out = image.permute(*range(leading), *(leading + a for a in axes))
    flipped = [leading + i for i, flip in enumerate(flips) if flip]
    return (out.flip(flipped) if flipped else out).contiguous()
