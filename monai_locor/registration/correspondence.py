# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The choice of the form of the fine stages by the residuals of the local fits.

After the coarse stages, the median over the windows of the unexplained share of the variance is 3 to 11 % for two MR images of
one subject. For inter-subject pairs, whose tissues do not correspond one to one under any deformation, it is 13 to 31 %, with
few exceptions (benchmarks/results/intersubject.md); for CT or PET and MR of one subject it is also above an eighth. The
logarithm of the residual is suited to the first kind only. The others continue in the robust form, which is close to the
logarithm if the pair was taken for the wrong kind (benchmarks/results/forms.md).

Two scans of one patient may leave large residuals as well, by lesions, noise or thick slices. But then little deformation is
needed, while two subjects differ in shape. So the product of the share and the bending energy must also be large.
"""

from __future__ import annotations

import torch

from ..losses import LocalLearnedBasisCRLoss
from ..losses.bending import bending_energy
from .channels import compared_parts
from .config import RegistrationConfig
from .engine import RegistrationEngine

__all__ = [
    "MAX_UNEXPLAINED_BENDING",
    "MAX_UNEXPLAINED_SHARE",
    "checks_correspondence",
    "has_logarithm",
    "leaves_too_much",
    "median_unexplained_share",
    "relative_bending",
    "use_form",
]

MAX_UNEXPLAINED_SHARE = 0.125  # median unexplained share of the variance for which the logarithm is better
# of its product with the bending energy: up to 3e-5 in real scans of one subject, from 9e-5 in those of two
MAX_UNEXPLAINED_BENDING = 5e-5
MIN_WINDOW_VARIANCE = 1e-3  # squared normalized intensities; windows with less variance are not informative


def has_logarithm(config: RegistrationConfig) -> bool:
    """Whether the measure is the default one in its logarithmic form, which can be replaced by the robust one."""
    return config.similarity == "locor" and config.form == "log"


def checks_correspondence(config: RegistrationConfig) -> bool:
    """Whether the residuals decide on the form."""
    return config.intersubject == "auto" and has_logarithm(config)


def leaves_too_much(share: float, bending: float) -> bool:
    """Whether the robust form is better than the logarithm.

    Args:
        share: see :func:`median_unexplained_share`.
        bending: see :func:`relative_bending`.

    >>> [leaves_too_much(*found) for found in ((0.1, 1e-3), (0.2, 1e-4), (0.2, 1e-3), (float("nan"), 1e-3))]
    [False, False, True, False]
    """
    return share > MAX_UNEXPLAINED_SHARE and share * bending > MAX_UNEXPLAINED_BENDING


@torch.no_grad()
def relative_bending(engine: RegistrationEngine) -> float:
    """Return the bending energy of the forward deformation without the affine, in units of the stage's samples (no unit)."""
    return float(bending_energy(engine.velocity.reversed([0])) * engine.bending_unit)


@torch.no_grad()
def median_unexplained_share(engine: RegistrationEngine) -> float:
    """Return the median over the windows of the unexplained share of the variance, averaged over both directions.

    For several channels it is the weighted mean. With two processes, both must call it.
    """
    total = torch.zeros(1, dtype=torch.float64, device="cpu")
    for k in engine.directions:
        warped, target, weight = engine.compared(k)
        for channel_share, loss, pred, part in compared_parts(engine.losses[k], warped, target):
            assert isinstance(loss, LocalLearnedBasisCRLoss)
            loss.eval()
            share, variance = loss.unexplained_share(pred, part, weight)
            loss.train()
            share = share[:, :1][variance[:, :1] > MIN_WINDOW_VARIANCE]
            total += channel_share * share.nanmedian().cpu() / 2 if share.numel() else 0
    if engine.exchange is not None:
        engine.exchange([total])
    return float(total)


def use_form(engine: RegistrationEngine, config: RegistrationConfig) -> None:
    """Let an engine continue with another form of the default measure, its windows and ``eps``, and another bending weight.

    Args:
        engine: between two stages.
        config: settings from the next stage on.
    """
    engine.config = config
    for loss in engine.losses.modules():
        if isinstance(loss, LocalLearnedBasisCRLoss):
            loss.form, loss.eps = config.form, config.eps
            loss.kernel_sigma = (config.kernel_sigma,) * loss.spatial_dims
