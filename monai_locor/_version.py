# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The version of the package. It is written here and nowhere else."""

__version__ = "1.0.0rc1"
