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

"""The one place where images and fields are read between their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["identity_points", "reorder", "sample", "sample_normalized", "to_normalized"]


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


def sample(image: torch.Tensor, points: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros") -> torch.Tensor:
    """Sample images at voxel positions.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3 spatial axes.
        points: ``(B, D, *out)``, positions in voxels of ``image``, channel i along array axis i.
        mode: ``"bilinear"`` (linear in each axis) or ``"nearest"``.
        padding_mode: ``"zeros"`` or ``"border"``, what is read outside the image.

    Returns:
        ``(B, C, *out)``.
    """
    dims = points.shape[1]
    scale, offset = (torch.tensor(v, dtype=points.dtype, device=points.device) for v in to_normalized(image.shape[2:]))
    flat = points.flatten(2).transpose(1, 2) * scale + offset
    return sample_normalized(image, flat.flip(-1), mode, padding_mode).reshape(*image.shape[:2], *points.shape[2 : 2 + dims])


def sample_normalized(
    image: torch.Tensor, points: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros"
) -> torch.Tensor:
    """Sample images at a list of positions that are already normalised.

    Args:
        image: ``(B, C, *spatial)``, D = 2 or 3.
        points: ``(B, N, D)`` in [-1, 1], *last array axis first* as in ``torch.nn.functional.grid_sample``.

    Returns:
        ``(B, C, N)``.
    """
    count, dims = points.shape[1:]
    chunks = _cpu_chunks(image, points)
    if chunks > 1:  # grid_sample on the CPU shares work between threads over the batch axis only
        size = -(-count // chunks)
        parts = F.pad(points, (0, 0, 0, size * chunks - count)).reshape(chunks, size, dims)
        out = _grid_sample(image.expand(chunks, *image.shape[1:]), parts, mode, padding_mode)
        return out.transpose(0, 1).reshape(1, image.shape[1], -1)[..., :count]
    return _grid_sample(image, points, mode, padding_mode)


def _cpu_chunks(image: torch.Tensor, points: torch.Tensor) -> int:
    worth = image.device.type == "cpu" and points.shape[0] == 1 and points.shape[1] >= 16384 and points.shape[2] == 3
    # the adjoint of a shared image would be held once per chunk
    return torch.get_num_threads() if worth and not image.requires_grad else 1


def _grid_sample(image: torch.Tensor, points: torch.Tensor, mode: str, padding_mode: str) -> torch.Tensor:
    grid = points.reshape(points.shape[0], *(1,) * (points.shape[2] - 1), -1, points.shape[2])
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding_mode, align_corners=True).flatten(2)


def reorder(image: torch.Tensor, axes: Sequence[int], flips: Sequence[bool], leading: int = 1) -> torch.Tensor:
    """Store an image ``(*leading, *spatial)`` in another axis order, see :meth:`monai_locor.geometry.Grid.reordered`."""
    out = image.permute(*range(leading), *(leading + a for a in axes))
    flipped = [leading + i for i, flip in enumerate(flips) if flip]
    return (out.flip(flipped) if flipped else out).contiguous()
