# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learned bases on their own: taken from one registration or training, kept in files, given to the next one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._version import __version__
from ..errors import InputError, one_line
from ..io.weights import read_weights, weights_paths, write_weights
from .basis import LearnedBasis

if TYPE_CHECKING:
    from ..losses import LocalLearnedBasisCRLoss

__all__ = ["LearnedBases"]

FORMAT = "monai_locor learned bases 1"
CHANNELS = ("intensity", "derivative magnitude times the distance of samples")
DIRECTIONS = {
    "forward": "functions of the moving image, fitted to the fixed image",
    "inverse": "functions of the fixed image, fitted to the moving image",
}
RANGE = "robust quantiles inside the mask to [0, 1]"


@dataclass(frozen=True, eq=False)
class LearnedBases:
    """The basis networks of both directions and what they were learned on.

    They act voxel by voxel, so that bases of 3-D images serve 2-D ones, whatever their size.

    Attributes:
        forward: state dict of the :class:`LearnedBasis` that sees the moving image, on the host.
        inverse: of the one that sees the fixed image.
        in_channels: 1, intensity; or 2, its derivative magnitude times the distance of samples beside it.
        num_basis: basis functions J.
        hidden_channels: hidden layers.
        derivative: ``"none"``, ``"basis"`` or ``"both"``, see :class:`monai_locor.registration.RegistrationConfig`.
        quantile: share of voxels inside the mask, below and above, whose robust range was mapped to [0, 1]; None when the
            intensities came from elsewhere.
        limits: what the mapped intensities were clamped to, or None.
        contrasts: names of the moving and the fixed contrast, for instance ``("T1", "FLAIR")``, or None.
        version: of the package that learned them.

    Raises:
        ValueError: when the weights do not have the shapes that the sizes ask for.
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
    ) -> LearnedBases:
        """A copy of the bases of two losses, as they are now.

        Args:
            loss_forward: of the warped moving image, modeling the fixed one.
            loss_inverse: of the warped fixed image, modeling the moving one.
            derivative: by default ``"none"`` for one channel and ``"basis"`` for two.
            quantile, limits, contrasts: see the class.

        Raises:
            ValueError: when a basis is no :class:`LearnedBasis`, or the two differ in size.
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
        """Let two losses, for instance of a training, start from these bases; one loss takes the forward one.

        Raises:
            InputError: when a loss has another basis; the message names both sizes.
        """
        own = {"in_channels": self.in_channels, "num_basis": self.num_basis, "hidden_channels": self.hidden_channels}
        losses = [loss for loss in (loss_forward, loss_inverse) if loss is not None]
        for loss in losses:
            asked = _sizes(loss.basis) if isinstance(loss.basis, LearnedBasis) else {"basis": type(loss.basis).__name__}
            _refuse_difference({"basis": "learned", **own}, asked)
        for loss, state in zip(losses, (self.forward, self.inverse), strict=False):
            loss.basis.load_state_dict(dict(state))

    def check(self, *, derivative: str, num_basis: int, hidden_channels: tuple[int, ...], basis: str = "learned") -> None:
        """Make sure, before any work, that a registration with these settings can start from the bases.

        Raises:
            InputError: when it cannot; the message names both values.
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

    def swapped(self) -> LearnedBases:
        """The same with fixed and moving exchanged: for a pair whose moving image has the contrast of the fixed one here."""
        contrasts = None if self.contrasts is None else (self.contrasts[1], self.contrasts[0])
        return dataclasses.replace(self, forward=self.inverse, inverse=self.forward, contrasts=contrasts)

    def description(self) -> dict[str, Any]:
        """Everything but the weights, as plain values for JSON."""
        return {
            "format": FORMAT,
            "version": self.version,
            "contrasts": None if self.contrasts is None else dict(zip(("moving", "fixed"), self.contrasts, strict=True)),
            "channels": list(CHANNELS[: self.in_channels]),
            "in_channels": self.in_channels,
            "num_basis": self.num_basis,
            "hidden_channels": list(self.hidden_channels),
            "derivative": self.derivative,
            "normalization": {
                "range": None if self.quantile is None else RANGE,
                "quantile": self.quantile,
                "limits": None if self.limits is None else list(self.limits),
            },
            "directions": DIRECTIONS,
        }

    def save(self, path: str | PathLike[str]) -> list[Path]:
        """Write ``path.safetensors`` and, beside it, ``path.json`` (:meth:`description`); needs the package safetensors.

        Args:
            path: with or without ``.safetensors``. Missing folders are made; each file appears only when it is complete.

        Raises:
            InputError: when it cannot be written there.
            ImportError: when safetensors is not installed, naming the extra that brings it.
        """
        states = {direction: getattr(self, direction) for direction in DIRECTIONS}
        tensors = {f"{direction}.{name}": value for direction, state in states.items() for name, value in state.items()}
        return write_weights(path, tensors, self.description())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LearnedBases:
        """Read what :meth:`save` wrote.

        Args:
            path: with or without ``.safetensors``.

        Raises:
            InputError: when a file is missing, is something else, or the two do not fit each other.
            ImportError: when safetensors is not installed, naming the extra that brings it.
        """
        tensors, description = read_weights(path)
        weights, beside = weights_paths(path)
        try:
            settings = _settings(description)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
            raise InputError(f"{beside}: does not describe a learned basis ({reason}); save the basis again") from error
        states: dict[str, dict[str, torch.Tensor]] = {direction: {} for direction in DIRECTIONS}
        for key, value in tensors.items():
            direction, _, name = key.partition(".")
            states.setdefault(direction, {})[name] = value
        try:
            return cls(**{**states, **settings})
        except (TypeError, ValueError) as error:
            raise InputError(f"{weights}: does not fit {beside.name} ({one_line(error)}); save the basis again") from error


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`LearnedBases`, but for the weights."""
    if description["format"] != FORMAT:
        raise ValueError(f"format {description['format']!r}, this version reads {FORMAT!r}")
    contrasts, limits = description["contrasts"], description["normalization"]["limits"]
    return {
        "in_channels": int(description["in_channels"]),
        "num_basis": int(description["num_basis"]),
        "hidden_channels": tuple(int(n) for n in description["hidden_channels"]),
        "derivative": str(description["derivative"]),
        "quantile": description["normalization"]["quantile"],
        "limits": None if limits is None else (float(limits[0]), float(limits[1])),
        "contrasts": None if contrasts is None else (str(contrasts["moving"]), str(contrasts["fixed"])),
        "version": str(description["version"]),
    }


def _shapes(in_channels: int, num_basis: int, hidden_channels: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a :class:`LearnedBasis`'s state dict."""
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
