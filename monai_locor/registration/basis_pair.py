# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The learned basis functions of both directions, copied from a registration or training for reuse in another."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..errors import InputError, one_line
from ..io.basis_files import DIRECTIONS, basis_description, read_basis, write_basis
from ..io.weights import weights_paths
from ..losses import LocalLearnedBasisCRLoss
from ..networks import LearnedBasis

__all__ = ["BasisPair"]


@dataclass(frozen=True, eq=False)
class BasisPair:
    """The basis networks of both directions and the images they were learned on.

    The networks act voxel by voxel, so bases learned on 3-D images can be used in 2-D, for any image size.

    Attributes:
        forward: state dict of the :class:`monai_locor.networks.LearnedBasis` applied to the moving image, on the host.
        inverse: state dict of the basis applied to the fixed image.
        in_channels: 1, intensity; or 2, intensity and derivative magnitude times the sample distance.
        num_basis: number of basis functions J.
        hidden_channels: widths of the hidden layers.
        derivative: ``"none"``, ``"basis"`` or ``"both"``, see :class:`monai_locor.registration.RegistrationConfig`.
        quantile: fraction of voxels inside the mask below and above the intensity range that was mapped to [0, 1]; None if
            the intensities were normalized elsewhere.
        limits: limits to which the mapped intensities were clamped, or None.
        contrasts: names of the moving and the fixed contrast, for instance ``("T1", "FLAIR")``, or None.
        version: package version they were learned with.

    Raises:
        ValueError: if the shapes of the weights do not match ``in_channels``, ``num_basis`` and ``hidden_channels``.
    """

    forward: Mapping[str, torch.Tensor]
    inverse: Mapping[str, torch.Tensor]
    in_channels: int
    num_basis: int
    hidden_channels: tuple[int, ...]
    derivative: str
    quantile: float | None = None
    limits: tuple[float, float] | None = None
    contrasts: tuple[str, str] | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        expected = _shapes(self.in_channels, self.num_basis, self.hidden_channels)
        for direction in DIRECTIONS:
            found = {name: tuple(value.shape) for name, value in getattr(self, direction).items()}
            if found != expected:
                raise ValueError(f"{direction} basis has weights {found}, expected {expected}")

    @classmethod
    def of(
        cls,
        loss_forward: LocalLearnedBasisCRLoss,
        loss_inverse: LocalLearnedBasisCRLoss,
        *,
        derivative: str | None = None,
        quantile: float | None = None,
        limits: tuple[float, float] | None = None,
        contrasts: tuple[str, str] | None = None,
    ) -> BasisPair:
        """Copy the current bases of two losses.

        Args:
            loss_forward: loss that predicts the fixed image from the warped moving image.
            loss_inverse: loss that predicts the moving image from the warped fixed image.
            derivative: by default ``"none"`` for one channel and ``"basis"`` for two.
            quantile, limits, contrasts: see the class.

        Raises:
            ValueError: if a basis is not a :class:`monai_locor.networks.LearnedBasis`, or the two differ in size.
        """
        forward, inverse = _learned(loss_forward), _learned(loss_inverse)
        return cls(
            _copy(forward),
            _copy(inverse),
            **_sizes(forward),
            derivative=derivative or ("none" if forward.in_channels == 1 else "basis"),
            quantile=quantile,
            limits=limits,
            contrasts=contrasts,
        )

    def load_into(self, loss_forward: LocalLearnedBasisCRLoss, loss_inverse: LocalLearnedBasisCRLoss | None = None) -> None:
        """Initialize the bases of two losses, for instance for training; a single loss gets the forward basis.

        Raises:
            InputError: if a loss has a basis of another type or size; the message names both.
        """
        own = {"in_channels": self.in_channels, "num_basis": self.num_basis, "hidden_channels": self.hidden_channels}
        losses = [loss for loss in (loss_forward, loss_inverse) if loss is not None]
        for loss in losses:
            asked = _sizes(loss.basis) if isinstance(loss.basis, LearnedBasis) else {"basis": type(loss.basis).__name__}
            _refuse_difference({"basis": "learned", **own}, asked)
        for loss, state in zip(losses, (self.forward, self.inverse), strict=False):
            loss.basis.load_state_dict(dict(state))

    def check(self, *, derivative: str, num_basis: int, hidden_channels: tuple[int, ...], basis: str = "learned") -> None:
        """Check that a registration with these settings can start from the bases.

        Raises:
            InputError: if a setting differs; the message names both values.
        """
        asked = {
            "basis": basis,
            "derivative": derivative,
            "in_channels": 1 if derivative == "none" else 2,
            "num_basis": num_basis,
            "hidden_channels": tuple(hidden_channels),
        }
        own = {name: "learned" if name == "basis" else getattr(self, name) for name in asked}
        _refuse_difference(own, asked)

    def swapped(self) -> BasisPair:
        """Exchange fixed and moving, for a pair whose moving image has the contrast of the fixed image here."""
        contrasts = None if self.contrasts is None else (self.contrasts[1], self.contrasts[0])
        return dataclasses.replace(self, forward=self.inverse, inverse=self.forward, contrasts=contrasts)

    def description(self) -> dict[str, Any]:
        """Return all attributes except the weights, as plain values for JSON."""
        return basis_description(vars(self))

    def save(self, path: str | PathLike[str]) -> list[Path]:
        """Write ``path.safetensors`` and ``path.json`` (:meth:`description`); requires the package safetensors.

        Args:
            path: with or without ``.safetensors``. Missing folders are created; each file is written atomically.

        Raises:
            InputError: if the files cannot be written.
            ImportError: if safetensors is not installed; the message names the extra that provides it.
        """
        return write_basis(path, {direction: getattr(self, direction) for direction in DIRECTIONS}, self.description())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> BasisPair:
        """Read the files that :meth:`save` wrote.

        Args:
            path: with or without ``.safetensors``.

        Raises:
            InputError: if a file is missing or invalid, or if the two files do not match.
            ImportError: if safetensors is not installed; the message names the extra that provides it.
        """
        fields = read_basis(path)
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            weights, json_file = weights_paths(path)
            raise InputError(f"{weights}: does not fit {json_file.name} ({one_line(error)}); save the basis again") from error


def _shapes(in_channels: int, num_basis: int, hidden_channels: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the state dict of a :class:`monai_locor.networks.LearnedBasis`."""
    found: dict[str, tuple[int, ...]] = {}
    for number, (a, b) in enumerate(itertools.pairwise((in_channels, *hidden_channels, num_basis))):
        found |= {f"layers.{number}.weight": (b, a), f"layers.{number}.bias": (b,)}
    return found


def _learned(loss: LocalLearnedBasisCRLoss) -> LearnedBasis:
    if not isinstance(loss.basis, LearnedBasis):
        raise ValueError(f"the loss has a {type(loss.basis).__name__}, not a learned basis")
    return loss.basis


def _sizes(basis: LearnedBasis) -> dict[str, Any]:
    hidden = tuple(int(layer.out_features) for layer in basis.layers[:-1])  # type: ignore[arg-type]
    return {"in_channels": basis.in_channels, "num_basis": basis.num_basis, "hidden_channels": hidden}


def _copy(basis: LearnedBasis) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in basis.state_dict().items()}


def _refuse_difference(have: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    names = [name for name in asked if asked[name] != have[name]]
    if names:
        own, others = (", ".join(f"{name} {values[name]!r}" for name in names) for values in (have, asked))
        raise InputError(f"the initial basis has {own}, the settings ask for {others}; change these or learn another basis.")
