# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A network that predicts a deformation, made ready for unsupervised training: the geometry around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import DVF2DDF
from monai.utils import look_up_option
from torch import nn

from ..geometry import identity_points, sample
from ..precision import full_precision
from ..recent import Recent
from ..tensors import plain
from .forces import forces
from .lattice import cropped, pooled, samples, upsampled
from .velocity import AnyLatticeWarp, LatticeWarp, exponential

__all__ = ["RegistrationNetwork", "small_head"]

KEPT = 4  # sizes of images of which something is kept


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
        stride: in ``train()``, the images are compared at every so many of their voxels, and all that is returned is about
            these: a loss costs the less, while the images are still sampled from fine voxels.
        guide: a loss of what :meth:`forward` returns, like :class:`monai_locor.losses.RegistrationLoss`. The network then gets
            more channels, ``2 * spatial_dims``: which way that loss pulls before there is any deformation, see
            :func:`monai_locor.networks.forces.forces`. The loss stays the caller's: its
            parameters are none of this module's.
        squarings: of the exponential.
        head_std: if given, the network's last convolution is initialized by :func:`small_head`.

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
        stride: int = 1,
        guide: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        whole = {"divisible": divisible, "squarings": squarings, "downsampling": downsampling, "stride": stride}
        for name, value in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}.")
        self.network, self.spatial_dims = network, spatial_dims
        self.output = look_up_option(output, ("velocity", "displacement"))
        self.inputs = look_up_option(inputs, ("concatenated", "separate"))
        self.divisible, self.squarings, self.downsampling, self.stride = divisible, squarings, downsampling, stride
        self.guide: tuple[nn.Module, ...] = () if guide is None else (guide,)  # in a tuple, so that it is no module of this one
        self._exponentials = Recent[DVF2DDF](KEPT)
        self._any_size = [exponential(AnyLatticeWarp(), squarings)]  # in a list, to be no part of the module
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
        images = self._checked(moving, fixed, moving_weight, fixed_weight)
        field = self._field(*images)
        with full_precision(field.device):
            field = field.float()
            ddf = self._integrated(torch.cat((field, -field))) if self.output == "velocity" else field
            out = self._compared(self.stride if self.training else 1, ddf, *images)
        return out | ({"velocity": field} if self.output == "velocity" else {})

    @torch.no_grad()
    def predict(
        self,
        moving: torch.Tensor,
        fixed: torch.Tensor,
        moving_weight: torch.Tensor | None = None,
        fixed_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The network's field alone, on the images' voxels and in these, ``(B, D, *spatial)``; arguments of :meth:`forward`."""
        images = self._checked(moving, fixed, moving_weight, fixed_weight)
        return upsampled(self._field(*images).float(), fixed.shape[2:], self.downsampling)

    def _checked(self, moving: torch.Tensor, fixed: torch.Tensor, *given: torch.Tensor | None) -> list[torch.Tensor]:
        """Images and weights, float32."""
        moving, fixed = plain(moving), plain(fixed)
        if moving.shape[0] != fixed.shape[0] or moving.shape[2:] != fixed.shape[2:] or moving.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"moving and fixed must be (B, C, {self.spatial_dims} spatial axes) of one size, got {tuple(moving.shape)} and "
                f"{tuple(fixed.shape)}."
            )
        weights = [torch.ones_like(i[:, :1]) if w is None else plain(w) for i, w in zip((moving, fixed), given, strict=True)]
        return [x.float() for x in (moving, fixed, *weights)]

    def _compared(
        self,
        stride: int,
        ddf: torch.Tensor,
        moving: torch.Tensor,
        fixed: torch.Tensor,
        moving_weight: torch.Tensor,
        fixed_weight: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """What :meth:`forward` returns, of displacements on the network's voxels, the inverse behind the forward one.

        With a stride all is on every so many voxels, and displacements are in units of these steps.
        """
        shape, dims = fixed.shape[2:], self.spatial_dims
        ddfs = upsampled(ddf, shape, self.downsampling, stride).split(len(fixed))
        start = samples(identity_points(shape, ddf.device), dims, stride)
        still = [samples(x, dims, stride) for x in (moving, fixed, moving_weight, fixed_weight)]
        out = {"moving": still[0], "fixed": still[1], "ddf": ddfs[0] / stride}
        out["warped_moving"] = sample(moving, start + ddfs[0])
        out["weight"] = _weight(moving_weight, still[3], start + ddfs[0])
        if len(ddfs) > 1:
            out |= {"inverse_ddf": ddfs[1] / stride, "warped_fixed": sample(fixed, start + ddfs[1])}
            out["inverse_weight"] = _weight(fixed_weight, still[2], start + ddfs[1])
        return out

    def _field(self, moving: torch.Tensor, fixed: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        seen = [pooled(image[:, :1], self.divisible, self.downsampling) for image in (moving, fixed)]
        if self.guide:
            seen.append(self._forces(moving, fixed, *weights, size=seen[0].shape[2:]))
        field = self.network(torch.cat(seen, 1)) if self.inputs == "concatenated" else self.network(*seen)
        if isinstance(field, Sequence):
            field = field[-1]
        expected = (len(moving), self.spatial_dims, *seen[0].shape[2:])
        if not isinstance(field, torch.Tensor) or tuple(field.shape) != expected:
            what = tuple(field.shape) if isinstance(field, torch.Tensor) else type(field).__name__
            raise ValueError(f"the network must return a field of shape {expected}, got {what}.")
        return cropped(plain(field), moving.shape[2:], self.downsampling)

    def _forces(self, *images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """On the network's voxels, padded to ``size``."""
        guide = self.guide[0]
        shape = [-(-n // self.downsampling) for n in images[0].shape[2:]]
        with torch.inference_mode(False):  # autograd refuses what was made in that mode
            given = [plain(x) for x in images]
            zero = given[0].new_zeros(len(given[0]), self.spatial_dims, *shape)

        def loss(field: torch.Tensor) -> torch.Tensor:  # near zero the exponential of a velocity is the velocity
            ddf = torch.cat((field, -field)) if self.output == "velocity" else field
            return guide(self._compared(self.stride, ddf, *given))

        with full_precision(zero.device):
            found = forces(loss, zero, (guide,))
        return F.pad(found, [width for n, m in zip(reversed(size), reversed(shape)) for width in (0, n - m)])

    def _integrated(self, velocity: torch.Tensor) -> torch.Tensor:
        """The exponential; what it needs to know of a grid is kept for the next images of that size."""
        if torch.compiler.is_compiling():  # a graph keeps things by itself
            return self._any_size[0](velocity)
        key = tuple(velocity.shape[2:]), velocity.device
        return self._exponentials.get(key, lambda: exponential(LatticeWarp(key[0]), self.squarings).to(key[1]))(velocity)


@torch.no_grad()
def _weight(weight: torch.Tensor, still: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Where an image that is read at ``points`` and one that stays both count."""
    return sample(weight, points) * still
