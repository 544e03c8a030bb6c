# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Reading of a registration result from its output folder, from any of its outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import FieldStep, Grid, SpatialTransform, same_grid, warped
from ..io import ImageSource, read_image, read_transform
from ..io.image_source import load_source
from ..io.paths import expanded
from ..io.transforms.output_folder import has_deformation
from ..quality import Verdict
from ..roles import ROLES
from .basis_pair import BasisPair
from .channels import first_image
from .config import RegistrationConfig
from .error_files import ERROR_FILE, read_error_map
from .exports import MISSING_FILES
from .manifest import RunManifest, well_formed
from .recorded import recorded_image

__all__ = ["stored_fields"]

logger = logging.getLogger(__name__)

_WARPED = {"moving": "warped.nii.gz", "fixed": "warped_fixed.nii.gz"}


def stored_fields(
    folder: str | PathLike[str], fixed: ImageSource | None, moving: ImageSource | None, need_images: bool, known: bool = False
) -> dict[str, Any]:
    """Read the fields of a :class:`.result.RegistrationResult` from its folder.

    Args:
        folder, fixed, moving, need_images: as for its ``load``.
        known: the given images are those of :func:`.recorded.recorded_image`; they are not compared again.
    """
    manifest = RunManifest.load(folder)
    root, content = manifest.path.parent, manifest.content
    with well_formed(manifest.path):
        fields = _run_fields(content)
        recorded = {role: _grid_of_run(role, content) for role in ROLES}
    config = fields["config"]
    given = {"fixed": fixed, "moving": moving}
    if not known:
        given = {role: None if image is None else _given(manifest, role, image) for role, image in given.items()}
    images = {role: _image(manifest, role, config.max_pixels, given[role], need_images) for role in ROLES}
    transform = _transform(root, config, recorded, images)
    grids = {role: _grid(role, recorded[role], images[role], transform) for role in images}
    for role, image in images.items():
        if image is not None:
            _check_grid(root, role, Grid.of(image), grids[role], recorded[role] or grids[role])
    forward = transform.displacement(grids["fixed"])
    inverse = transform.inverse(grids["moving"]).displacement(grids["moving"])
    return {
        "forward_mm": forward,
        "inverse_mm": inverse,
        "warped_moving": _warped(root, "moving", images["moving"], grids["moving"], forward, grids["fixed"]),
        "warped_fixed": _warped(root, "fixed", images["fixed"], grids["fixed"], inverse, grids["moving"]),
        "fixed_grid": grids["fixed"],
        "moving_grid": grids["moving"],
        "fixed_image": images["fixed"],
        "moving_image": images["moving"],
        "basis": _basis(root / "basis.safetensors"),
        **{f"missing_{role}": _output(root / file, f"missing {role} map") for role, file in MISSING_FILES.items()},
        "error_mm": read_error_map(root / ERROR_FILE, grids["fixed"]) if (root / ERROR_FILE).is_file() else None,
        **fields,
    }


def _run_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields stored in run.json."""
    initial = content.get("initial")
    return {
        "affine": np.array(content["affine"]),
        "history": content["stages"],
        "jacobian": content["jacobian"],
        "config": RegistrationConfig.of(content["settings"]),
        **{name: content[name] for name in ("seed", "seconds", "device", "inputs", "arguments", "timings", "interrupted")},
        "verdict": None if content["verdict"] is None else Verdict.of(content["verdict"]),
        "initial": None if initial is None else np.array(initial),
        "intersubject": content.get("intersubject", False),
        "unexplained": content.get("unexplained"),
        "missing_ml": content.get("missing_ml"),
        **{name: content.get(name) for name in ("landmarks_mm", "label_dice", "surface_mm")},
        "warnings": tuple(content.get("warnings", ())),
        "doubts": tuple(content.get("doubts", ())),
    }


def _image(manifest: RunManifest, role: str, max_pixels: int, given: ImageSource | None, needed: bool) -> MetaTensor | None:
    """Read the given image, or the input file of the run if it has not changed."""
    try:
        source = manifest.input(role) if given is None else given
    except InputError as error:
        if needed:
            raise
        logger.warning("the result is loaded without the %s image: %s", role, error)
        return None
    return read_image(first_image(source), role, max_pixels=max_pixels)[0]


def _given(manifest: RunManifest, role: str, given: ImageSource) -> ImageSource:
    """Return a given image, of a registered file the recorded channel; warn of another file, as far as ``run.json`` knows."""
    given = first_image(given)
    with well_formed(manifest.path):
        path = manifest.first_entry(role).get("path")
    if path is None or not isinstance(given, (str, PathLike)):
        return given
    expanded(given)  # raises for a path that no file can have
    with suppress(FileNotFoundError):  # reading it tells
        found = recorded_image(manifest, role, given)
        if found is not None:
            return found
        text = "%s image %s: has another content than the registered file %s; give that, unless they show the same"
        logger.warning(text, role, given, path)
    return given


def _check_grid(root: Path, role: str, own: Grid, grid: Grid, registered: Grid) -> None:
    """Check that an image has the shape of the result, and the place of the registered image.

    Raises:
        InputError: if not.
    """
    if own.shape != grid.shape:
        raise InputError(f"{role} image: has shape {own.shape}, that of the result in {root} {grid.shape}; give that.")
    if not same_grid(own, registered):
        raise InputError(
            f"{role} image: has the shape of that of the result in {root}, but lies elsewhere: its affine is "
            f"{own.affine.round(3).tolist()} instead of {registered.affine.round(3).tolist()}; give the registered image."
        )


def _transform(
    root: Path, config: RegistrationConfig, recorded: Mapping[str, Grid | None], images: Mapping[str, MetaTensor | None]
) -> SpatialTransform:
    """Read the complete transform, with its inverse if available."""
    if config.transform == "deformable" and not has_deformation(root):
        raise InputError(
            f"{root}: holds no transform beside run.json, or only its affine part; register again with one of the outputs "
            "forward, composite or ants."
        )
    given = {role: None if image is None else Grid.of(image) for role, image in images.items()}
    fixed, moving = (recorded[role] or given[role] for role in ROLES)
    return read_transform(root, fixed=fixed, moving=moving)


def _grid_of_run(role: str, content: Mapping[str, Any]) -> Grid | None:
    """Return the grid of the fixed or moving image in run.json, or None."""
    entry = content.get(f"{role}_grid")
    return None if entry is None else Grid.placed(entry["shape"], np.array(entry["affine"]))


def _grid(role: str, recorded: Grid | None, image: MetaTensor | None, transform: SpatialTransform) -> Grid:
    """Return the grid of the fixed or moving image: from run.json, from a field on it, or from the image."""
    steps = transform.steps if role == "fixed" else transform.inverse_steps or ()
    field = steps[0].grid if steps and isinstance(steps[0], FieldStep) else None
    if recorded is not None and (field is None or same_grid(recorded, field)):  # more digits than in a NIfTI header
        return recorded
    if field is not None:
        return field
    if image is None:
        raise InputError(f"the grid of the {role} image is not known; give that image as {role}=...")
    return Grid.of(image)


def _warped(
    root: Path, role: str, image: MetaTensor | None, grid: Grid, displacement_mm: torch.Tensor, target: Grid
) -> MetaTensor | None:
    """Return the warped image, computed from the image or read from the folder."""
    if image is not None:
        return warped(image, grid, displacement_mm, target)
    found = _output(root / _WARPED[role], f"warped {role} image")
    return found if found is not None and Grid.of(found).shape == target.shape else None


def _output(path: Path, what: str) -> MetaTensor | None:
    """Read an output image if it is there; unlike an image to register, it may be constant."""
    return load_source(path, what)[1] if path.is_file() else None


def _basis(path: Path) -> BasisPair | None:
    return BasisPair.load(path) if path.is_file() else None
