# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Displacement fields as vector images in LPS mm: NIfTI with intent 1007, and NRRD and MetaImage through ITK."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ...errors import InputError, one_line
from ...geometry import FieldStep, Grid, SpatialTransform
from ..fields import load_displacement_field, write_displacement_field
from ..image_files import read_stored
from ..itk_hdf5 import itk_parameters, itk_view
from ..itk_headers import check_directions, check_itk_header
from ..itk_images import affine_of_header, components
from ..itk_library import itk_class, load_itk, load_simpleitk
from ..lps import lps_signs
from ..paths import atomic_path
from ..stored_image import StoredImage
from .base import domain_of, invalid
from .itk_steps import transforms_of_steps

__all__ = ["read_nifti", "read_vector_image", "write_nifti", "write_vector_image"]


def read_nifti(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a NIfTI displacement field of ITK, ANTs or Slicer (intent 1007, LPS), or with intent 1006 (RAS)."""
    return SpatialTransform.of_field(*load_displacement_field(path))


def write_nifti(path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None) -> list[Path]:
    """Write the whole map as one field on the fixed grid."""
    grid = domain_of(transform, fixed, name)
    write_displacement_field(path, transform.displacement(grid), grid)
    return [path]


def read_vector_image(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> SpatialTransform:
    """Read a displacement field from an image with as many components as axes."""
    image = _light(path) or read_stored(path, name)
    dims, components = len(image.shape), image.voxels.shape[-1]
    if components != dims:
        raise InputError(
            f"{name}: has {dims} axes and {components} components a voxel; a displacement field has as many as axes, 2 or 3"
        )
    with invalid(name, "compute it again"):
        grid = Grid.placed(image.shape, image.affine)
        return SpatialTransform.of_field(np.moveaxis(image.voxels * lps_signs(dims), -1, 0), grid)


def _light(path: Path) -> StoredImage | None:
    """Read a float field with few ITK classes; return None for other files, and if SimpleITK, which is faster, is usable.

    The general image reader loads all of ITK's pixel types, which takes twice as long.
    """
    if load_simpleitk() is not None or find_spec("itk") is None:
        return None
    kind = "Nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "Meta"
    check_itk_header(path)
    try:
        itk_class(f"{kind}ImageIO", "Factory").RegisterOneFactory()
        header = itk_class(f"{kind}ImageIO", "").New()
        header.SetFileName(str(path))
        header.ReadImageInformation()
        check_directions(components(header))
        dims = header.GetNumberOfDimensions()
        if dims not in (2, 3) or header.GetNumberOfComponents() != dims:
            return None
        reader = itk_class("ImageFileReader", f"IVF{dims}{dims}").New()
        reader.SetFileName(str(path))
        reader.SetImageIO(header)
        reader.Update()
    except RuntimeError:  # the general reader has the better error message
        return None
    voxels = itk_view(reader.GetOutput(), dims, "F").transpose(*reversed(range(dims)), dims).copy()
    return StoredImage(voxels, affine_of_header(header))


def write_vector_image(
    path: Path, name: str, transform: SpatialTransform, fixed: Grid | None, moving: Grid | None
) -> list[Path]:
    """Write the whole map as one field on the fixed grid, float32."""
    load_itk(name)
    grid = domain_of(transform, fixed, name)
    (field,) = transforms_of_steps((FieldStep(transform.displacement_array(grid), grid),))
    made = itk_class("DisplacementFieldTransform", f"F{grid.dims}").New()
    made.SetFixedParameters(itk_parameters(field.fixed))  # allocates an image with this geometry
    image = made.GetDisplacementField()
    itk_view(image, grid.dims, "F").ravel()[:] = field.parameters
    for kind in ("Nrrd", "Meta"):
        itk_class(f"{kind}ImageIO", "Factory").RegisterOneFactory()
    writer = itk_class("ImageFileWriter", f"IVF{grid.dims}{grid.dims}").New()
    writer.SetInput(image)
    writer.SetUseCompression(True)
    try:
        with atomic_path(path) as temporary:
            writer.SetFileName(str(temporary))
            writer.Update()
    except RuntimeError as error:
        raise InputError(f"{name}: cannot be written ({one_line(error)}); is there room, and may you write there?") from error
    return [path]
