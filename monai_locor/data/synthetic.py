# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs with a known answer: one of two aligned images is deformed by a random diffeomorphism.

The protocol is that of the paper's experiment on T2 and PD images: white noise, smoothed by a Gaussian, is a stationary
velocity ``v``; the transform is ``d = A . exp(v)`` with a random rotation and translation ``A``. Everything is drawn in
world space, so that the transform does not depend on the axis order of the image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.networks.blocks import DVF2DDF

from ..geometry import Grid, affine_about, apply_affine, warp

__all__ = ["deform", "exponential", "random_diffeomorphism", "rotation_matrix", "smooth_noise"]

LATTICE_PER_SIGMA = 8  # the error of linear interpolation is then 0.2 % of the elastic part


def random_diffeomorphism(
    grid: Grid,
    seed: int,
    rotation_deg: float = 10.0,
    translation_mm: float = 10.0,
    elastic_rms_mm: float = 4.0,
    smoothing_mm: float = 15.0,
) -> torch.Tensor:
    """A smooth, invertible, random transform of a grid.

    ``x + u(x) = R (exp(v)(x) - c) + c + t`` with ``c`` the center of the grid. The same seed gives the same bytes on the
    CPU.

    Args:
        grid: 2-D or 3-D.
        seed: of the random numbers.
        rotation_deg: each component of the rotation vector (in 2-D the angle) is uniform in plus or minus this value, degrees.
        translation_mm: each component of ``t`` is uniform in plus or minus this value.
        elastic_rms_mm: root mean square length of ``v``.
        smoothing_mm: standard deviation of the Gaussian that smooths ``v``; 14 to 16 mm in the paper.

    Returns:
        ``u``, ``(D, *grid.shape)``, RAS mm, float32.

    Raises:
        ValueError: if the grid is not 2-D or 3-D, a size is negative or the smoothing is not positive.
    """
    if grid.dims not in (2, 3):
        raise ValueError(f"the grid must have 2 or 3 dimensions, got {grid.dims}")
    if min(rotation_deg, translation_mm, elastic_rms_mm) < 0 or smoothing_mm <= 0:
        raise ValueError(f"sizes must not be negative: {(rotation_deg, translation_mm, elastic_rms_mm, smoothing_mm)}")
    rng = np.random.default_rng(seed)
    rotation = rotation_matrix(np.deg2rad(rng.uniform(-1, 1, 3 if grid.dims == 3 else 1) * rotation_deg))
    shift = rng.uniform(-1, 1, grid.dims) * translation_mm
    lattice = _lattice(grid, smoothing_mm)
    velocity = torch.from_numpy(elastic_rms_mm * smooth_noise(lattice, grid.dims, smoothing_mm, rng))
    elastic = exponential(velocity, float(lattice.spacing[0]))
    points = grid.points()
    moved = points + warp(elastic, lattice, None, grid, padding_mode="border").movedim(0, -1).numpy()
    affine = affine_about(grid.center, rotation)
    affine[:-1, -1] += shift
    return torch.from_numpy(np.moveaxis(apply_affine(affine, moved) - points, -1, 0).astype(np.float32))


def deform(image: torch.Tensor, displacement_mm: torch.Tensor, mode: str = "bilinear") -> MetaTensor:
    """Deform an image on its own grid: ``out(x) = image(x + u(x))``.

    Registering any image aligned with ``image`` to the result has the known answer ``u``.

    Args:
        image: ``(C, *shape)``; a MetaTensor's affine is used and kept.
        displacement_mm: ``u``, ``(D, *shape)``, RAS mm.
        mode: ``"bilinear"``, or ``"nearest"`` for labels and masks, which keeps the dtype.

    Returns:
        ``(C, *shape)``, zero where ``x + u(x)`` lies outside the image.
    """
    grid = Grid.of(image)
    out = warp(image, grid, displacement_mm.to(image.device), grid, mode=mode)
    affine = image.affine if isinstance(image, MetaTensor) else None
    return MetaTensor(out.to(image.dtype) if mode == "nearest" else out, affine=affine)


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation by a vector ``(3,)``, or by an angle ``(1,)`` in the plane, radians."""
    skew = np.zeros((3, 3))
    x, y, z = vector if len(vector) == 3 else (0.0, 0.0, float(vector[0]))
    skew[[2, 0, 1], [1, 2, 0]] = x, y, z
    dims = 3 if len(vector) == 3 else 2
    return torch.linalg.matrix_exp(torch.from_numpy(skew - skew.T)).numpy()[:dims, :dims]


def _lattice(grid: Grid, smoothing_mm: float) -> Grid:
    """An isotropic grid along the world axes that covers the given grid with a margin of one standard deviation."""
    step = max(smoothing_mm / LATTICE_PER_SIGMA, float(grid.spacing.min()) / 2)
    low, high = grid.corners().min(0) - smoothing_mm, grid.corners().max(0) + smoothing_mm
    # the size must not depend on rounding, which differs between axis orders
    shape = np.ceil((high - low) / step - 1e-6).astype(int) + 1
    affine = np.diag([*[step] * grid.dims, 1.0])
    affine[:-1, -1] = low
    return Grid(tuple(shape), affine)


def smooth_noise(grid: Grid, channels: int, smoothing_mm: float, rng: np.random.Generator) -> np.ndarray:
    """White noise smoothed by a Gaussian, ``(channels, *grid.shape)``, with a root mean square length of one.

    It is filtered in the Fourier domain: no border effects, no truncation, the same bytes with any number of threads.
    """
    noise = rng.standard_normal((channels, *grid.shape))
    axes = tuple(range(1, grid.dims + 1))
    spectrum = np.fft.rfftn(noise, axes=axes)
    for axis, (n, step) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        frequency = np.fft.rfftfreq(n, step) if axis == grid.dims - 1 else np.fft.fftfreq(n, step)
        response = np.exp(-0.5 * (2 * math.pi * smoothing_mm * frequency) ** 2)
        spectrum *= response.reshape(-1, *[1] * (grid.dims - 1 - axis))
    smooth = np.fft.irfftn(spectrum, s=grid.shape, axes=axes)
    return smooth / math.sqrt((smooth**2).sum(0).mean())


def exponential(velocity_mm: torch.Tensor, step_mm: float) -> torch.Tensor:
    """Displacement of ``exp(v)`` on an isotropic lattice along the world axes, ``(D, *shape)``, mm."""
    velocity = velocity_mm / step_mm
    longest = float(torch.linalg.vector_norm(velocity, dim=0).max())
    squarings = max(6, math.ceil(math.log2(max(longest, 1e-9) / 0.5)))  # the first step is at most half a voxel
    integrate = DVF2DDF(num_steps=squarings, mode="bilinear", padding_mode="border")
    return integrate(velocity[None])[0] * step_mm
