# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""A network that predicts a deformation, made ready for unsupervised training: the geometry around it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import DVF2DDF
from monai.utils import look_up_option
from torch import nn

from monai_locor.geometry import identity_points, sample
from monai_locor.precision import full_precision
from monai_locor.tensors import plain

from .velocity import LatticeWarp

__all__ = ["RegistrationNetwork", "cropped", "pooled", "small_head", "upsampled"]


def pooled(image: torch.Tensor, divisible: int, downsampling: int = 1) -> torch.Tensor:
    """What a network gets of ``(B, C, *spatial)``: means of ``downsampling`` voxels along each axis, to a divisible size.

    At the ends zeros are added, so that the size becomes a multiple of ``divisible * downsampling`` first.
    """
    multiple = divisible * downsampling
    padded = F.pad(image, [width for n in reversed(image.shape[2:]) for width in (0, -n % multiple)])
    if downsampling == 1:
        return padded
    return (F.avg_pool3d if padded.ndim == 5 else F.avg_pool2d)(padded, downsampling)


def cropped(field: torch.Tensor, shape: Sequence[int], downsampling: int = 1) -> torch.Tensor:
    """Of a field ``(B, D, *any)`` for a :func:`pooled` image what lies over the image's ``shape``."""
    for axis, n in enumerate(shape, start=2):
        field = field.narrow(axis, 0, -(-n // downsampling))
    return field


def upsampled(field: torch.Tensor, shape: Sequence[int], downsampling: int = 1) -> torch.Tensor:
    """A field on large voxels, ``(B, D, *any)`` in those, as one on the image's voxels, ``(B, D, *shape)`` in these.

    The large voxel i is centred on the image's position ``downsampling * i + (downsampling - 1) / 2``; linear in between.
    """
    if downsampling == 1:
        return field
    points = (identity_points(shape, field.device) - (downsampling - 1) / 2) / downsampling
    return sample(field, points.expand(len(field), *points.shape), padding_mode="border") * downsampling


def small_head(network: nn.Module, std: float = 1e-5) -> None:
    """Draw the weights of a network's last convolution anew, so small that it starts from about no deformation.

    Args:
        network: in the order in which its modules are registered, the last convolution is its head.
        std: standard deviation of the weights; the bias becomes zero.

    Raises:
        ValueError: when there is no convolution.
    """
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.modules.conv._ConvNd)]
    if not convolutions:
        raise ValueError(f"{type(network).__name__} has no convolution that could be its head")
    nn.init.normal_(convolutions[-1].weight, 0, std)
    if convolutions[-1].bias is not None:
        nn.init.zeros_(convolutions[-1].bias)


class RegistrationNetwork(nn.Module):
    """What surrounds a network in VoxelMorph-style training: padding, integration both ways, warping.

    The network maps a moving and a fixed image on the same grid to a field in voxels, ``(B, D, *spatial)``, channel i along
    array axis i (MONAI's DVF and DDF). It sees the first channel of each image; all channels are warped, so that a derivative
    magnitude made beforehand comes along. It may run under autocast; all around it is computed in float32.

    Reference: Dalca et al., "Unsupervised learning of probabilistic diffeomorphic registration", arXiv 1903.03545, for the
    stationary velocity in a network.

    Args:
        network: any module: MONAI's ``VoxelMorphUNet``, ``RegUNet``, ``LocalNet``, ``VoxelMorph``, or one's own. Of several
            outputs the last one is the field.
        spatial_dims: 2 or 3.
        output: ``"velocity"``, a stationary velocity, whose exponential is the displacement and whose negative gives the
            inverse; or ``"displacement"``, used as it is, without an inverse (``VoxelMorph`` integrates by itself).
        inputs: ``"concatenated"``, the network is called with ``(B, 2, *spatial)``, moving image first; or ``"separate"``, with
            moving and fixed image.
        divisible: its input is padded with zeros to multiples of this, the field cropped.
        downsampling: the network works on voxels so many times larger along each axis, and its field is integrated there; the
            images are warped, and the loss evaluated, on their own voxels. A deformation is smooth, but shifts of less than a
            voxel cannot be told from the blur of interpolation: the loss wants finer voxels than the field.
        squarings: of the exponential.
        head_std: if given, the network's last convolution is initialised by :func:`small_head`.

    Raises:
        ValueError: for unknown options.

    Example::

        model = RegistrationNetwork(VoxelMorphUNet(3, 2, 16, [16, 32, 32, 32], [16]), divisible=4, head_std=1e-5)
        out = model(moving, fixed)
        loss = RegistrationLoss(similarity, inverse_similarity)(out, fixed)
    """

    def __init__(
        self,
        network: nn.Module,
        spatial_dims: int = 3,
        output: str = "velocity",
        inputs: str = "concatenated",
        divisible: int = 16,
        squarings: int = 6,
        head_std: float | None = None,
        downsampling: int = 1,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        for name, value in (("divisible", divisible), ("squarings", squarings), ("downsampling", downsampling)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}.")
        self.network, self.spatial_dims = network, spatial_dims
        self.output = look_up_option(output, ("velocity", "displacement"))
        self.inputs = look_up_option(inputs, ("concatenated", "separate"))
        self.divisible, self.squarings, self.downsampling = divisible, squarings, downsampling
        self._exponentials: dict[Any, DVF2DDF] = {}
        if head_std is not None:
            small_head(network, head_std)

    def forward(
        self,
        moving: torch.Tensor,
        fixed: torch.Tensor,
        moving_weight: torch.Tensor | None = None,
        fixed_weight: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            moving, fixed: ``(B, C, *spatial)``, of one size.
            moving_weight, fixed_weight: where they count, ``(B, 1, *spatial)`` in [0, 1]; by default everywhere.

        Returns:
            ``"moving"``, ``"fixed"``: as given; ``"warped_moving"`` ``(B, C, *spatial)``; ``"ddf"`` ``(B, D, *spatial)``,
            voxels; ``"weight"`` ``(B, 1, *spatial)``, where the fixed and the warped moving image count. With a velocity also
            itself, ``"velocity"``, on the network's voxels and in these, and for the other direction ``"warped_fixed"``,
            ``"inverse_ddf"``, ``"inverse_weight"``.

        Raises:
            ValueError: when the shapes do not fit, or the network's output is no field.
        """
        moving, fixed = plain(moving), plain(fixed)
        if moving.shape[0] != fixed.shape[0] or moving.shape[2:] != fixed.shape[2:] or moving.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"moving and fixed must be (B, C, {self.spatial_dims} spatial axes) of one size, got {tuple(moving.shape)} and "
                f"{tuple(fixed.shape)}."
            )
        field = self._field(moving[:, :1], fixed[:, :1])
        weights = [
            torch.ones_like(i[:, :1]) if w is None else plain(w) for i, w in ((moving, moving_weight), (fixed, fixed_weight))
        ]
        with full_precision(field.device):
            moving, fixed, field = moving.float(), fixed.float(), field.float()
            out = {"moving": moving, "fixed": fixed}
            ddf = self._integrated(torch.cat((field, -field))) if self.output == "velocity" else field
            ddf = upsampled(ddf, fixed.shape[2:], self.downsampling)
            ddf, *inverse = ddf.split(len(field))
            out |= {"ddf": ddf, "warped_moving": _warped(moving, ddf), "weight": _weight(weights[0], weights[1], ddf)}
            if inverse:
                out |= {"velocity": field, "inverse_ddf": inverse[0], "warped_fixed": _warped(fixed, inverse[0])}
                out |= {"inverse_weight": _weight(weights[1], weights[0], inverse[0])}
        return out

    def _field(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        seen = [pooled(image, self.divisible, self.downsampling) for image in (moving, fixed)]
        field = self.network(torch.cat(seen, 1)) if self.inputs == "concatenated" else self.network(*seen)
        if isinstance(field, Sequence):
            field = field[-1]
        expected = (len(moving), self.spatial_dims, *seen[0].shape[2:])
        if not isinstance(field, torch.Tensor) or tuple(field.shape) != expected:
            what = tuple(field.shape) if isinstance(field, torch.Tensor) else type(field).__name__
            raise ValueError(f"the network must return a field of shape {expected}, got {what}.")
        return cropped(plain(field), moving.shape[2:], self.downsampling)

    def _integrated(self, velocity: torch.Tensor) -> torch.Tensor:
        """The exponential; what it needs to know of a grid is kept for the next image of that size."""
        key = (velocity.shape[2:], velocity.device)
        if key not in self._exponentials:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MONAI tells that it uses torch's grid_sample
                self._exponentials[key] = DVF2DDF(num_steps=self.squarings)
            self._exponentials[key].warp_layer = LatticeWarp(velocity.shape[2:]).to(velocity.device)  # type: ignore[assignment]
        return self._exponentials[key](velocity)


def _warped(image: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    return sample(image, identity_points(ddf.shape[2:], ddf.device) + ddf)


@torch.no_grad()
def _weight(warped: torch.Tensor, still: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    """Where an image seen through ``ddf`` and one that stays both count."""
    return _warped(warped.float(), ddf) * still.float()
