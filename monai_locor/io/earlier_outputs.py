# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The outputs of an earlier registration in an output folder, which must not be mixed with those of another. No torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..roles import ROLES
from .paths import FORWARD, INVERSE, PICTURE_SUFFIXES, STATE_FOLDER, ZARR_FORWARD, ZARR_INVERSE, expanded, read_json
from .stored_files import stored_place

__all__ = ["check_no_inputs", "earlier_outputs", "remove_outputs"]

FOLDERS = (ZARR_FORWARD, ZARR_INVERSE, "warped.ome.zarr")
FILES = (
    "run.json",  # removed first: its presence means a complete run
    FORWARD,
    INVERSE,
    "transform.h5",
    "transform_inverse.h5",
    *(f"ants_{end}" for end in ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz")),
    "affine.tfm",
    *(f"{stem}{suffix}" for stem in ("warped", "warped_fixed") for suffix in (".nii.gz", *PICTURE_SUFFIXES)),
    "velocity.nii.gz",
    "jacobian.nii.gz",
    "error.nii.gz",
    *(f"missing_{role}.nii.gz" for role in ROLES),
    "basis.safetensors",
    "basis.json",
    "thumbnail.jpg",
    "report.html",
)


def earlier_outputs(folder: Path, written: Iterable[Path] | None = None) -> list[Path]:
    """The outputs of fixed names that an output folder holds, which must not stay beside new ones.

    Args:
        folder: the output folder, which need not exist.
        written: what the new run writes; None leaves files alone that no run has written, instead of refusing them.

    Returns:
        the existing files and OME-Zarr folders; ``run.json`` is the first.

    Raises:
        InputError: if one is not in ``written`` and there is no ``run.json`` or state of a run: it may be a file of the user,
            which is neither removed nor mixed with new outputs.
    """
    found = [path for path in (folder / name for name in FILES) if path.is_file() or path.is_symlink()]
    found += [path for path in (folder / name for name in FOLDERS) if path.is_dir() or path.is_symlink()]
    if (folder / STATE_FOLDER).is_dir() or _is_record(folder / "run.json"):
        return found
    if written is None:
        return []
    new = set(written)
    for path in found:
        if path not in new:
            raise InputError(
                f"output folder {folder}: has {path.name}, but no run.json of a registration; it would be mixed with the new "
                "outputs, so move it away or name another folder"
            )
    return found


def _is_record(path: Path) -> bool:
    """Whether a file is the record of a registration, with or without blocks."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("format")).startswith("monai_locor ")


def check_no_inputs(outputs: Iterable[Path], inputs: Iterable[object]) -> None:
    """Check that no input would be removed.

    Args:
        outputs: from :func:`earlier_outputs`.
        inputs: inputs of the new run; those that are no paths are ignored.

    Raises:
        InputError: if an output is an input, or a folder with an input.
    """
    given = [stored_place(expanded(each)) for each in inputs if isinstance(each, (str, os.PathLike))]
    places = [Path(os.path.realpath(path)) for path in given]
    read = {place for path in places for place in (path, *path.parents)}
    for path in outputs:
        if Path(os.path.realpath(path)) in read:
            raise InputError(f"output file {path}: of an earlier run, is also an input; name another output folder")


def remove_outputs(outputs: Iterable[Path]) -> None:
    """Remove outputs of an earlier run, in this order.

    Args:
        outputs: from :func:`earlier_outputs`.
    """
    for path in outputs:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
