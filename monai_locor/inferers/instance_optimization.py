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

"""Instance optimisation as a MONAI `Inferer`: optimise a pair, improve what a network predicts, or only predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer
from monai.networks.utils import eval_mode

from ..errors import InputError
from ..geometry import Grid, warp
from ..io import read_image
from ..registration import RegistrationConfig, RegistrationResult, register
from ..registration.initial import initial_affine
from ..registration.prepare import prepare

__all__ = ["InstanceOptimizationInferer"]


class InstanceOptimizationInferer(Inferer):
    """Register every pair of a batch with :func:`monai_locor.register`, optionally from the velocity a network predicts.

    MONAI's evaluators call inferers without gradients; this one switches them on for its own work. What is computed:

    ==================  =================  ====================================================
    ``use_network``     ``num_iterations``  result
    ==================  =================  ====================================================
    False               None or N           instance optimisation alone
    True                None or N           network, then instance optimisation from its velocity
    True                0                   the network's prediction: the exponential of its velocity
    False               0                   the initial alignment
    ==================  =================  ====================================================

    Args:
        preset: settings, see :func:`monai_locor.register`.
        num_iterations: steps in all, shared out among the stages in proportion; None keeps the preset's.
        use_network: start from the network's prediction. The network maps ``(1, 2, *fixed)``, the moving image in its
            initial alignment on the fixed grid and the fixed image, both with their robust range scaled to [0, 1], to a
            stationary velocity ``(1, D, *fixed)`` along the array axes in voxels of the fixed grid (MONAI's DVF).
        divisible: the network's input is padded with zeros to a multiple of this, its output cropped.
        seed: of the optimisation; every pair starts from it, so that a pair gives the same result in any batch.
        progress: show a progress bar.

    Example::

        inferer = InstanceOptimizationInferer(preset="default", num_iterations=50)
        results = inferer(fixed[None], None, moving=moving[None])
        results[0].save("output")
    """

    def __init__(
        self,
        preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
        num_iterations: int | None = None,
        use_network: bool = False,
        divisible: int = 16,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        config = RegistrationConfig.of(preset)
        self.config = config if num_iterations is None else config.with_iterations(num_iterations)
        for name, value in (("divisible", divisible), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, int) or value < (name == "divisible"):
                raise InputError(f"{name} must be a whole number, {int(name == 'divisible')} or more, got {value!r}.")
        self.use_network, self.divisible, self.seed, self.progress = use_network, divisible, seed, progress

    def __call__(
        self,
        inputs: torch.Tensor | Sequence[torch.Tensor],
        network: Callable[[torch.Tensor], torch.Tensor] | None,
        moving: torch.Tensor | Sequence[torch.Tensor],
        fixed_mask: torch.Tensor | Sequence[torch.Tensor | None] | None = None,
        moving_mask: torch.Tensor | Sequence[torch.Tensor | None] | None = None,
    ) -> list[RegistrationResult]:
        """Register a batch.

        Args:
            inputs: fixed images, ``(B, 1, *fixed)``, or a list of ``(1, *fixed)`` whose grids may differ; MetaTensors carry
                their affines. The work is done on their device.
            network: see the class; not called unless ``use_network``.
            moving: moving images, likewise, each on its own grid.
            fixed_mask: where the fixed images count, likewise; items of a list may be None.
            moving_mask: the same for the moving images.

        Returns:
            one result for each pair, on the host.

        Raises:
            InputError: for input that cannot be registered.
            ValueError: when the numbers of images differ, or the network returns something else than a velocity.
        """
        with torch.inference_mode(False), torch.enable_grad():
            fixed_images = _items(inputs, None)
            count = len(fixed_images)
            columns = [_items(given, count) for given in (moving, fixed_mask, moving_mask)]
            if any(len(column) != count for column in columns):
                raise ValueError(f"{count} fixed images and {', '.join(str(len(c)) for c in columns)} moving images and masks")
            return [self._register(network, *items) for items in zip(fixed_images, *columns, strict=True)]

    def _register(
        self,
        network: Callable[[torch.Tensor], torch.Tensor] | None,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        fixed_mask: torch.Tensor | None,
        moving_mask: torch.Tensor | None,
    ) -> RegistrationResult:
        matrix, velocity = self._predict(network, fixed, moving) if self.use_network else (None, None)
        result = register(
            fixed,
            moving,
            preset=self.config,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            initial=matrix,
            initial_velocity=velocity,
            device=fixed.device,
            seed=self.seed,
            progress=self.progress,
        )
        images = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
        names = {role: _file_name(image) for role, image in images.items()}
        return dataclasses.replace(result, inputs={role: name for role, name in names.items() if name})

    def _predict(
        self, network: Callable[[torch.Tensor], torch.Tensor] | None, fixed: torch.Tensor, moving: torch.Tensor
    ) -> tuple[np.ndarray, torch.Tensor]:
        """The initial affine, RAS mm, and the velocity on top of it, ``(D, *fixed)`` in voxels of the fixed grid."""
        if network is None:
            raise ValueError("use_network is set, but there is no network")
        target, source = (
            prepare(read_image(image, role)[0], None, self.config.quantile, fixed.device)
            for image, role in ((fixed, "fixed"), (moving, "moving"))
        )
        matrix = initial_affine(target, source, self.config.initialization)
        seen = Grid(source.grid.shape, np.linalg.inv(matrix) @ source.grid.affine)
        aligned = warp(source.image.clamp(0, 1), seen, None, target.stored)
        image = torch.cat((aligned, target.to_stored(target.image).clamp(0, 1)))[None]
        shape = image.shape[2:]
        padding = [width for n in reversed(shape) for width in (0, -n % self.divisible)]
        modules = [network] if isinstance(network, torch.nn.Module) else []
        with eval_mode(*modules):
            velocity = network(torch.nn.functional.pad(image, padding))
        if not isinstance(velocity, torch.Tensor) or velocity.shape[:2] != (1, len(shape)):
            what = tuple(velocity.shape) if isinstance(velocity, torch.Tensor) else type(velocity).__name__
            raise ValueError(f"the network must return a velocity (1, {len(shape)}, ...), got {what}")
        crop = (slice(None), *(slice(n) for n in shape))
        return matrix, velocity[0][crop].float()


def _items(images: torch.Tensor | Sequence[torch.Tensor | None] | None, count: int | None) -> list[Any]:
    """The images of a batch one by one, with what was made in inference mode copied, since autograd refuses it."""
    if images is None:
        return [None] * (count or 0)
    # a MetaTensor that is no collated batch has one affine for all its items, and indexing keeps it
    return [None if image is None else image.clone() if image.is_inference() else image for image in images]


def _file_name(image: torch.Tensor | None) -> str:
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
