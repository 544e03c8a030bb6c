# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One channel or frame of an image file, as the source of an image. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["FileChannel"]


@dataclass(frozen=True)
class FileChannel(os.PathLike[str]):
    """One channel or frame of an image file, wherever the name of an image file can be given.

    Example::

        register(FileChannel("echoes.nii.gz", 1), "t1.nii.gz")

    Attributes:
        path: the file, or the folder of a DICOM series; ``FOLDER/UID`` for one of several.
        channel: index of the channel or frame, counted from 0.
    """

    path: str
    channel: int

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path
