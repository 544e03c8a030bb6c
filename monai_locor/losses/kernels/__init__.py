# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Local Gram matrices of a learned basis in Triton kernels, for a GPU.

:mod:`.choice` decides whether the kernels compute a call, :mod:`.network` packs the weights of the basis, and :mod:`.launch`
runs the kernels of :mod:`.device`, the only module that imports Triton. :mod:`monai_locor.losses.gram` is the reference.
"""

from .choice import fused_average, fused_gradients

__all__ = ["fused_average", "fused_gradients"]
