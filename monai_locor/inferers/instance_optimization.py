# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Instance optimization as a MONAI `Inferer`: optimize a pair, refine a network's prediction, or only predict."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers import Inferer
from torch import nn

from ..errors import InputError
from ..losses import LocalLearnedBasisCRLoss
from ..losses.registration_loss import RegistrationLoss
from ..networks import LearnedBasis, RegistrationNetwork
from ..registration import RegistrationConfig, RegistrationResult, register_batch
from ..registration.basis_pair import BasisPair
from ..registration.numbers import COUNT, POSITIVE, STEPS
from ..registration.similarity import OwnSimilarity, chosen_similarity
from ..registration.start.prepare import PreparedImage
from .network_input import predict_velocity

__all__ = ["InstanceOptimizationInferer"]


class InstanceOptimizationInferer(Inferer):
    """Register every pair of a batch, optionally from the velocity that a network predicts.

    Small pairs of equal shape share the steps of the optimization, see :func:`monai_locor.register_batch`. MONAI's evaluators
    call inferers without gradients; this one enables them. Results:

    ==================  =================  ====================================================
    ``use_network``     ``num_iterations``  result
    ==================  =================  ====================================================
    False               None or N           instance optimization alone
    True                None or N           affine, network, then instance optimization from its velocity
    True                0                   affine and the network's prediction: the exponential of its velocity
    False               0                   the affine alone
    ==================  =================  ====================================================

    Args:
        preset: settings, see :func:`monai_locor.register`.
        num_iterations: deformable steps, distributed over the stages in proportion; None keeps the preset's. After a network,
            stages that sample coarser than ``coarsest`` get none. The affine stages are those of the preset.
        use_network: start from the network's prediction. The network maps ``(1, 2, *grid)``, the moving image in its affine
            alignment and the fixed image on the network's grid, see
            :func:`monai_locor.inferers.network_input.network_image`, to a stationary velocity ``(1, D, *grid)`` along the
            array axes in voxels of that grid (MONAI's DVF). With ``guided`` its input has more channels.
        network_spacing: voxel size of the images that the network was trained with, mm.
        downsampling: how many times larger the network's own voxels are, see :class:`monai_locor.networks.RegistrationNetwork`.
        stride, guided: as the network was trained, see :class:`monai_locor.networks.RegistrationNetwork`; with ``guided``, its
            guide is ``loss``.
        loss: the loss of the network's training; instance optimization after the network starts from its learned basis
            functions, if any. It may be on any device; for images on another device, a copy is used.
        coarsest: see ``num_iterations``; sampling factor.
        divisible: the network's input is padded with zeros to a multiple of this, its output cropped.
        seed: of the optimization; every pair starts from it, so that a pair gives the same result in any batch, to rounding.
        progress: show a progress bar.
        similarity: replaces the measure of the settings, see :func:`monai_locor.register`.
        similarity_options: of a named measure, see :class:`monai_locor.registration.RegistrationConfig`.
        transform: replaces that of the settings, see :func:`monai_locor.register`.

    Raises:
        InputError: for settings that are not valid.

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
        network_spacing: float = 3.0,
        downsampling: int = 1,
        loss: RegistrationLoss | None = None,
        coarsest: float = 2.0,
        divisible: int = 16,
        seed: int = 0,
        progress: bool = True,
        similarity: str | OwnSimilarity | None = None,
        similarity_options: Mapping[str, Any] | None = None,
        stride: int = 1,
        guided: bool = False,
        transform: str | None = None,
    ) -> None:
        super().__init__()
        self.config, self.similarity = chosen_similarity(
            RegistrationConfig.of(preset).with_transform(transform), similarity, similarity_options
        )
        if use_network and self.config.transform != "deformable":
            raise InputError(f'a network requires transform "deformable", got "{self.config.transform}".')
        if num_iterations is not None:
            self.config = self.config.with_iterations(num_iterations, coarsest if use_network else math.inf)
        for name, value in (("divisible", divisible), ("downsampling", downsampling), ("stride", stride)):
            COUNT.check(name, value)
        STEPS.check("seed", seed)
        POSITIVE.check("network_spacing", network_spacing)
        if guided and loss is None:
            raise InputError("a guided network needs the loss that it was trained with; give loss.")
        self.use_network, self.network_spacing, self.loss = use_network, float(network_spacing), loss
        self.seed, self.progress = seed, progress
        self.wrapper: dict[str, Any] = {"divisible": divisible, "downsampling": downsampling, "stride": stride}
        self.guided = guided

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
            fixed_mask: masks of the fixed images, likewise; items of a list may be None.
            moving_mask: the same for the moving images.

        Returns:
            one result for each pair, on the host.

        Raises:
            InputError: for input that cannot be registered.
            ValueError: when the numbers of images differ, or the output of the network is not a velocity.
        """
        with torch.inference_mode(False), torch.enable_grad():
            fixed_images = _items(inputs, None)
            count = len(fixed_images)
            columns = [_items(given, count) for given in (moving, fixed_mask, moving_mask)]
            if any(len(column) != count for column in columns):
                raise ValueError(f"{count} fixed images and {', '.join(str(len(c)) for c in columns)} moving images and masks")
            return self._register(network, fixed_images, *columns)

    def _register(
        self,
        network: Callable[[torch.Tensor], torch.Tensor] | None,
        fixed: Sequence[torch.Tensor],
        *others: Sequence[torch.Tensor],
    ) -> list[RegistrationResult]:
        """Register the pairs of each device; ``others`` are the moving images and the masks."""
        images = dict(zip(("fixed", "moving", "fixed_mask", "moving_mask"), (fixed, *others), strict=True))
        results: dict[int, RegistrationResult] = {}
        for device in dict.fromkeys(image.device for image in fixed):
            there = [i for i, image in enumerate(fixed) if image.device == device]
            arguments: dict[str, Any] = {role: [column[i] for i in there] for role, column in images.items()}
            found = register_batch(
                **arguments,
                preset=self.config,
                predict=self._predictor(network) if self.use_network else None,
                initial_basis=self._basis() if self.use_network else None,
                similarity=self.similarity,
                device=device,
                seed=self.seed,
                progress=self.progress,
            )
            results |= dict(zip(there, found, strict=True))
        names = [{role: _file_name(column[i]) for role, column in images.items()} for i in range(len(fixed))]
        return [
            dataclasses.replace(results[i], inputs={role: name for role, name in own.items() if name})
            for i, own in enumerate(names)
        ]

    def _basis(self) -> BasisPair | None:
        """The learned basis of the network's loss; None if it or the registration uses another measure."""
        if self.loss is None or self.config.similarity != "locor":
            return None
        losses = [self.loss.similarity, self.loss.inverse_similarity]
        learned = [x for x in losses if isinstance(x, LocalLearnedBasisCRLoss) and isinstance(x.basis, LearnedBasis)]
        return BasisPair.of(learned[0], learned[1], derivative=self.config.derivative) if len(learned) == 2 else None

    def _predictor(
        self, network: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> Callable[[PreparedImage, PreparedImage, np.ndarray], torch.Tensor]:
        if network is None:
            raise ValueError("use_network is set, but no network is given")

        def predict(fixed: PreparedImage, moving: PreparedImage, matrix: np.ndarray) -> torch.Tensor:
            guide = _on(fixed.image.device, self.loss) if self.guided and self.loss is not None else None
            model = RegistrationNetwork(cast(nn.Module, network), fixed.grid.dims, **self.wrapper, guide=guide)
            return predict_velocity(model, fixed, moving, matrix, self.network_spacing)

        return predict


def _on(device: torch.device, module: nn.Module) -> nn.Module:
    """A module on a device, a copy if it is on another one."""
    elsewhere = any(x.device != device for x in (*module.parameters(), *module.buffers()))
    return copy.deepcopy(module).to(device) if elsewhere else module


def _items(images: torch.Tensor | Sequence[torch.Tensor | None] | None, count: int | None) -> list[Any]:
    """The images of a batch one by one."""
    if images is None:
        return [None] * (count or 0)
    return list(images)  # indexing a MetaTensor that is not a collated batch keeps its affine


def _file_name(image: torch.Tensor | None) -> str:
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
