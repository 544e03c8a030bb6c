# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""From two images to the state a registration starts from: prepared images, initial transform, multi-start search."""
