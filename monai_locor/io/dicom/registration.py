# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""DICOM Spatial Registration and Deformable Spatial Registration objects (PS3.3 C.20.2 and C.20.3).

The registered coordinate system is that of the fixed image. The matrix of a Spatial Registration maps moving to fixed points.
A Deformable Spatial Registration maps fixed to moving points: ``x -> M_post (M_pre x + offset(x))``.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...geometry import AffineStep, FieldStep, Grid, SpatialTransform, same_grid
from ...geometry.transform import product
from ..lps import affine_of_itk, flipped, geometry_for_itk, lps_signs
from .headers import has_dicom_content, load_pydicom, needed_pydicom
from .series import Series, coded, decimal, new_object, open_series, refer_to, references, save, with_remark

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["is_registration", "read_registration", "write_registration"]

logger = logging.getLogger(__name__)

SPATIAL, DEFORMABLE = "1.2.840.10008.5.1.4.1.1.66.1", "1.2.840.10008.5.1.4.1.1.66.3"
ALIGNMENT = ("125024", "Image Content-based Alignment")
IDENTITY = ("125021", "Frame of Reference Identity")
ROUNDING = 1e-6  # of elements of a matrix, which is stored as decimal text


def is_registration(path: Path) -> bool:
    """Whether a file is a DICOM registration object; False if pydicom is not installed."""
    pydicom = load_pydicom()
    if pydicom is None or not path.is_file() or not has_dicom_content(path):
        return False
    try:
        found = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except Exception:  # pydicom raises various types for broken files, which are no registration objects
        return False
    return found.get("SOPClassUID") in (SPATIAL, DEFORMABLE)


def read_registration(path: Path, name: str, fixed: Grid | None = None, moving: Grid | None = None) -> SpatialTransform:
    """Read the map from points of the registered (fixed) to points of the source (moving) coordinate system.

    Raises:
        InputError: if the object registers several images with the fixed one, or has matrices in a chain.
    """
    pydicom = needed_pydicom(name, "DICOM registration objects are read")
    content = pydicom.dcmread(path)
    if content.get("SOPClassUID") == DEFORMABLE:
        items = [item for item in content.DeformableRegistrationSequence if not _is_identity(item, name)]
        return _deformation(_only(items, name), name)
    matrices = [_chained(item.MatrixRegistrationSequence[0].MatrixSequence, name) for item in content.RegistrationSequence]
    matrices = [matrix for matrix in matrices if not np.allclose(matrix, np.eye(4), atol=ROUNDING)]
    return SpatialTransform.of_affine(np.linalg.inv(flipped(_only(matrices or [np.eye(4)], name))))


def _only(items: list[Any], name: str) -> Any:
    if len(items) != 1:
        raise InputError(f"{name}: registers {len(items)} images with the fixed one; give an object for one pair")
    return items[0]


def _is_identity(item: Dataset, name: str) -> bool:
    matrices = [_matrix(item, f"{which}DeformationMatrixRegistrationSequence", name) for which in ("Pre", "Post")]
    return not item.get("DeformableRegistrationGridSequence") and all(
        np.allclose(m, np.eye(4), atol=ROUNDING) for m in matrices
    )


def _matrix(item: Dataset, keyword: str, name: str) -> np.ndarray:
    return _chained(item.get(keyword) or (), name)


def _chained(items: Any, name: str) -> np.ndarray:
    """The matrix of a sequence, LPS; the identity if it is empty."""
    if len(items) > 1:
        raise InputError(f"{name}: has a chain of {len(items)} matrices; write them as one, or give another format")
    if not items:
        return np.eye(4)
    matrix = np.array([float(value) for value in items[0].FrameOfReferenceTransformationMatrix]).reshape(4, 4)
    return np.vstack((matrix[:3], np.eye(4)[3]))


def _deformation(item: Dataset, name: str) -> SpatialTransform:
    pre, post = (flipped(_matrix(item, f"{which}DeformationMatrixRegistrationSequence", name)) for which in ("Pre", "Post"))
    if not item.get("DeformableRegistrationGridSequence"):
        return SpatialTransform.of_affine(post @ pre)
    content = item.DeformableRegistrationGridSequence[0]
    shape = tuple(int(count) for count in content.GridDimensions)
    vectors = np.frombuffer(content.VectorGridData, dtype="<f4")
    if vectors.size != 3 * np.prod(shape):
        raise InputError(f"{name}: its grid of {shape} holds {vectors.size} numbers, not three for each point; is it complete?")
    if not np.isfinite(vectors).all():
        raise InputError(f"{name}: is undefined at {np.isnan(vectors[::3]).sum()} grid points; fill them first")
    axes = np.array([float(value) for value in content.ImageOrientationPatient]).reshape(2, 3)
    direction = np.stack([*axes, np.cross(*axes)], axis=1)
    origin = [float(value) for value in content.ImagePositionPatient]
    grid = Grid(shape, affine_of_itk(direction, [float(value) for value in content.GridResolution], origin))
    offset = np.moveaxis(vectors.reshape(*shape[::-1], 3).transpose(2, 1, 0, 3) * lps_signs(3), -1, 0)
    if not np.allclose(pre, np.eye(4), atol=ROUNDING):
        points = grid.points()
        offset = offset + np.moveaxis(points @ (pre[:3, :3] - np.eye(3)).T + pre[:3, 3], -1, 0)
    field = FieldStep(np.ascontiguousarray(offset, dtype=np.float32), grid)
    return SpatialTransform((field,) if np.allclose(post, np.eye(4), atol=ROUNDING) else (field, AffineStep(post)))


def write_registration(
    path: Path, name: str, transform: SpatialTransform, fixed: Any, moving: Any, remark: str = ""
) -> list[Path]:
    """Write a transform as a registration object: deformable, or spatial if it is affine.

    Args:
        path: file to write.
        name: name of the output for messages.
        transform: from points of the fixed to points of the moving image.
        fixed: DICOM file or folder of the fixed image.
        moving: DICOM file or folder of the moving image.
        remark: for the description of the object, such as a verdict.

    Raises:
        InputError: if the transform is not three-dimensional, or an image is no DICOM series with a frame of reference.
    """
    if transform.dims != 3:
        raise InputError(f"{name}: DICOM registration objects have three dimensions, the transform {transform.dims}")
    series = open_series(fixed, "fixed image"), open_series(moving, "moving image")
    if series[0].frame_of_reference == series[1].frame_of_reference:
        logger.warning("%s: both images have the same frame of reference; other programs may take them as aligned", name)
    if series[0].text("PatientID") != series[1].text("PatientID"):
        logger.warning("%s: the images have different patient IDs; the object gets that of the fixed image", name)
    if transform.is_affine:
        made = _spatial(np.linalg.inv(transform.matrix), *series)
    else:
        made = _deformable(transform, fixed, *series)
    made.SeriesDescription = made.ContentDescription = with_remark(made.SeriesDescription, remark)
    refer_to(made, *series)
    save(made, path)
    return [path]


def _object(sop_class: str, fixed: Series, moving: Series) -> Dataset:
    made = new_object(sop_class, fixed, "REG", f"{moving.title} to {fixed.title}")
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "REGISTRATION", made.SeriesDescription, None
    return made


def _spatial(moving_to_fixed: np.ndarray, fixed: Series, moving: Series) -> Dataset:
    made = _object(SPATIAL, fixed, moving)
    made.RegistrationSequence = [
        _registered(fixed, np.eye(4), IDENTITY),
        _registered(moving, flipped(moving_to_fixed), ALIGNMENT),
    ]
    return made


def _registered(series: Series, matrix: np.ndarray, method: tuple[str, str]) -> Dataset:
    from pydicom.dataset import Dataset

    item, registration = Dataset(), Dataset()
    item.FrameOfReferenceUID, item.ReferencedImageSequence = series.frame_of_reference, references(series)
    registration.RegistrationTypeCodeSequence = coded(*method)
    registration.MatrixSequence = _matrix_item(matrix)
    item.MatrixRegistrationSequence = [registration]
    return item


def _matrix_item(matrix: np.ndarray) -> list[Dataset]:
    """A sequence with one matrix, LPS."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.FrameOfReferenceTransformationMatrixType = _kind(matrix)
    item.FrameOfReferenceTransformationMatrix = [decimal(value) for value in matrix.ravel()]
    return [item]


def _kind(matrix: np.ndarray) -> str:
    """RIGID, RIGID_SCALE for a rigid map after scaling along the axes, or AFFINE."""
    part = matrix[:3, :3]
    scales = np.linalg.norm(part, axis=0)
    unit = part / scales
    if np.linalg.det(unit) < 0 or not np.allclose(unit.T @ unit, np.eye(3), atol=ROUNDING):
        return "AFFINE"
    return "RIGID" if np.allclose(scales, 1, atol=ROUNDING) else "RIGID_SCALE"


def _deformable(transform: SpatialTransform, image: Any, fixed: Series, moving: Series) -> Dataset:
    from pydicom.dataset import Dataset

    field, post = _field_and_matrix(transform, image)
    made = _object(DEFORMABLE, fixed, moving)
    still, moved = Dataset(), Dataset()
    for item, series, method in ((still, fixed, IDENTITY), (moved, moving, ALIGNMENT)):
        item.SourceFrameOfReferenceUID, item.ReferencedImageSequence = series.frame_of_reference, references(series)
        item.RegistrationTypeCodeSequence = coded(*method)
    for which, matrix in (("Pre", np.eye(4)), ("Post", flipped(post))):
        setattr(moved, f"{which}DeformationMatrixRegistrationSequence", _matrix_item(matrix))
    moved.DeformableRegistrationGridSequence = [_grid_item(field)]
    made.DeformableRegistrationSequence = [still, moved]
    return made


def _field_and_matrix(transform: SpatialTransform, image: Any) -> tuple[FieldStep, np.ndarray]:
    """The transform as a displacement on a grid without shear, right-handed in LPS, and the affine map after it."""
    from ..grids import read_grid

    first, *rest = transform.steps
    if not isinstance(first, FieldStep) or not all(isinstance(step, AffineStep) for step in rest):
        split = transform.split(transform.domain or read_grid(image, "fixed image"))
        first, *rest = split.steps
    assert isinstance(first, FieldStep)
    matrix = product(rest) if rest else np.eye(4)
    grid = _orthogonal(first.grid)
    inner = SpatialTransform((first,))
    return first if same_grid(grid, first.grid) else FieldStep(inner.displacement_array(grid), grid), matrix


def _orthogonal(grid: Grid) -> Grid:
    """A grid with the same voxel sizes that covers the grid, without shear and right-handed; the same one if it is so."""
    axes, upper = np.linalg.qr(grid.affine[:3, :3])
    axes = axes * np.sign(np.diag(upper))
    axes[:, 2] *= np.sign(np.linalg.det(axes))  # slices in reverse order, if the grid is left-handed
    corners = np.array(list(itertools.product(*((0, count - 1) for count in grid.shape)))) @ grid.affine[:3, :3].T @ axes
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.eye(4)
    affine[:3, :3] = axes * grid.spacing
    affine[:3, 3] = grid.affine[:3, 3] + axes @ low
    counts = np.ceil((high - low) / grid.spacing - ROUNDING).astype(int) + 1
    return Grid(tuple(counts.tolist()), affine)


def _grid_item(field: FieldStep) -> Dataset:
    from pydicom.dataset import Dataset

    direction, spacing, origin = geometry_for_itk(field.grid)
    item = Dataset()
    item.ImagePositionPatient = [decimal(value) for value in origin]
    item.ImageOrientationPatient = [decimal(value) for value in direction[:, :2].T.ravel()]
    item.GridDimensions, item.GridResolution = list(field.grid.shape), spacing
    vectors = np.moveaxis(field.array, 0, -1) * lps_signs(3)
    item.VectorGridData = np.ascontiguousarray(vectors.transpose(2, 1, 0, 3), dtype="<f4").tobytes()
    return item
