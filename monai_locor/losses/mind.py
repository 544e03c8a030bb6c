# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Self-similarity context: the modality independent neighborhood descriptor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from monai.utils import LossReduction

from ..autograd import StreamedFunction
from ..precision import full_precision
from ..recent import Recent
from .banded import ReplicatedBox
from .base import PairLoss
from .intensity import rescale as to_common_range

__all__ = ["MINDSSCLoss"]

MIN_RELATIVE_VARIANCE, MAX_RELATIVE_VARIANCE = 1e-3, 1e3  # limits of the local variance, relative to its mean
MIN_VARIANCE = 1e-20  # of the variance, for images that are constant


class MINDSSCLoss(PairLoss):
    """Mean squared difference of the self-similarity contexts (MIND-SSC) of two images.

    The six neighbors of a voxel at distance ``dilation`` form twelve adjacent pairs (p, q); in 2-D, four neighbors form four
    pairs. With ``D_pq(x)`` the mean of ``(I(x + p) - I(x + q))^2`` over the patch around x, less its minimum over the pairs,
    and ``V(x)`` its mean over the pairs, the descriptor is ``exp(-D_pq / V)``. Beyond the
    border, images continue with their last value. The loss is invariant to an affine change of intensity.

    Voxels of weight zero are first set to zero, the low end of the rescaled range, in both images.

    Reference: Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using self-similarities",
    MICCAI 2013, doi 10.1007/978-3-642-40811-3_24.

    Args:
        spatial_dims: 2 or 3.
        radius: of the patch, voxels; its edge is ``2 radius + 1``.
        dilation: distance of the neighbors, voxels.
        reduction: ``"mean"`` over voxels by their weights, channels and items; ``"sum"`` of the weighted map; or ``"none"``,
            that map, ``(B, C, *spatial)``, mean over the pairs.
        rescale: bring both images to about [0, 1] between robust quantiles. Apart from outliers, which are clamped, the value
            does not depend on it. Without it, squared intensities must be in the range of the dtype.
        count_masked: as in the published comparison, voxels of weight zero enter the mean with difference zero, and their
            variance enters the limits of V. By default they are left out of both.

    Returns:
        A scalar in [0, 1], to be minimized.

    Example:
        >>> image = torch.rand(1, 1, 20, 20)
        >>> round(float(MINDSSCLoss(spatial_dims=2)(3 - 2 * image, image)), 4)
        0.0
    """

    count_masked: bool

    def __init__(
        self,
        spatial_dims: int = 3,
        radius: int = 2,
        dilation: int = 2,
        reduction: LossReduction | str = LossReduction.MEAN,
        rescale: bool = True,
        count_masked: bool = False,
    ) -> None:
        super().__init__(spatial_dims, reduction, dims=(2, 3), rescale=rescale, count_masked=count_masked)
        if not isinstance(radius, int) or not isinstance(dilation, int) or radius < 0 or dilation < 1:
            raise ValueError(f"radius and dilation must be whole numbers of at least 0 and 1, got {radius} and {dilation}.")
        self.radius, self.dilation = radius, dilation
        self._boxes = Recent[ReplicatedBox](24)

    def _measure(
        self, pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        valid = weight > 0
        if self.rescale:
            pred, target = (torch.where(valid, to_common_range(x, valid), 0) for x in (pred, target))
        keys = [(n, self.radius, pred.device, pred.dtype) for n in pred.shape[2:]]
        boxes = [self._boxes.get(key, partial(ReplicatedBox, *key)) for key in keys]
        spec = Context(boxes, self.dilation)
        counted = torch.ones_like(weight) if self.count_masked else weight
        images = (x.flatten(0, 1) for x in (pred, target, counted.expand_as(pred)))
        values = _ContextDifference.apply(spec, *images)[0].view(pred.shape)
        return values * weight, counted


class Context:
    """Patch distances of the pairs of neighbors, and their adjoint.

    Args:
        boxes: the patch, one matrix per spatial axis.
        dilation: distance of the neighbors, voxels.
    """

    def __init__(self, boxes: Sequence[ReplicatedBox], dilation: int) -> None:
        self.boxes, self.dilation = boxes, dilation
        self.shape = tuple(box.size for box in boxes)
        steps = [(axis, sign) for axis in range(len(boxes)) for sign in (-1, 1)]
        neighbors = itertools.combinations(steps, 2)
        self.pairs = [(self._view(*a), self._view(*b)) for a, b in neighbors if a[0] != b[0]]

    def _view(self, axis: int, sign: int) -> tuple[slice, ...]:
        """The image shifted to one neighbor, as a view of the padded image."""
        starts = [self.dilation * (1 + sign * (i == axis)) for i in range(len(self.shape))]
        return tuple(slice(start, start + n) for start, n in zip(starts, self.shape, strict=True))

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """The image with its border values repeated."""
        for axis, size in enumerate(self.shape):
            index = torch.arange(-self.dilation, size + self.dilation, device=image.device).clamp(0, size - 1)
            image = image.index_select(axis, index)
        return image

    def fold(self, padded: torch.Tensor) -> torch.Tensor:
        """Adjoint of :meth:`pad`."""
        for axis, size in enumerate(self.shape):
            first, inner, last = padded.split([self.dilation, size, self.dilation], axis)
            padded = inner.clone()
            padded.narrow(axis, 0, 1).add_(first.sum(axis, keepdim=True))
            padded.narrow(axis, size - 1, 1).add_(last.sum(axis, keepdim=True))
        return padded

    def distances(self, image: torch.Tensor) -> torch.Tensor:
        """``(pairs, *spatial)`` of an image ``(*spatial)``."""
        out, padded = image.new_empty(len(self.pairs), *self.shape), self.pad(image)
        for pair, (a, b) in enumerate(self.pairs):
            value = (padded[a] - padded[b]).square_()
            for axis, box in enumerate(self.boxes):
                value = box.filter(value, axis)
            out[pair] = value
        return out

    def add_gradient(self, grad: torch.Tensor, pair: int, padded: torch.Tensor, out: torch.Tensor) -> None:
        """Add the gradient in the padded image, from that of one pair's distances, to ``out``."""
        for axis, box in enumerate(self.boxes):
            grad = box.adjoint(grad, axis)
        a, b = self.pairs[pair]
        grad = grad.mul_(padded[a] - padded[b])
        out[a].add_(grad, alpha=2)
        out[b].add_(grad, alpha=-2)


def _exponents(spec: Context, image: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``-D / V`` of all pairs, and V, negative where it is limited."""
    d = spec.distances(image)
    d.sub_(d.amin(0))
    v = d.mean(0)
    mean = (v * counted).sum() / counted.sum().clamp_min(1e-20)
    limited = v.clamp(MIN_RELATIVE_VARIANCE * mean, MAX_RELATIVE_VARIANCE * mean).clamp_min_(MIN_VARIANCE)
    return d.div_(limited).neg_(), torch.where(limited == v, limited, -limited)


def _pull(
    spec: Context, grad: torch.Tensor, image: torch.Tensor, own: tuple[torch.Tensor, torch.Tensor], other: torch.Tensor
) -> torch.Tensor:
    """Gradient in one image, from that of the map of mean squared differences.

    With ``g_c`` the gradient of exponent ``z_c = -D_c / V``: that of the variance is ``-sum_c g_c z_c / V``, and the pair
    of least distance takes what the subtraction of its distance from all others passes on.
    """
    z, v = own
    inside, v = v > 0, v.abs()
    scale = grad * (-2 / len(z)) / v

    def distance_gradient(pair: int) -> torch.Tensor:  # through the pair's own exponent
        f = torch.exp(z[pair])
        return torch.sub(f, torch.exp(other[pair])).mul_(f).mul_(scale)

    total, shared = torch.zeros_like(v), torch.zeros_like(v)
    for pair in range(len(z)):
        g = distance_gradient(pair)
        total.add_(g)
        shared.addcmul_(g, z[pair])
    shared.mul_(inside).div_(len(z))  # through the variance, the same for all pairs
    total.add_(shared, alpha=len(z))
    padded = spec.pad(image)
    out = torch.zeros_like(padded)
    for pair in range(len(z)):
        least = z[pair] == 0
        g = distance_gradient(pair).add_(shared).sub_(total * least)
        total.masked_fill_(least, 0)  # only one pair takes it, even where several are the least
        spec.add_gradient(g, pair, padded, out)
    return spec.fold(out)


class _ContextDifference(StreamedFunction):
    """``mean_pq (F_pq(pred) - F_pq(target))^2``, ``(G, *spatial)``.

    Also returns the exponents and variances of both images for the backward pass; nothing else is kept.
    """

    leading = (1, 2, 3)
    differentiable = (1, 2)

    @staticmethod
    def forward(spec: Context, pred: torch.Tensor, target: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = torch.zeros_like(pred)
        kept: list[list[torch.Tensor]] = [[], [], [], []]
        for item in range(len(pred)):
            first, second = (_exponents(spec, x[item], counted[item]) for x in (pred, target))
            for a, b in zip(first[0], second[0], strict=True):
                out[item].add_(torch.exp(a).sub_(torch.exp(b)).square_(), alpha=1 / len(spec.pairs))
            for found, value in zip(kept, (*first, *second), strict=True):
                found.append(value)
        return out, *(_stacked(found) for found in kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        spec, pred, target, _ = inputs
        ctx.options = {"spec": spec}
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(pred, target, *output[1:])

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pred, target, *kept = ctx.saved_tensors
        need_pred, need_target = ctx.needs_input_grad[1:3]
        dpred, dtarget = (torch.empty_like(x) if need else None for x, need in ((pred, need_pred), (target, need_target)))
        with full_precision(grad.device):
            for item in range(len(pred)):
                z_pred, v_pred, z_target, v_target = (x[item] for x in kept)
                if dpred is not None:
                    dpred[item] = _pull(ctx.options["spec"], grad[item], pred[item], (z_pred, v_pred), z_target)
                if dtarget is not None:
                    dtarget[item] = _pull(ctx.options["spec"], grad[item], target[item], (z_target, v_target), z_pred)
        return None, dpred, dtarget, None


def _stacked(items: list[torch.Tensor]) -> torch.Tensor:
    """Along a new first axis, without a copy of a single item."""
    return items[0][None] if len(items) == 1 else torch.stack(items)
