# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Interpolation of images and fields between their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..precision import guarded

__all__ = [
    "identity_points",
    "reorder",
    "sample",
    "sample_gradient",
    "sample_gradients",
    "sample_normalized",
    "sample_planar",
    "to_normalized",
]

MIN_SAMPLES_TO_DIVIDE = 16384  # between the threads of a CPU


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
    flat = torch.stack([normalized_points(item, image.shape[2:]) for item in points])
    return sample_planar(image, flat, padding_mode).reshape(*image.shape[:2], *points.shape[2:])


def normalized_points(points: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Convert voxel positions ``(D, *out)`` in an image ``shape`` to positions ``(D, N)`` for :func:`sample_planar`."""
    # axis by axis with Python numbers: a tensor of them would have to be copied to the GPU
    scaled = [p.flatten() * scale + offset for p, scale, offset in zip(points, *to_normalized(shape), strict=True)]
    return torch.stack(scaled[::-1])


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
    return sample_planar(image, points.transpose(1, 2), padding_mode)


def sample_planar(
    image: torch.Tensor, points: torch.Tensor, padding_mode: str = "zeros", out: torch.Tensor | None = None
) -> torch.Tensor:
    """:func:`sample_normalized` at positions with their components first, which need not be reordered in memory.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3.
        points: ``(B, D, *out)`` in [-1, 1], *last array axis first*.
        out: receives the result; not differentiable then.

    Returns:
        ``(B, C, *out)``.
    """
    chunks = _cpu_chunks(image, points)
    if chunks == 1:
        grid = _as_grid(points)
        found = F.grid_sample(image, grid, mode="bilinear", padding_mode=padding_mode, align_corners=True)
        found = found.view(*image.shape[:2], *points.shape[2:])
        return found if out is None else out.copy_(found)
    out = image.new_empty(1, image.shape[1], *points.shape[2:]) if out is None else out
    target, flat = out.view(image.shape[1], -1), points.reshape(points.shape[1], -1)
    for part, count in _portions(flat.shape[1], chunks):  # on the CPU, grid_sample parallelizes over the batch axis only
        where = flat[:, part].unflatten(1, (count, -1)).transpose(0, 1)
        found = sample_planar(image.expand(count, *image.shape[1:]), where, padding_mode)
        target[:, part].unflatten(1, (count, -1)).copy_(found.transpose(0, 1))
    return out


def sample_gradient(image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Gradient of :func:`sample_planar` (zeros outside) with respect to the positions, without a forward pass.

    Args:
        image: ``(1, C, *spatial)``.
        points: ``(1, D, *out)``.
        gradient: ``(1, C, *out)``, gradient with respect to the sampled values.

    Returns:
        ``(1, D, *out)``, contiguous.
    """
    out = torch.empty_like(points, memory_format=torch.contiguous_format)
    target, flat, values = (x.reshape(x.shape[1], -1) for x in (out, points, gradient))
    for part, count in _portions(flat.shape[1], _cpu_chunks(image, points)):
        where, given = (x[:, part].unflatten(1, (count, -1)).transpose(0, 1) for x in (flat, values))
        found = _backward(image.expand(count, *image.shape[1:]), where, given, "zeros", False)[1]
        target[:, part].unflatten(1, (count, -1)).copy_(found.transpose(0, 1))
    return out


def sample_gradients(image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of :func:`sample_planar` (``"border"``) with respect to the image and to the positions.

    Args:
        image: ``(B, C, *spatial)``.
        points: ``(B, D, *out)``.
        gradient: ``(B, C, *out)``, gradient with respect to the sampled values.

    Returns:
        gradients ``(B, C, *spatial)`` and ``(B, D, *out)``.
    """
    return _backward(image, points, gradient, "border", True)


def _backward(
    image: torch.Tensor, points: torch.Tensor, gradient: torch.Tensor, padding_mode: str, need_image: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    dims = points.shape[1]
    backward = torch.ops.aten.grid_sampler_2d_backward if dims == 2 else torch.ops.aten.grid_sampler_3d_backward
    grid = _as_grid(points)
    values = gradient.reshape(*gradient.shape[:2], *grid.shape[1:-1])
    # arguments: linear, padding mode, aligned corners
    found, where = backward(values, image, grid, 0, ("zeros", "border").index(padding_mode), True, [need_image, True])
    return found, where.movedim(-1, 1).reshape(points.shape)


def _cpu_chunks(image: torch.Tensor, points: torch.Tensor) -> int:
    """Number of parts of a large batch of one item."""
    if image.device.type != "cpu" or len(points) > 1 or points.shape[1] != 3 or points[0, 0].numel() < MIN_SAMPLES_TO_DIVIDE:
        return 1
    # the gradient of an expanded image would be stored once per chunk
    differentiated = torch.is_grad_enabled() and (image.requires_grad or points.requires_grad)
    return 1 if differentiated else torch.get_num_threads()


def _portions(count: int, chunks: int) -> list[tuple[slice, int]]:
    """Divide samples into a range of as many equal parts as there are chunks, and the few that remain."""
    most = count - count % chunks
    return [(part, n) for part, n in ((slice(most), chunks), (slice(most, count), 1)) if len(range(count)[part])]


def _as_grid(points: torch.Tensor) -> torch.Tensor:
    """Positions ``(B, D, *out)`` as a view in the layout of ``grid_sample``, with D axes between the first and the last."""
    grid = points.movedim(1, -1)
    missing = points.shape[1] + 2 - grid.ndim
    return grid.reshape(len(grid), *(1,) * missing, *grid.shape[1:])


def reorder(image: torch.Tensor, axes: Sequence[int], flips: Sequence[bool], leading: int = 1) -> torch.Tensor:
    """Permute and flip the axes of an image ``(*leading, *spatial)``, see :meth:`monai_locor.geometry.Grid.reordered`."""
    out = image.permute(*range(leading), *(leading + a for a in axes))
    flipped = [leading + i for i, flip in enumerate(flips) if flip]
    return (out.flip(flipped) if flipped else out).contiguous()
