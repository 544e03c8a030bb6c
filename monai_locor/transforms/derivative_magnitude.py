# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The gradient magnitude of an image, per millimeter, as an additional channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms.transform import Transform
from monai.utils import convert_to_dst_type, convert_to_tensor, ensure_tuple, ensure_tuple_rep, look_up_option
from monai.utils.enums import TransformBackends

from ..geometry import Grid
from ..precision import guarded
from ..tensors import as_tensor, plain

__all__ = ["DerivativeMagnitude", "derivative_magnitude"]


def derivative_magnitude(image: torch.Tensor, linear: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Magnitude of the gradient per millimeter, ``|inv(A)^T grad f|`` with A the linear part of the affine.

    Central differences, one-sided at the borders; an axis of one voxel contributes nothing. Differentiable in ``image``. Where
    the gradient vanishes, the derivative is set to zero, so it is always finite.

    Args:
        image: ``(C, *spatial)`` (or more leading axes), floating point, D spatial axes.
        linear: ``(D, D)``, maps steps in voxels to steps in mm; axes may be sheared, flipped and permuted.

    Returns:
        Tensor with the shape and dtype of ``image``, in units of the image per mm.

    Raises:
        ValueError: if ``linear`` is not an invertible D x D matrix, or ``image`` is not floating point or has no channel axis.
    """
    factor = _metric_factor(linear)
    dims = factor.shape[0]
    image = plain(image)
    if image.ndim <= dims or not image.is_floating_point():
        raise ValueError(
            f"need a floating point (C, *spatial) with {dims} spatial axes, got {image.dtype} {tuple(image.shape)}"
        )
    squares = torch.zeros_like(image)
    for row in factor:
        parts = [_difference(image, axis - dims) * weight for axis, weight in enumerate(row.tolist()) if weight]
        component = sum(parts[1:], parts[0])
        squares.addcmul_(component, component)  # in place, so that only one component is in memory besides the sum
    # the square root is not differentiable at zero
    steep = squares > 0
    return torch.where(steep, torch.where(steep, squares, 1.0).sqrt(), 0.0)


def _metric_factor(linear: torch.Tensor | np.ndarray) -> np.ndarray:
    """``(D, D)`` matrix F with ``|F grad f| = |inv(A)^T grad f|``, diagonal unless the axes are sheared.

    The length of the world gradient does not change under rotation, so the triangular factor of ``inv(A^T A)`` is sufficient.
    Without shear, each of its rows needs one derivative only.
    """
    matrix = np.asarray(linear.detach().cpu() if isinstance(linear, torch.Tensor) else linear, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"the linear part of the affine must be square, got shape {matrix.shape}")
    spacing = np.sqrt((matrix**2).sum(0))
    if not np.isfinite(matrix).all() or (spacing == 0).any() or abs(np.linalg.det(matrix / spacing)) < 1e-9:
        raise ValueError(f"the linear part of the affine is not invertible: {matrix.tolist()}")
    unit = matrix / spacing
    factor = np.linalg.cholesky(np.linalg.inv(unit.T @ unit)).T
    factor[np.abs(factor) < 1e-6] = 0  # rounding in float32 headers is not shear
    return factor / spacing


def _difference(image: torch.Tensor, axis: int) -> torch.Tensor:
    if image.shape[axis] == 1:
        return torch.zeros_like(image)
    return torch.gradient(image, dim=axis)[0]


class DerivativeMagnitude(Transform):
    """Append the gradient magnitude of an image, per millimeter, to its channels.

    Edges are at the same place in images of different modalities, even if their intensities are unrelated. The affine of a
    MetaTensor (oblique, anisotropic, flipped, sheared) is taken into account, so the result does not depend on the storage
    order of the voxels. A plain tensor or array is assumed to have 1 mm voxels.

    Integer, bool and half precision images are promoted to float32; float64 is kept. The input is not modified.

    Args:
        spacing: ``None`` uses the affine of the MetaTensor; a number, or one number per axis, overrides the voxel size in mm;
            ``"voxel"`` computes the gradient per voxel.
        sigma: standard deviation of the Gaussian smoothing before differentiation (one for all axes or one per axis). The
            original channels are not smoothed. ``None`` or 0 disables smoothing.
        sigma_unit: unit of ``sigma``, ``"mm"`` (according to ``spacing``) or ``"voxel"``.
        append: whether to return the image's channels followed by the magnitudes, ``(2 C, *spatial)``, or the magnitudes
            alone, ``(C, *spatial)``.

    Raises:
        ValueError: if ``spacing`` is not positive, ``sigma`` is negative or ``sigma_unit`` is unknown; when called, if their
            number does not match the axes of the image, or the image is complex or not channel-first 1-D, 2-D or 3-D.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        spacing: float | Sequence[float] | str | None = None,
        sigma: float | Sequence[float] | None = None,
        sigma_unit: str = "mm",
        append: bool = True,
    ) -> None:
        if isinstance(spacing, str):
            look_up_option(spacing, ("voxel",))
        elif spacing is not None and not all(0 < float(s) < float("inf") for s in ensure_tuple(spacing)):
            raise ValueError(f"spacing must be None, 'voxel' or positive mm, got {spacing}")
        if sigma is not None and not all(0 <= float(s) < float("inf") for s in ensure_tuple(sigma)):
            raise ValueError(f"sigma must be None or at least 0, got {sigma}")
        self.spacing = spacing
        self.sigma = sigma
        self.sigma_unit = look_up_option(sigma_unit, ("mm", "voxel"))
        self.append = append

    @guarded
    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """
        Args:
            img: ``(C, *spatial)``, 1 to 3 spatial axes.

        Returns:
            ``(2 C, *spatial)``, or ``(C, *spatial)`` without ``append``; a MetaTensor with the metadata of the input if
            metadata is tracked.
        """
        linear = self._linear(img)
        given = img if isinstance(img, torch.Tensor) else as_tensor(img)
        tracked: torch.Tensor = convert_to_tensor(given, track_meta=get_track_meta())
        image = plain(tracked)
        if image.is_complex():
            raise ValueError(f"the magnitude of the gradient of a complex image ({image.dtype}) is not defined")
        if image.dtype != torch.float64:
            image = image.to(torch.float32)
        out = derivative_magnitude(self._smoothed(image, linear), linear)
        if self.append:
            out = torch.cat([image, out])
        return convert_to_dst_type(out, dst=tracked, dtype=out.dtype)[0]

    def _linear(self, img: NdarrayOrTensor) -> np.ndarray:
        """The voxel-to-mm matrix, ``(D, D)``, from the options and the affine of the image."""
        dims = img.ndim - 1
        if not 1 <= dims <= 3:
            raise ValueError(f"need a channel-first image with 1 to 3 spatial axes, got shape {tuple(img.shape)}")
        if self.spacing is None and isinstance(img, MetaTensor):
            return Grid.of(img).affine[:dims, :dims] if dims > 1 else _step_mm(img)
        if self.spacing is None or isinstance(self.spacing, str):
            return np.eye(dims)
        return np.diag(np.array(ensure_tuple_rep(self.spacing, dims), dtype=np.float64))

    def _smoothed(self, image: torch.Tensor, linear: np.ndarray) -> torch.Tensor:
        if self.sigma is None:
            return image
        sigma = np.array(ensure_tuple_rep(self.sigma, len(linear)), dtype=np.float64)
        if self.sigma_unit == "mm":
            sigma = sigma / np.sqrt((linear**2).sum(0))
        widths = torch.from_numpy(sigma).float()
        kernels = [gaussian_1d(s, normalize=True) if s > 0 else torch.ones_like(s)[None] for s in widths]
        # like MONAI's GaussianFilter but without its zero padding, which would create an edge at the image border
        return separable_filtering(image[None], kernels, mode="replicate")[0]


def _step_mm(line: MetaTensor) -> np.ndarray:
    """Distance of the voxels of a 1-D image, whose axis may have any direction in the world, ``(1, 1)``."""
    axis = line.affine.detach().cpu().double().numpy()[:-1, :1]
    return np.sqrt((axis**2).sum(0, keepdims=True))
