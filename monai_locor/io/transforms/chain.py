# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Chains of transforms in the order of ``antsApplyTransforms -t``, with optional inversion of each."""

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
        name: name used in messages.
        read: returns the transform, given the grids of its own fixed and moving images.
        inverse: True to use the inverse of the transform.
    """

    name: str
    read: Callable[[Grid | None, Grid | None], SpatialTransform]
    inverse: bool = False


def chain_transforms(
    items: Iterable[ChainItem], fixed: Grid | None, moving: Grid | None, inverse_grid: Grid | None = None
) -> SpatialTransform:
    """Compose transforms; points of the fixed image are mapped by the first transform first.

    Args:
        items: transforms of the chain, at least one.
        fixed: grid of the fixed image of the whole chain; for an inverted item it is the moving grid.
        moving: grid of the moving image of the whole chain; for an inverted item it is the fixed grid.
        inverse_grid: grid on which an inverse at the start of the chain is computed. Default, also for all other inverses:
            the default grid of :meth:`monai_locor.geometry.SpatialTransform.inverse`.

    Raises:
        InputError: if a transform cannot be read or inverted, or if the numbers of dimensions differ.
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
