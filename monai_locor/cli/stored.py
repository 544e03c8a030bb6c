# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""A registration read back from its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .transforms import FORWARD, INVERSE

if TYPE_CHECKING:
    from ..registration import RegistrationResult

__all__ = ["load_result"]

ASIDE = ("fixed_mask", "moving_mask", "initial", "initial_velocity", "initial_basis", "predict", "similarity")


def load_result(folder: Path, fixed: Path | None = None, moving: Path | None = None) -> RegistrationResult:
    """The result that ``register`` wrote, with its images, which are read again.

    Args:
        folder: with run.json and both fields.
        fixed: the image, if it is not where it was.
        moving: likewise.

    Raises:
        InputError: when something is missing or an image has changed.
    """
    import numpy as np

    from ..geometry import Grid, warped
    from ..io import read_displacement_field, read_image
    from ..registration import RegistrationConfig, RegistrationResult
    from ..report.verdict import Verdict

    content, sources = _manifest(folder, {"fixed": fixed, "moving": moving})
    for name in (FORWARD, INVERSE):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; register again with the outputs forward and inverse")
    (forward, fixed_grid), (inverse, moving_grid) = (read_displacement_field(folder / name) for name in (FORWARD, INVERSE))
    images = {role: read_image(source, role)[0] for role, source in sources.items()}
    for role, grid in (("fixed", fixed_grid), ("moving", moving_grid)):
        if Grid.of(images[role]).shape != grid.shape:
            raise InputError(
                f"{role} image {sources[role]}: has shape {Grid.of(images[role]).shape}, the field {grid.shape}; give it"
            )
    initial = content.get("initial")
    return RegistrationResult(
        affine=np.array(content["affine"]),
        forward_mm=forward,
        inverse_mm=inverse,
        warped_moving=warped(images["moving"], moving_grid, forward, fixed_grid),
        warped_fixed=warped(images["fixed"], fixed_grid, inverse, moving_grid),
        fixed_grid=fixed_grid,
        moving_grid=moving_grid,
        history=content["stages"],
        jacobian=content["jacobian"],
        config=RegistrationConfig.of(content["settings"]),
        seed=content["seed"],
        seconds=content["seconds"],
        device=content["device"],
        inputs=content["inputs"],
        basis=_basis(folder / "basis.safetensors"),
        verdict=None if content["verdict"] is None else Verdict.of(content["verdict"]),
        initial=None if initial is None else np.array(initial),
        fixed_image=images["fixed"],
        moving_image=images["moving"],
        arguments=content["arguments"],
        timings=content["timings"],
        interrupted=content["interrupted"],
        intersubject=content.get("intersubject", False),
        unexplained=content.get("unexplained"),
        warnings=tuple(content.get("warnings", ())),
        doubts=tuple(content.get("doubts", ())),
    )


def _manifest(folder: Path, given: dict[str, Path | None]) -> tuple[Any, dict[str, Any]]:
    """What run.json says, and where the images are, which have not changed."""
    from ..registration.manifest import RunManifest

    manifest = RunManifest.load(folder)
    changes = {role: path for role, path in given.items() if path is not None}
    arguments = manifest.arguments(**dict.fromkeys(ASIDE), **changes)
    return manifest.content, {role: arguments[role] for role in given}


def _basis(path: Path) -> Any:
    from ..networks.learned_bases import LearnedBases

    return LearnedBases.load(path) if path.is_file() else None
