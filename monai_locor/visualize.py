# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Explain a registration: local fits, their residuals, and figures of them. Alias of ``monai_locor.report.explain``."""

from .report.explain import *  # noqa: F403
from .report.explain import __all__  # noqa: F401
