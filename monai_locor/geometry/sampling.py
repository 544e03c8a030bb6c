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
    """Scale and offset per axis, from voxel indices to [-1, 1] as in ``grid_sample`` with ``align_corners``.

    On an axis of one voxel, all positions up to half a voxel away refer to that voxel.
    """
    scale = [2.0 / (n - 1) if n > 1 else 2.0 for n in shape]
    return scale, [-1.0 if n > 1 else 0.0 for n in shape]


@guarded
def sample(image: torch.Tensor, points: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros") -> torch.Tensor:
    """Sample images at voxel positions.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3 spatial axes; any dtype for ``"nearest"``, otherwise the dtype of the points.
        points: ``(B, D, *out)``, positions in voxels of ``image``, channel i along array axis i.
        mode: ``"bilinear"`` (linear along each axis) or ``"nearest"``.
        padding_mode: values outside the image, ``"zeros"`` or ``"border"``.

    Returns:
        ``(B, C, *out)``.
    """
    if mode == "nearest":
        return _nearest(image, points, padding_mode)
    # axis by axis with Python numbers: a tensor of them would have to be copied to the GPU
    scaled = [points[:, axis] * scale + offset for axis, (scale, offset) in enumerate(zip(*to_normalized(image.shape[2:])))]
    flat = torch.stack(scaled[::-1], -1).flatten(1, -2)
    return sample_normalized(image, flat, padding_mode).reshape(*image.shape[:2], *points.shape[2:])


SIGNED_TYPES = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}  # types that gather supports


def _nearest(image: torch.Tensor, points: torch.Tensor, padding_mode: str) -> torch.Tensor:
    """Values of the nearest voxels; ties go to the even index, as in ``grid_sample``."""
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
    """Sample images at normalized positions, with linear interpolation.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3.
        points: ``(B, N, D)`` in [-1, 1], *last array axis first* as in ``torch.nn.functional.grid_sample``.

    Returns:
        ``(B, C, N)``.
    """
    chunks = _cpu_chunks(image, points)
    if chunks > 1:  # on the CPU, grid_sample parallelizes over the batch axis only
        out = _grid_sample(image.expand(chunks, *image.shape[1:]), _chunked(points, chunks), padding_mode)
        return out.transpose(0, 1).reshape(1, image.shape[1], -1)[..., : points.shape[1]]
    return _grid_sample(image, points, padding_mode)


def sample_gradient(image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Gradient of :func:`sample_normalized` (zeros outside) with respect to the positions, without a forward pass.

    Args:
        image: ``(1, C, *spatial)``.
        points: ``(1, N, D)``.
        gradient: ``(1, C, N)``, gradient with respect to the sampled values.

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
    """Gradients of :func:`sample_normalized` (``"border"``) with respect to the image and to the positions.

    Args:
        image: ``(B, C, *spatial)``.
        points: ``(B, N, D)``.
        gradient: ``(B, C, N)``, gradient with respect to the sampled values.

    Returns:
        gradients ``(B, C, *spatial)`` and ``(B, N, D)``.
    """
    found, where = _backward(image, points, gradient, "border", True)
    return found, where.view_as(points)


def _backward(
    image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor, padding_mode: str, need_image: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    dims = points.shape[2]
    backward = torch.ops.aten.grid_sampler_2d_backward if dims == 2 else torch.ops.aten.grid_sampler_3d_backward
    values = gradient.reshape(*gradient.shape[:2], *(1,) * (dims - 1), -1)
    # arguments: linear, padding mode, aligned corners
    return backward(values, image, _as_grid(points), 0, ("zeros", "border").index(padding_mode), True, [need_image, True])


def _cpu_chunks(image: torch.Tensor, points: torch.Tensor) -> int:
    worth = image.device.type == "cpu" and points.shape[0] == 1 and points.shape[1] >= 16384 and points.shape[2] == 3
    # the gradient of an expanded image would be stored once per chunk
    return torch.get_num_threads() if worth and not image.requires_grad else 1


def _chunked(values: torch.Tensor, chunks: int) -> torch.Tensor:
    """Split ``(1, N, C)`` into ``(chunks, ceil(N / chunks), C)``, padded with zeros."""
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
    """Permute and flip the axes of an image ``(*leading, *spatial)``, see :meth:`monai_locor.geometry.Grid.reordered`."""
    out = image.permute(*range(leading), *(leading + a for a in axes))
    flipped = [leading + i for i, flip in enumerate(flips) if flip]
    return (out.flip(flipped) if flipped else out).contiguous()
