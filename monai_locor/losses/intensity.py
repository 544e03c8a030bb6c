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

"""Intensities of any range brought to about [0, 1] by statistics that carry no gradient."""

from __future__ import annotations

import torch

__all__ = ["rescale", "robust_range"]

SUBSAMPLE = 1 << 16  # voxels that the quantiles are taken from
LEAST_SPAN = 1e-30  # a channel that varies less is constant: the reciprocal must stay finite in float32
LIMIT = 10.0  # rescaled values beyond this (outliers, by definition) are clamped, so that no power of them overflows


def robust_range(
    image: torch.Tensor, valid: torch.Tensor | None = None, quantile: float = 0.005
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high quantile of each channel of each item, from a regular subsample, without host synchronisation.

    Where the two coincide (sparse images), no voxel of the subsample counts or ``quantile`` is 0, minimum and maximum of all
    voxels that count take their place.

    Args:
        image: ``(B, C, *spatial)``, floating point.
        valid: ``(1 or B, 1, *spatial)`` bool, voxels that count.
        quantile: share of voxels below the low and above the high value.

    Returns:
        ``low`` and ``high``, ``(B, C)`` float64; both 0 where no voxel counts.
    """
    flat = image.detach().flatten(2)
    least, most = _extremes(flat, valid)
    step = max(1, flat.shape[2] // SUBSAMPLE) | 1  # odd, so that it does not run along one plane of an even-sized image
    flat = flat[..., ::step].double()
    keep = torch.ones_like(flat[:, :1], dtype=torch.bool) if valid is None else valid.flatten(2)[..., ::step]
    count = keep.sum(-1, keepdim=True).expand(*flat.shape[:2], 1)
    order = torch.where(keep, flat, torch.inf).sort(-1).values

    def at(q: float) -> torch.Tensor:
        return order.gather(-1, (q * (count - 1).clamp_min(0)).round().long())[..., 0]

    low, high = at(quantile), at(1 - quantile)
    varies = (high > low) & (quantile > 0)  # a subsample may miss the extremes
    low, high = torch.where(varies, low, least), torch.where(varies, high, most)
    some = most >= least
    return torch.where(some, low, 0), torch.where(some, high, 0)


def _extremes(flat: torch.Tensor, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum of ``(B, C, voxels)`` where ``valid``, float64; infinite with the wrong sign where nothing is."""
    if valid is None:
        least, most = flat.aminmax(dim=-1)
    else:
        keep = valid.flatten(2)
        least = torch.where(keep, flat, torch.inf).amin(-1)
        most = torch.where(keep, flat, -torch.inf).amax(-1)
    return least.double(), most.double()


def rescale(image: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """``(x - low) / (high - low)`` per item and channel with :func:`robust_range`; a constant channel becomes 0."""
    low, high = robust_range(image, valid)
    span = high - low
    varies = span > LEAST_SPAN
    scale = torch.where(varies, 1 / torch.where(varies, span, 1), 0)
    shape = (*low.shape, *(1 for _ in image.shape[2:]))
    # the offset is taken off first: at 1e4 the product would have no digits left
    out = (image - low.to(image.dtype).view(shape)) * scale.to(image.dtype).view(shape)
    return out.clamp(-LIMIT, LIMIT)
