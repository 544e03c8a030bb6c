# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Checks before a blockwise registration. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..io.earlier_outputs import check_no_inputs, earlier_outputs, remove_outputs
from ..io.paths import STATE_FOLDER, ZARR_FORWARD, ZARR_INVERSE

if TYPE_CHECKING:
    from ..registration import RegistrationConfig

__all__ = ["FIELDS", "WARPED", "check_folder", "check_settings", "results_in"]

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


def check_folder(folder: Path, resume: bool = False, force: bool = False, inputs: Iterable[object] = ()) -> None:
    """Check that the output folder has no finished or foreign results.

    Args:
        folder: output folder.
        resume: continue an interrupted run; nothing is then deleted.
        force: delete the results of another run, also those of a registration without blocks.
        inputs: inputs of the new run; the paths among them are not deleted.

    Raises:
        InputError: if it has, or a result to delete is an input.
    """
    interrupted = (folder / STATE_FOLDER).is_dir()
    if interrupted and resume:
        return
    if interrupted and not force:
        raise InputError(
            f"output folder {folder}: has an interrupted run; add --resume to continue it, or --force to delete it"
        )
    found = results_in(folder)
    if found and not force:
        raise InputError(f"output folder {folder}: already has {found[0].name}; name another, or add --force to overwrite it")
    check_no_inputs(found, inputs)
    remove_outputs([*found, *([folder / STATE_FOLDER] if interrupted else [])])


def results_in(folder: Path) -> list[Path]:
    """The results of a registration that a new one in blocks would replace."""
    return earlier_outputs(folder, (folder / name for name in OUTPUTS))
