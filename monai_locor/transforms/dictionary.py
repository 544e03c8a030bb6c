# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Dictionary versions of the transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform

from .derivative_magnitude import DerivativeMagnitude

__all__ = ["DerivativeMagnitudeD", "DerivativeMagnitudeDict", "DerivativeMagnituded"]


class DerivativeMagnituded(MapTransform):
    """Dictionary-based version of :class:`monai_locor.transforms.DerivativeMagnitude`.

    Args:
        keys: keys of the images, each ``(C, *spatial)``.
        spacing: see :class:`~monai_locor.transforms.DerivativeMagnitude`.
        sigma: see there.
        sigma_unit: see there.
        append: see there.
        allow_missing_keys: do not raise an exception if a key is missing.

    Raises:
        ValueError: as in the array version.
        KeyError: when called, if a key is missing and ``allow_missing_keys`` is not set.
    """

    backend = DerivativeMagnitude.backend

    def __init__(
        self,
        keys: KeysCollection,
        spacing: float | Sequence[float] | str | None = None,
        sigma: float | Sequence[float] | None = None,
        sigma_unit: str = "mm",
        append: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = DerivativeMagnitude(spacing, sigma, sigma_unit, append)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """
        Args:
            data: dictionary with the images, each ``(C, *spatial)``.

        Returns:
            A new dictionary with these images replaced.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key])
        return d


DerivativeMagnitudeD = DerivativeMagnitudeDict = DerivativeMagnituded
