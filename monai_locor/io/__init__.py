# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading and writing of images, masks, points, surfaces, displacement fields and transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .fields import read_affine, read_displacement_field, write_affine, write_displacement_field
    from .file_channel import FileChannel
    from .image_source import ImageSource
    from .images import read_image, read_mask, write_image
    from .meshes import SurfaceMesh, read_mesh
    from .paths import atomic_path, check_output_dir
    from .points import PointList, read_points, write_points
    from .transforms import FORMATS, formats_text, read_transform, read_transforms, write_transform

__all__ = [
    "FORMATS",
    "FileChannel",
    "ImageSource",
    "PointList",
    "SurfaceMesh",
    "atomic_path",
    "check_output_dir",
    "formats_text",
    "read_affine",
    "read_displacement_field",
    "read_image",
    "read_mask",
    "read_mesh",
    "read_points",
    "read_transform",
    "read_transforms",
    "write_affine",
    "write_displacement_field",
    "write_image",
    "write_points",
    "write_transform",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "fields": ["read_affine", "read_displacement_field", "write_affine", "write_displacement_field"],
        "file_channel": ["FileChannel"],
        "images": ["read_image", "read_mask", "write_image"],
        "meshes": ["SurfaceMesh", "read_mesh"],
        "paths": ["atomic_path", "check_output_dir"],
        "points": ["PointList", "read_points", "write_points"],
        "image_source": ["ImageSource"],
        "transforms": ["FORMATS", "formats_text", "read_transform", "read_transforms", "write_transform"],
    },
)
