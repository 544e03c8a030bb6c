# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A registration read back from its output folder, with whatever outputs are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ..errors import InputError
from ..geometry import FieldStep, Grid, SpatialTransform, warped
from ..geometry.transform import same_grid
from ..io import ImageSource, read_image, read_transform
from ..io.transforms.output_folder import has_deformation
from ..quality import Verdict
from .basis_pair import BasisPair
from .channels import first_image
from .config import RegistrationConfig
from .manifest import RunManifest
from .result import RegistrationResult

__all__ = ["load_result"]

logger = logging.getLogger(__name__)

_WARPED = {"moving": "warped.nii.gz", "fixed": "warped_fixed.nii.gz"}


def load_result(
    folder: str | PathLike[str],
    fixed: ImageSource | None = None,
    moving: ImageSource | None = None,
    need_images: bool = False,
) -> RegistrationResult:
    """See :meth:`monai_locor.RegistrationResult.load`.

    Args:
        need_images: whether to refuse a result whose images are not there.
    """
    manifest = RunManifest.load(folder)
    root, content = manifest.path.parent, manifest.content
    images = {role: _image(manifest, role, given, need_images) for role, given in (("fixed", fixed), ("moving", moving))}
    transform = _transform(root, content, images)
    grids = {role: _grid(role, content, images[role], transform) for role in images}
    for role, image in images.items():
        if image is not None and Grid.of(image).shape != grids[role].shape:
            shape = Grid.of(image).shape
            raise InputError(f"{role} image: has shape {shape}, that of the result in {root} {grids[role].shape}; give that.")
    forward = transform.displacement(grids["fixed"])
    inverse = transform.inverse(grids["moving"]).displacement(grids["moving"])
    return RegistrationResult(
        forward_mm=forward,
        inverse_mm=inverse,
        warped_moving=_warped(root, "moving", images["moving"], grids["moving"], forward, grids["fixed"]),
        warped_fixed=_warped(root, "fixed", images["fixed"], grids["fixed"], inverse, grids["moving"]),
        fixed_grid=grids["fixed"],
        moving_grid=grids["moving"],
        fixed_image=images["fixed"],
        moving_image=images["moving"],
        basis=_basis(root / "basis.safetensors"),
        **_told(content),
    )


def _told(content: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of the run."""
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
        "warnings": tuple(content.get("warnings", ())),
        "doubts": tuple(content.get("doubts", ())),
    }


def _image(manifest: RunManifest, role: str, given: ImageSource | None, needed: bool) -> MetaTensor | None:
    """An image that is given, or is still what it was."""
    try:
        source = manifest.input(role) if given is None else given
    except InputError as error:
        if needed:
            raise
        logger.warning("the result is loaded without the %s image: %s", role, error)
        return None
    return read_image(first_image(source), role)[0]


def _transform(root: Path, content: Mapping[str, Any], images: Mapping[str, MetaTensor | None]) -> SpatialTransform:
    """The whole transform that a folder holds, with the inverse where it is there."""
    deformable = RegistrationConfig.of(content["settings"]).transform == "deformable"
    if deformable and not has_deformation(root):
        raise InputError(
            f"{root}: holds no transform beside run.json, or its affine part alone; register again with one of the outputs "
            "forward, composite or ants."
        )
    given = {role: None if image is None else Grid.of(image) for role, image in images.items()}
    fixed, moving = (_told_grid(role, content) or given[role] for role in ("fixed", "moving"))
    return read_transform(root, fixed=fixed, moving=moving)


def _told_grid(role: str, content: Mapping[str, Any]) -> Grid | None:
    """Where the fixed or moving image lies, as run.json says."""
    entry = content.get(f"{role}_grid")
    return None if entry is None else Grid.placed(entry["shape"], np.array(entry["affine"]))


def _grid(role: str, content: Mapping[str, Any], image: MetaTensor | None, transform: SpatialTransform) -> Grid:
    """Where the fixed or moving image lies: as run.json says, or a field that lies on it, or the image."""
    steps = transform.steps if role == "fixed" else transform.inverse_steps or ()
    field = steps[0].grid if steps and isinstance(steps[0], FieldStep) else None
    told = _told_grid(role, content)
    if told is not None and (field is None or same_grid(told, field)):  # with more digits than a header
        return told
    if field is not None:
        return field
    if image is None:
        raise InputError(f"the grid of the {role} image is not known; give that image as {role}=...")
    return Grid.of(image)


def _warped(
    root: Path, role: str, image: MetaTensor | None, grid: Grid, displacement_mm: torch.Tensor, target: Grid
) -> MetaTensor | None:
    """The image seen through the transform, made of it or read."""
    if image is not None:
        return warped(image, grid, displacement_mm, target)
    path = root / _WARPED[role]
    if not path.is_file():
        return None
    found = read_image(path, f"warped {role}")[0]
    return found if Grid.of(found).shape == target.shape else None


def _basis(path: Path) -> BasisPair | None:
    return BasisPair.load(path) if path.is_file() else None
