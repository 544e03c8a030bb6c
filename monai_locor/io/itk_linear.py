# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""ITK transforms as stored in files (type and parameters), and the matrices of the linear ones. LPS mm."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["ItkTransform", "linear_matrix"]

_TYPE = re.compile(r"(?P<kind>\w+?)_(?:double|float)_(?P<dims>\d+)_(?P<out>\d+)(?P<more>\w*)")


@dataclass(frozen=True, eq=False)
class ItkTransform:
    """One transform of a file.

    Attributes:
        kind: ITK class, such as ``"AffineTransform"``.
        dims: number of dimensions D.
        parameters: parameters that are optimized by a registration.
        fixed: fixed parameters: center of rotation, or size, origin, spacing and direction of a grid.
    """

    kind: str
    dims: int
    parameters: np.ndarray
    fixed: np.ndarray

    @classmethod
    def of(cls, type_: str, parameters: np.ndarray, fixed: np.ndarray) -> ItkTransform:
        """From an ITK type name, such as ``AffineTransform_double_3_3``.

        Raises:
            ValueError: if it is not the name of a transform type, or the input and output dimensions differ.
        """
        found = _TYPE.fullmatch(type_)
        if found is None or found["dims"] != found["out"]:
            raise ValueError(f"holds a transform of type {type_!r}, which is not supported")
        return cls(found["kind"] + found["more"], int(found["dims"]), parameters, fixed)


def linear_matrix(transform: ItkTransform) -> np.ndarray | None:
    """The matrix ``(D + 1, D + 1)``, LPS mm, of a linear ITK transform; None for other transforms.

    Raises:
        ValueError: if the number of dimensions or parameters is wrong for its type.
    """
    if transform.kind not in _KINDS:
        return None
    dims, p, fixed = transform.dims, transform.parameters, transform.fixed
    only, count, parts = _KINDS[transform.kind]
    if only not in (0, dims):
        raise ValueError(f"holds a {transform.kind} of {dims} dimensions instead of {only}")
    if len(p) != count(dims):
        raise ValueError(f"holds a {transform.kind} with {len(p)} parameters instead of {count(dims)}")
    linear, shift, center = parts(np.asarray(p, dtype=np.float64), dims, len(fixed) == dims + 1 and bool(fixed[-1]))
    if center is None:
        if len(fixed) not in (dims, dims + 1):  # the center may be followed by a flag for the order of rotations
            raise ValueError(f"holds a {transform.kind} with {len(fixed)} fixed parameters instead of {dims}")
        center = fixed[:dims]
    matrix = np.eye(dims + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = linear, center + shift - linear @ center
    return matrix


#: matrix, translation, and center (None: in the fixed parameters), from parameters, dimensions and order of rotations
_Parts = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
_Reader = Callable[[np.ndarray, int, bool], _Parts]


def _affine(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return p[:-dims].reshape(dims, dims), p[-dims:], None


def _centered_affine(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return p[: dims * dims].reshape(dims, dims), p[-dims:], p[-2 * dims : -dims]


def _identity(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return np.eye(dims), np.zeros(dims), np.zeros(dims)


def _translation(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return np.eye(dims), p, np.zeros(dims)


def _scale(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return np.diag(p), np.zeros(dims), None


def _log_scale(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return np.diag(np.exp(p)), np.zeros(dims), None


def _rigid_2d(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return _turn(p[0]), p[-2:], p[1:3] if len(p) == 5 else None


def _similarity_2d(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return p[0] * _turn(p[1]), p[-2:], p[2:4] if len(p) == 6 else None


def _euler_3d(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    about = []
    for axis, angle in enumerate(p[:3]):
        turn = np.eye(3)
        i, j = ((1, 2), (2, 0), (0, 1))[axis]
        turn[np.ix_((i, j), (i, j))] = _turn(angle)
        about.append(turn)
    x, y, z = about
    return (z @ y @ x if zyx else z @ x @ y), p[-3:], p[3:6] if len(p) == 9 else None


def _versor_only(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return _versor(p), np.zeros(3), None


def _versor_rigid(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return _versor(p[:3]), p[3:6], None


def _similarity_3d(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return p[6] * _versor(p[:3]), p[3:6], None


def _scale_versor(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    """ITK adds scales and skews to the rotation matrix."""
    linear = _versor(p[:3]) + np.diag(p[6:9] - 1)
    if len(p) == 15:
        linear[(0, 0, 1, 1, 2, 2), (1, 2, 0, 2, 0, 1)] += p[9:]
    return linear, p[3:6], None


def _composed_scale_versor(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    skew = np.eye(3)
    skew[(0, 0, 1), (1, 2, 2)] = p[9:]
    return _versor(p[:3]) @ np.diag(p[6:9]) @ skew, p[3:6], None


def _quaternion(p: np.ndarray, dims: int, zyx: bool) -> _Parts:
    return _rotation(p[:3], p[3]), p[4:], None


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _versor(v: np.ndarray) -> np.ndarray:
    """Rotation matrix of a versor: unit quaternion with positive real part."""
    return _rotation(v, np.sqrt(max(0.0, 1 - v @ v)))


def _rotation(v: np.ndarray, w: float) -> np.ndarray:
    x, y, z = v
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _row(only: int, count: int | Callable[[int], int], parts: _Reader) -> tuple[int, Callable[[int], int], _Reader]:
    return only, (count if callable(count) else lambda dims: count), parts


_MATRIX = _row(0, lambda dims: dims * (dims + 1), _affine)
#: by type: required number of dimensions (0: any), number of parameters, function that reads them
_KINDS = {
    "AffineTransform": _MATRIX,
    "MatrixOffsetTransformBase": _MATRIX,  # written by c3d_affine_tool, ITK-SNAP, greedy, fMRIPrep
    "FixedCenterOfRotationAffineTransform": _MATRIX,
    "ScalableAffineTransform": _MATRIX,
    "CenteredAffineTransform": _row(0, lambda dims: dims * (dims + 2), _centered_affine),
    "Rigid3DTransform": _row(3, 12, _affine),
    "IdentityTransform": _row(0, 0, _identity),
    "TranslationTransform": _row(0, lambda dims: dims, _translation),
    "ScaleTransform": _row(0, lambda dims: dims, _scale),
    "ScaleLogarithmicTransform": _row(0, lambda dims: dims, _log_scale),
    "Rigid2DTransform": _row(2, 3, _rigid_2d),
    "Euler2DTransform": _row(2, 3, _rigid_2d),
    "CenteredRigid2DTransform": _row(2, 5, _rigid_2d),
    "Similarity2DTransform": _row(2, 4, _similarity_2d),
    "CenteredSimilarity2DTransform": _row(2, 6, _similarity_2d),
    "Euler3DTransform": _row(3, 6, _euler_3d),
    "CenteredEuler3DTransform": _row(3, 9, _euler_3d),
    "VersorTransform": _row(3, 3, _versor_only),
    "VersorRigid3DTransform": _row(3, 6, _versor_rigid),
    "Similarity3DTransform": _row(3, 7, _similarity_3d),
    "ScaleVersor3DTransform": _row(3, 9, _scale_versor),
    "ScaleSkewVersor3DTransform": _row(3, 15, _scale_versor),
    "ComposeScaleSkewVersor3DTransform": _row(3, 12, _composed_scale_versor),
    "QuaternionRigidTransform": _row(3, 7, _quaternion),
}
