# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Computation of the initial state of a registration: prepared images, initial transform, multi-start search."""
