# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Folder of the bundle, and a network small enough for tests."""

from __future__ import annotations

from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "locor_registration"
CONFIGS = BUNDLE / "configs"
NETWORK = {
    "_target_": "VoxelMorphUNet",
    "spatial_dims": 3,
    "in_channels": 8,
    "unet_out_channels": 4,
    "channels": [4, 4],
    "final_conv_channels": [4],
}
