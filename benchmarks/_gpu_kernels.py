# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Part of `gpu.py`: the Triton kernels of the loss against the portable path, values, gradients and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import loss as loss_script
import torch
from _gpu_times import timed
from _gpu_worker import Context, Row, guarded

from monai_locor.losses import LocalLearnedBasisCRLoss
from monai_locor.losses.functional import local_fit, local_moments
from monai_locor.losses.streaming import StreamedWindows, slab_budget

SIZES = (48, 128, 256)
VALUE, GRADIENT = 1e-5, 1e-4  # of the largest


def kernels(context: Context) -> Iterator[Row]:
    """Averages, residuals and gradients of windows by both paths, and the time of the loss. On a CPU only the portable one."""
    for size in (12,) if context.smoke else SIZES:
        for form in ("log", "normalized"):
            row: Row = {"what": form, "size": size}
            yield guarded(row, lambda size=size, form=form: _row(size, form, context))


def _row(size: int, form: str, context: Context) -> Row:
    fused = True if context.device.startswith("cuda") else None
    found = _compared(size, form, context.device, fused)
    for name, choice in (("portable_ms", False), ("fused_ms", fused)):
        repeats = 2 if context.smoke else 10
        found[name] = timed(lambda choice=choice: _step(size, form, context.device, choice), context.device, repeats).median
    return found


def _step(size: int, form: str, device: str, fused: bool | None) -> Callable[[], None]:
    return loss_script.ours(size, device, form=form, fused=fused)


def _compared(size: int, form: str, device: str, fused: bool | None) -> Row:
    """Largest differences of the averages and residuals and of the gradients, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, loss_script.CHANNELS, size, size, size)
    pred, target = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
    weight = torch.rand(1, 1, size, size, size, generator=generator).to(device)
    torch.manual_seed(0)
    loss = LocalLearnedBasisCRLoss(3, *shape[1:2], loss_script.NUM_BASIS, loss_script.HIDDEN).to(device)
    axes = loss.grid.axes(pred, False, None)
    inputs = [pred.requires_grad_(), *loss.parameters()]
    both = []
    for choice in (False, fused):
        windows = StreamedWindows(axes, slab_budget(pred.device, None))
        moments = local_moments(loss.basis, pred, target, weight, windows, 1e-6, form == "normalized", fused=choice)
        maps, left = moments.maps, local_fit(moments, form, loss.ridge, loss.eps).residual
        gradients = torch.autograd.grad(maps.square().sum() + left.sum(), inputs)
        both.append([maps.detach(), left.detach(), *gradients])
    errors = [float((x - y).abs().max() / x.abs().max()) for x, y in zip(*both, strict=True)]
    value, gradient = max(errors[:2]), max(errors[2:])
    return {"value": value, "gradient": gradient, "check": value <= VALUE and gradient <= GRADIENT}
