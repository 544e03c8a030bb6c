# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""How steep an image is: the magnitude of its gradient per millimeter, as one more channel."""

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
from ..tensors import plain

__all__ = ["DerivativeMagnitude", "derivative_magnitude"]


def derivative_magnitude(image: torch.Tensor, linear: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Magnitude of the gradient per millimeter, ``|inv(A)^T grad f|`` with A the linear part of the affine.

    Central differences inside, one-sided ones at the borders; an axis of one voxel contributes nothing.
    Differentiable in ``image``; where the gradient vanishes the derivative is taken as zero, so it is always finite.

    Args:
        image: ``(C, *spatial)`` (or more leading axes), floating point, D spatial axes.
        linear: ``(D, D)``, takes steps in voxels to steps in mm; sheared, flipped and permuted axes are all right.

    Returns:
        tensor of the shape and dtype of ``image``, in units of the image per mm.

    Raises:
        ValueError: when ``linear`` is not an invertible D x D matrix or ``image`` is not floating point or has no channel axis.
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
        squares.addcmul_(component, component)  # in place: only one component is held besides the sum
    # the square root has no derivative at zero: take it elsewhere only
    steep = squares > 0
    return torch.where(steep, torch.where(steep, squares, 1.0).sqrt(), 0.0)


def _metric_factor(linear: torch.Tensor | np.ndarray) -> np.ndarray:
    """``(D, D)`` matrix F with ``|F grad f| = |inv(A)^T grad f|``, diagonal unless the axes are sheared.

    Rotating the world gradient does not change its length, so that the triangular factor of ``inv(A^T A)`` will do:
    on all but sheared grids it needs only one derivative at a time.
    """
    matrix = np.asarray(linear.detach().cpu() if isinstance(linear, torch.Tensor) else linear, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"the linear part of the affine must be square, got shape {matrix.shape}")
    spacing = np.sqrt((matrix**2).sum(0))
    if not np.isfinite(matrix).all() or (spacing == 0).any() or abs(np.linalg.det(matrix / spacing)) < 1e-9:
        raise ValueError(f"the linear part of the affine is not invertible: {matrix.tolist()}")
    unit = matrix / spacing
    factor = np.linalg.cholesky(np.linalg.inv(unit.T @ unit)).T
    factor[np.abs(factor) < 1e-6] = 0  # what float32 headers leave of orthogonality is not shear
    return factor / spacing


def _difference(image: torch.Tensor, axis: int) -> torch.Tensor:
    if image.shape[axis] == 1:
        return torch.zeros_like(image)
    return torch.gradient(image, dim=axis)[0]


class DerivativeMagnitude(Transform):
    """Append the gradient magnitude of an image to its channels, per millimeter of the world.

    Edges lie at the same place in images of different modality even where their intensities have nothing in common.
    A MetaTensor's affine (oblique, anisotropic, flipped, sheared) is taken into account, so that the result does not
    depend on how the voxels are stored. A plain tensor or array has voxels of 1 mm.

    Integer, bool and half precision images are promoted to float32; float64 is kept. The input is not modified.

    Args:
        spacing: ``None`` takes the voxel geometry from the MetaTensor's affine; a number or one number per axis gives the
            voxel size in mm instead; ``"voxel"`` counts in voxels.
        sigma: standard deviation of a Gaussian that smooths the image before it is differentiated (one for all axes or
            one per axis); the appended-to channels are not smoothed. ``None`` or 0 does not smooth.
        sigma_unit: unit of ``sigma``, ``"mm"`` (as by ``spacing``) or ``"voxel"``.
        append: whether the magnitudes follow the image's own channels, ``(2 C, *spatial)``, or stand alone, ``(C, *spatial)``.

    Raises:
        ValueError: when ``spacing`` is not positive, ``sigma`` is negative or ``sigma_unit`` is unknown; when called, if
            their number does not match the image's axes or the image is complex or not channel-first 1-D, 2-D or 3-D.
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
            ``(2 C, *spatial)``, or ``(C, *spatial)`` without ``append``; a MetaTensor with the input's meta data if these
            are tracked.
        """
        linear = self._linear(img)
        tracked: torch.Tensor = convert_to_tensor(img, track_meta=get_track_meta())
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
        """The voxel-to-mm matrix, ``(D, D)``, that the options and the image's affine say."""
        dims = img.ndim - 1
        if not 1 <= dims <= 3:
            raise ValueError(f"need a channel-first image with 1 to 3 spatial axes, got shape {tuple(img.shape)}")
        if self.spacing is None and isinstance(img, MetaTensor):
            return Grid.of(img).affine[:dims, :dims]
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
        # MONAI's GaussianFilter, but for its zero padding, which would make an edge of the image's border
        return separable_filtering(image[None], kernels, mode="replicate")[0]
