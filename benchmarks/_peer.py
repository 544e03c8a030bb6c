# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Base class and helpers of adapters to other registration tools.

Only the standard library is imported before a registration is over, because the memory of an interpreter that starts a program
counts as memory of that program.
"""

from __future__ import annotations

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Task:
    """One registration: two images, files for both fields, a folder for temporary files, seed, threads, dimensions."""

    fixed: Path
    moving: Path
    forward: Path
    inverse: Path
    work: Path
    seed: int
    threads: int
    dims: int = 3


class Peer(ABC):
    """A tool with a task: the constructor imports the tool, `register` is measured, `convert` writes the fields.

    Raises:
        ImportError, FileNotFoundError: by the constructor, when the tool is not installed.
    """

    version = ""
    dims: tuple[int, ...] = (2, 3)  # numbers of dimensions that it registers
    programs = False  # whether it registers in programs of its own, whose memory it is then

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def fixed(self) -> str:
        """File of the fixed image."""
        return str(self.task.fixed)

    @property
    def moving(self) -> str:
        """File of the moving image."""
        return str(self.task.moving)

    def file(self, name: str) -> str:
        """A temporary file."""
        return str(self.task.work / name)

    @abstractmethod
    def register(self) -> None:
        """The registration, affine included, from reading the images to the transform in the tool's own form."""

    @abstractmethod
    def convert(self) -> None:
        """Write the transform as displacement fields."""

    def write_forward(self, displacement: np.ndarray) -> None:
        """Displacements of the fixed voxels ``(X, Y, Z, 3)``, LPS mm."""
        write_field(self.task.forward, displacement, self.task.fixed)

    def write_inverse(self, displacement: np.ndarray) -> None:
        """Displacements of the moving voxels ``(X, Y, Z, 3)``, LPS mm."""
        write_field(self.task.inverse, displacement, self.task.moving)


def write_field(path: Path, displacement: np.ndarray, like: Path) -> None:
    """A field ``(X, Y, Z, 3)`` or ``(X, Y, 2)``, LPS mm, on the grid of the image `like`, as ITK reads it."""
    import nibabel as nib
    import numpy as np

    data = np.asarray(displacement, dtype=np.float32)
    dims = data.shape[-1]
    image = nib.Nifti1Image(data.reshape(*data.shape[:dims], *(1,) * (4 - dims), dims), nib.load(like).affine)
    image.header.set_intent("vector")
    nib.save(image, path)


def read_vectors(path: str) -> np.ndarray:
    """The vectors ``(X, Y, Z, 3)`` or ``(X, Y, 2)`` of a file with or without axes of one slice and one time point."""
    import nibabel as nib
    import numpy as np

    data = np.asarray(nib.load(path).dataobj, dtype=np.float64)
    dims = data.shape[-1]
    return data.reshape(*data.shape[:dims], dims)


def flip(displacement: np.ndarray) -> np.ndarray:
    """Vectors ``(..., 3)`` or ``(..., 2)`` from RAS to LPS or back."""
    import numpy as np

    return displacement * np.array([-1.0, -1.0, 1.0])[: displacement.shape[-1]]


def program(name: str) -> str:
    """Path of an executable.

    Raises:
        FileNotFoundError: when there is none on the search path.
    """
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no program {name} on the PATH")
    return found


def call(*command: str | int) -> str:
    """What a program prints.

    Raises:
        RuntimeError: with the last line of it, when the program fails.
    """
    words: Sequence[str] = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or [""])[-1]
        raise RuntimeError(f"{Path(words[0]).name}: exit status {done.returncode}: {last}")
    return done.stdout
