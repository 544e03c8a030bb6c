# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""An image as its file stores it: voxels, affine and metadata. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import InputError

__all__ = ["StoredImage", "TimeAxis", "channel_index", "named_channels"]

_SHOWN = 12  # names of channels that a message lists


class TimeAxis(NamedTuple):
    """The fourth axis of a time series.

    Attributes:
        step: between frames (repetition time), in ``unit``.
        unit: ``"sec"``, ``"msec"``, ``"usec"``, ``"hz"``, ``"ppm"``, ``"rads"`` or ``"unknown"``, as NIfTI has it.
        offset: of the first frame, in ``unit``.
    """

    step: float
    unit: str = "unknown"
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image as its file stores it.

    Attributes:
        voxels: ``(*spatial, C)``, with C = 1 for an image of one number a voxel; in the type of the file after its slope.
        affine: ``(4, 4)``, voxels to world, RAS mm.
        channels: what each of the C channels or frames is, such as ``"echo time 5 ms"``; empty where the file does not say.
        dtype: name of the type that the file's voxels have, such as ``"int16"``.
        time: of a time series, where the file says it.
        intent: name of the NIfTI intent, such as ``"symmetric matrix"`` or ``"vector"``; empty for none.
        intent_name: text that NIfTI keeps beside it, such as ``"Mapping"`` of SPM.
    """

    voxels: np.ndarray
    affine: np.ndarray
    channels: tuple[str, ...] = ()
    dtype: str = ""
    time: TimeAxis | None = None
    intent: str = ""
    intent_name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each spatial axis."""
        return self.voxels.shape[:-1]

    def chosen(self, channel: int | str | None, name: str, in_memory: bool = False) -> StoredImage:
        """Select one channel with its metadata; ``"all"`` keeps all channels.

        Args:
            channel: see :func:`channel_index`.
            name: for messages.
            in_memory: whether it is an image in memory.

        Raises:
            InputError: see :func:`channel_index`.
        """
        if channel == "all":
            return self
        k = channel_index(self.voxels.shape[-1], channel, self.shape, name, self.channels, in_memory)
        return replace(self, voxels=self.voxels[..., k : k + 1], channels=self.channels[k : k + 1], time=None)


def channel_index(
    count: int, channel: int | str | None, shape: Sequence[int], name: str, names: Sequence[str] = (), in_memory: bool = False
) -> int:
    """Which of the channels or frames of an image to take.

    Args:
        count: how many there are.
        channel: that is asked for; None where there is only one.
        shape: of each of them, for messages.
        name: of the image, for messages.
        names: of the channels, where they have any.
        in_memory: whether it is an image in memory, which may lack its channel axis.

    Raises:
        InputError: when there are several and none is selected, or the selected one does not exist.
    """
    if channel is None and count != 1:
        how = " (on the command line --channel N; of register --fixed-channel N, --moving-channel N)"
        if in_memory:
            how = " or image[:1], give a list of images for several, or add the channel axis with image[None] if there is none"
        raise InputError(
            f"{name}: has {count} channels or frames of shape {tuple(shape)}{named_channels(names)}; choose one with "
            f"channel=0 to {count - 1}{how}"
        )
    index = int(channel or 0)
    if not 0 <= index < count:
        raise InputError(f"{name}: has no channel {channel}{named_channels(names)}; choose one from 0 to {count - 1}")
    return index


def named_channels(names: Sequence[str]) -> str:
    """Names of channels with their numbers, in brackets, for a message that says how many there are; empty without names.

    >>> named_channels(["magnitude", "phase"])
    ' (0: magnitude, 1: phase)'
    """
    listed = [f"{k}: {name}" for k, name in enumerate(names[:_SHOWN])] + ["..."] * (len(names) > _SHOWN)
    return f" ({', '.join(listed)})" if listed else ""
