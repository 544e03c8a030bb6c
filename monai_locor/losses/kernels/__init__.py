# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local Gram matrices of a learned basis, and the fits of the windows, in Triton kernels, for a GPU.

:mod:`.choice` decides whether the kernels compute a call. :mod:`.network` packs the weights of the basis, and :mod:`.launch`
runs the kernels of :mod:`.device`; :mod:`.launch_fit` runs those of :mod:`.device_fit`. Only the last module of each imports
Triton. :mod:`monai_locor.losses.gram` and :mod:`monai_locor.losses.ridge` are the references.
"""

from .choice import FitOptions, fused_average, fused_gradients, fused_residual, fused_residual_gradient, solves

__all__ = ["FitOptions", "fused_average", "fused_gradients", "fused_residual", "fused_residual_gradient", "solves"]
