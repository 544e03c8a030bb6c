# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""An image as stored in its file: voxels, affine and metadata. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import InputError

__all__ = ["StoredImage", "TimeAxis", "channel_index", "named_channels"]

_SHOWN = 12  # number of channel names listed in a message


class TimeAxis(NamedTuple):
    """The fourth axis of a time series.

    Attributes:
        step: time between frames (repetition time), in ``unit``.
        unit: NIfTI unit: ``"sec"``, ``"msec"``, ``"usec"``, ``"hz"``, ``"ppm"``, ``"rads"`` or ``"unknown"``.
        offset: time of the first frame, in ``unit``.
    """

    step: float
    unit: str = "unknown"
    offset: float = 0.0


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image as stored in its file.

    Attributes:
        voxels: ``(*spatial, C)``, C = 1 for scalar images; slope and intercept are applied.
        affine: ``(4, 4)``, voxels to world, RAS mm.
        channels: name of each of the C channels or frames, such as ``"echo time 5 ms"``; empty if unknown.
        dtype: dtype name of the stored voxels, such as ``"int16"``.
        time: time axis of a series, if given in the file.
        intent: name of the NIfTI intent, such as ``"symmetric matrix"`` or ``"vector"``; empty for none.
        intent_name: text of NIfTI's ``intent_name``, such as SPM's ``"Mapping"``.
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
            name: name of the image for messages.
            in_memory: whether the image is in memory.

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
    """Index of the selected channel or frame of an image.

    Args:
        count: number of channels.
        channel: selected channel; may be None if there is only one.
        shape: spatial shape, for messages.
        name: name of the image, for messages.
        names: channel names, if any.
        in_memory: whether the image is in memory, where its channel axis may be missing.

    Raises:
        InputError: if there are several channels and none is selected, or the selected one does not exist.
    """
    if channel is None and count != 1:
        how = " (on the command line --channel N; of register --fixed-channel N, --moving-channel N, or FileChannel(FILE, N))"
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
    """Channel names with their indices, in parentheses, for messages; empty without names.

    >>> named_channels(["magnitude", "phase"])
    ' (0: magnitude, 1: phase)'
    """
    listed = [f"{k}: {name}" for k, name in enumerate(names[:_SHOWN])] + ["..."] * (len(names) > _SHOWN)
    return f" ({', '.join(listed)})" if listed else ""
