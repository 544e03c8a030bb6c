# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""OME-Zarr images (versions 0.4 and 0.5, https://ngff.openmicroscopy.org), read and written block by block.

The arrays are read and written with the package ``zarr`` (extra ``formats``); the metadata are checked before it opens a file.
"""

from __future__ import annotations

from .reading import OmeZarrImage, is_ome_zarr, ome_zarr_geometry, read_ome_zarr
from .writing import NewImage, create_ome_zarr, write_ome_zarr

__all__ = [
    "NewImage",
    "OmeZarrImage",
    "create_ome_zarr",
    "is_ome_zarr",
    "ome_zarr_geometry",
    "read_ome_zarr",
    "write_ome_zarr",
]
