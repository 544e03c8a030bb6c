# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Chains of transforms in the order of ``antsApplyTransforms -t``, some of them inverted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...errors import InputError
from ...geometry import Grid, SpatialTransform
from .base import invalid

__all__ = ["ChainItem", "chain_transforms"]


@dataclass(frozen=True)
class ChainItem:
    """One transform of a chain.

    Attributes:
        name: for messages.
        read: gives the transform, from the grids of its own fixed and moving image.
        inverse: whether its inverse is used.
    """

    name: str
    read: Callable[[Grid | None, Grid | None], SpatialTransform]
    inverse: bool = False


def chain_transforms(
    items: Iterable[ChainItem], fixed: Grid | None, moving: Grid | None, inverse_grid: Grid | None = None
) -> SpatialTransform:
    """Compose transforms; points of the fixed image go through the first one first.

    Args:
        items: at least one.
        fixed: grid of the fixed image of the whole chain; an inverted item takes it for its moving image.
        moving: grid of the moving image, likewise.
        inverse_grid: on which an inverse at the start of the chain is computed; this and all others by default on the grid of
            :meth:`monai_locor.geometry.SpatialTransform.inverse`.

    Raises:
        InputError: when a transform cannot be read or inverted, or their numbers of dimensions differ.
    """
    whole: SpatialTransform | None = None
    for item in items:
        part = item.read(moving, fixed) if item.inverse else item.read(fixed, moving)
        if item.inverse:
            fits = whole is None and inverse_grid is not None and inverse_grid.dims == part.dims
            with invalid(item.name, "give the inverse itself"):
                part = part.inverse(inverse_grid if fits else None)
        if whole is not None and whole.dims != part.dims:
            raise InputError(
                f"{item.name}: is {part.dims}-D, the previous ones are {whole.dims}-D; give transforms of one pair"
            )
        whole = part if whole is None else whole.then(part)
    if whole is None:
        raise InputError("the list of transforms is empty; give at least one")
    return whole
