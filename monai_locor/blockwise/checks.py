# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks before a blockwise registration. Does not import torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..io.paths import STATE_FOLDER, ZARR_FORWARD, ZARR_INVERSE

if TYPE_CHECKING:
    from ..registration import RegistrationConfig

__all__ = ["FIELDS", "WARPED", "check_folder", "check_settings"]

FIELDS = {"forward": ZARR_FORWARD, "inverse": ZARR_INVERSE}
WARPED = "warped.ome.zarr"
OUTPUTS = (*FIELDS.values(), WARPED, "affine.tfm", "run.json")
NEEDED_SETTINGS = {"transform": "deformable", "composition": "single", "missing": "never"}


def check_settings(config: RegistrationConfig) -> None:
    """Check that settings can be used in blocks.

    Raises:
        InputError: if not; the message names the setting.
    """
    for name, needed in NEEDED_SETTINGS.items():
        if getattr(config, name) != needed:
            raise InputError(f"{name} {getattr(config, name)!r}: in blocks only {needed!r} is possible; change the setting")
    last = config.stages[-1]
    if last.spacing is None or last.iterations == 0:
        raise InputError("stages: the last one has no deformation, which the blocks continue; add a stage with a spacing")


def check_folder(folder: Path, resume: bool = False, force: bool = False) -> None:
    """Check that the output folder has no finished or foreign results.

    Args:
        folder: output folder.
        resume: continue an interrupted run; nothing is then deleted.
        force: delete the results of another run.

    Raises:
        InputError: if it has.
    """
    interrupted = (folder / STATE_FOLDER).is_dir()
    if interrupted and resume:
        return
    if interrupted and not force:
        raise InputError(
            f"output folder {folder}: has an interrupted run; add --resume to continue it, or --force to delete it"
        )
    for path in (folder / name for name in (STATE_FOLDER, *OUTPUTS)):
        if path.exists() and not force:
            raise InputError(f"output folder {folder}: already has {path.name}; name another, or add --force to overwrite it")
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
