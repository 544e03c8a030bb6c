# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The geometry around a network that predicts a deformation, for unsupervised training."""

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
from .exponential import AnyLatticeWarp, LatticeWarp, monai_exponential
from .forces import forces
from .lattice import cropped, pooled, samples, upsampled

__all__ = ["RegistrationNetwork", "small_head"]

MAX_KEPT_SIZES = 4  # image sizes whose lattices are kept


def small_head(network: nn.Module, std: float = 1e-5) -> None:
    """Draw small weights for a network's last convolution, so that it starts near the identity.

    Args:
        network: its head is the last convolution in the order of registration of its modules.
        std: standard deviation of the weights; the bias becomes zero.

    Raises:
        ValueError: if there is no convolution.
    """
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.modules.conv._ConvNd)]
    if not convolutions:
        raise ValueError(f"{type(network).__name__} has no convolution to use as its head")
    nn.init.normal_(convolutions[-1].weight, 0, std)
    if convolutions[-1].bias is not None:
        nn.init.zeros_(convolutions[-1].bias)


class RegistrationNetwork(nn.Module):
    """Padding, integration in both directions and warping around a network in VoxelMorph-style training.

    The network maps a moving and a fixed image on the same grid to a field in voxels, ``(B, D, *spatial)``, channel i along
    array axis i (MONAI's DVF and DDF). It gets the first channel of each image; all channels are warped, including a derivative
    magnitude computed beforehand. The network may run under autocast; everything around it is computed in float32.

    Reference: Dalca et al., "Unsupervised learning of probabilistic diffeomorphic registration", arXiv 1903.03545, for the
    stationary velocity in a network.

    Args:
        network: any module: MONAI's ``VoxelMorphUNet``, ``RegUNet``, ``LocalNet``, ``VoxelMorph``, or a custom
            one. Of several outputs the last one is the field.
        spatial_dims: 2 or 3.
        output: ``"velocity"``, a stationary velocity, whose exponential is the displacement and whose negative gives the
            inverse; or ``"displacement"``, used directly, without an inverse (``VoxelMorph`` integrates internally).
        inputs: ``"concatenated"``, the network is called with ``(B, 2, *spatial)``, moving image first; or ``"separate"``, with
            moving and fixed image.
        divisible: the input is padded with zeros to a multiple of this, and the field is cropped.
        downsampling: factor by which the network's voxels are larger along each axis. The field is integrated on these; the
            images are warped, and the loss is evaluated, on their own voxels. A deformation is smooth, but shifts of less than
            a voxel cannot be distinguished from interpolation blur: the loss needs finer voxels than the field.
        stride: in ``train()``, the images are compared at every ``stride``-th voxel, and all outputs are given there. The loss
            becomes cheaper, while the images are still sampled from fine voxels.
        guide: a loss of the outputs of :meth:`forward`, like :class:`monai_locor.losses.RegistrationLoss`. The network then
            gets ``2 * spatial_dims`` more channels: the descent direction of that loss without a deformation, see
            :func:`monai_locor.networks.forces.forces`. The loss is not registered as a submodule.
        squarings: number of squarings of the exponential.
        head_std: if given, the network's last convolution is initialized by :func:`small_head`.

    Raises:
        ValueError: for invalid options.

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
        self.guide: tuple[nn.Module, ...] = () if guide is None else (guide,)  # a tuple: not a submodule
        self._exponentials = Recent[DVF2DDF](MAX_KEPT_SIZES)
        self._any_size = [monai_exponential(AnyLatticeWarp(), squarings)]  # a list: not a submodule
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
            moving_weight, fixed_weight: weights of their voxels, ``(B, 1, *spatial)`` in [0, 1]; by default 1.

        Returns:
            ``"moving"``, ``"fixed"``: as given; ``"warped_moving"`` ``(B, C, *spatial)``; ``"ddf"`` ``(B, D, *spatial)``,
            voxels; ``"weight"`` ``(B, 1, *spatial)``, the product of the weights of the fixed and the warped moving image. With
            a velocity, also ``"velocity"`` on the network's voxels and in their units, and for the other direction
            ``"warped_fixed"``, ``"inverse_ddf"``, ``"inverse_weight"``.

        Raises:
            ValueError: if the shapes do not fit, or the network does not return a field.
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
        """Only the network's field, on the images' voxels and in their units, ``(B, D, *spatial)``; see :meth:`forward`."""
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
        """The outputs of :meth:`forward`, from displacements on the network's voxels, forward before inverse.

        With a stride, all outputs are at every ``stride``-th voxel, and displacements are in units of the stride.
        """
        shape, dims = fixed.shape[2:], self.spatial_dims
        ddfs = upsampled(ddf, shape, self.downsampling, stride).split(len(fixed))
        start = samples(identity_points(shape, ddf.device), dims, stride)
        at_samples = [samples(x, dims, stride) for x in (moving, fixed, moving_weight, fixed_weight)]
        out = {"moving": at_samples[0], "fixed": at_samples[1], "ddf": ddfs[0] / stride}
        out["warped_moving"] = sample(moving, start + ddfs[0])
        out["weight"] = _weight(moving_weight, at_samples[3], start + ddfs[0])
        if len(ddfs) > 1:
            out |= {"inverse_ddf": ddfs[1] / stride, "warped_fixed": sample(fixed, start + ddfs[1])}
            out["inverse_weight"] = _weight(fixed_weight, at_samples[2], start + ddfs[1])
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
        """The forces of the guide on the network's voxels, padded to ``size``."""
        guide = self.guide[0]
        shape = [-(-n // self.downsampling) for n in images[0].shape[2:]]
        with torch.inference_mode(False):  # autograd refuses tensors made in that mode
            given = [plain(x) for x in images]
            zero = given[0].new_zeros(len(given[0]), self.spatial_dims, *shape)

        def loss(field: torch.Tensor) -> torch.Tensor:  # near zero the exponential of a velocity is the velocity
            ddf = torch.cat((field, -field)) if self.output == "velocity" else field
            return guide(self._compared(self.stride, ddf, *given))

        with full_precision(zero.device):
            found = forces(loss, zero, (guide,))
        return F.pad(found, [width for n, m in zip(reversed(size), reversed(shape)) for width in (0, n - m)])

    def _integrated(self, velocity: torch.Tensor) -> torch.Tensor:
        """The exponential; its lattice is kept for the next images of that size."""
        if torch.compiler.is_compiling():  # a compiled graph keeps constants itself
            return self._any_size[0](velocity)
        key = tuple(velocity.shape[2:]), velocity.device
        return self._exponentials.get(key, lambda: monai_exponential(LatticeWarp(key[0]), self.squarings).to(key[1]))(velocity)


@torch.no_grad()
def _weight(weight: torch.Tensor, target_weight: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Product of the weights of an image sampled at ``points`` and of its target."""
    return sample(weight, points) * target_weight
