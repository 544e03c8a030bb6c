# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The choice of the form of the fine stages by the residuals of the local fits.

After the coarse stages, the median over the windows of the unexplained share of the variance is 3 to 11 % for two MR images of
one subject. For inter-subject pairs, whose tissues do not correspond one to one under any deformation, it is 13 to 31 %, with
few exceptions (benchmarks/results/intersubject.md); for CT or PET and MR of one subject it is also above an eighth. The
logarithm of the residual is suited to the first kind only. The others continue in the robust form, which is close to the
logarithm if the pair was taken for the wrong kind (benchmarks/results/forms.md).
"""

from __future__ import annotations

import torch

from ..losses import LocalLearnedBasisCRLoss
from .channels import compared_parts
from .config import RegistrationConfig
from .engine import RegistrationEngine

__all__ = ["MAX_UNEXPLAINED_SHARE", "checks_correspondence", "has_logarithm", "median_unexplained_share", "use_form"]

MAX_UNEXPLAINED_SHARE = 0.125  # median unexplained share of the variance for which the logarithm is better
MIN_WINDOW_VARIANCE = 1e-3  # squared normalized intensities; windows with less variance are not informative


def has_logarithm(config: RegistrationConfig) -> bool:
    """Whether the measure is the default one in its logarithmic form, which can be replaced by the robust one."""
    return config.similarity == "locor" and config.form == "log"


def checks_correspondence(config: RegistrationConfig) -> bool:
    """Whether the residuals decide on the form."""
    return config.intersubject == "auto" and has_logarithm(config)


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
