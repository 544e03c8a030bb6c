# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One file of a derivative dataset, with its sidecar."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.paths import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from ..geometry import Grid

__all__ = ["DIGEST", "XFM_ENDINGS", "DerivedFile", "check_ending", "copied", "digest_of", "sidecar_of", "transform_writer"]

XFM_ENDINGS = (".h5", ".x5", ".nii.gz")
DIGEST = "RunDigest"  # in each sidecar: of the run.json whose registration made the file


@dataclass(frozen=True)
class DerivedFile:
    """A file to write.

    Attributes:
        path: relative to the dataset.
        make: writes its content to a path.
        sidecar: content of the JSON file beside it.
    """

    path: PurePosixPath
    make: Callable[[Path], None]
    sidecar: Mapping[str, Any]

    def is_written(self, root: Path) -> bool:
        """Whether the file is in a dataset, with this sidecar."""
        return (root / self.path).is_file() and _text(_sidecar(root / self.path)) == _text(self.sidecar)

    def write(self, root: Path) -> None:
        """Write it, then the sidecar, each as a whole."""
        target = root / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            self.make(temporary)
        write_json(sidecar_of(target), self.sidecar)


def sidecar_of(path: Path) -> Path:
    """The path of the sidecar of a file: ``sub-01_T1w.json`` of ``sub-01_T1w.nii.gz``."""
    return path.with_name(f"{path.name.partition('.')[0]}.json")


def digest_of(path: Path) -> str | None:
    """The digest of the ``run.json`` that a file was made from, from its sidecar; None if it is not known."""
    found = _sidecar(path).get(DIGEST)
    return found if isinstance(found, str) else None


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        content = read_json(sidecar_of(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(sidecar: Mapping[str, Any]) -> str:
    return json.dumps(sidecar, sort_keys=True)  # equal text, unlike equal values, also where there is NaN


def copied(source: Path) -> Callable[[Path], None]:
    """Copies a file."""

    def make(path: Path) -> None:
        shutil.copyfile(source, path)

    return make


def transform_writer(folder: Path, grid: Grid, inverse: bool) -> Callable[[Path], None]:
    """Writes the transform of an output folder of ``register``, or its inverse.

    Args:
        folder: the output folder.
        grid: of the images that the transform resamples to.
        inverse: which of both.
    """

    def make(path: Path) -> None:
        from ..geometry import SpatialTransform
        from ..io.transforms import read_transform, write_transform
        from ..io.transforms.output_folder import affine_of_run

        matrix = affine_of_run(folder)  # instead of a field of an affine map
        transform = read_transform(folder) if matrix is None else SpatialTransform.of_affine(matrix)
        steps = transform.inverse().steps if inverse else transform.steps
        write_transform(path, SpatialTransform(steps), fixed=grid)  # alone: its inverse is a file of its own

    return make


def check_ending(ending: str) -> None:
    """Check that transforms can be written with an ending.

    Raises:
        InputError: if not.
    """
    if ending not in XFM_ENDINGS:
        raise InputError(f"xfm {ending!r}: transforms cannot be written with this ending; use {', '.join(XFM_ENDINGS)}")
    if ending == ".x5":
        from ..io.transforms.x5 import check_h5py

        check_h5py("transforms *_xfm.x5")
