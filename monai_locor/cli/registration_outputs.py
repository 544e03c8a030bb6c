# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The output files of ``register``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.paths import FORWARD, INVERSE

if TYPE_CHECKING:
    import torch

    from ..registration import RegistrationConfig, RegistrationResult

__all__ = ["DEFAULT_OUTPUTS", "OUTPUTS", "Output", "chosen_outputs"]

logger = logging.getLogger(__name__)

Writer = Callable[..., Sequence[Path]]


@dataclass(frozen=True)
class Output:
    """One kind of output.

    Attributes:
        name: file name in the output folder, or the common prefix of several files.
        what: description for the help text.
        write: writes a result to a path (for the report also masks and label maps); returns the files.
        files: the files that may be written for a path.
        needs: optional packages that are required.
    """

    name: str
    what: str
    write: Writer
    files: Callable[[Path], Sequence[Path]] = lambda path: [path]
    needs: tuple[str, ...] = ()


def _image(values: Callable[[RegistrationResult], torch.Tensor], grid: str) -> Writer:
    """Write an image on the ``"fixed_grid"`` or ``"moving_grid"`` of the result."""

    def write(result: RegistrationResult, path: Path) -> list[Path]:
        from ..io.images import write_image

        write_image(path, values(result), getattr(result, grid))
        return [path]

    return write


def _field(name: str, grid: str, velocity: bool = False) -> Writer:
    """Write an attribute of the result as an ITK displacement or velocity field."""

    def write(result: RegistrationResult, path: Path) -> list[Path]:
        from ..io import write_displacement_field

        write_displacement_field(path, getattr(result, name), getattr(result, grid), velocity=velocity)
        return [path]

    return write


def _transform(format: str | None = None) -> Writer:
    """Write the whole transform in a format, by default that of the path's suffix."""

    def write(result: RegistrationResult, path: Path) -> list[Path]:
        from ..io.transforms import write_transform

        return write_transform(path, result.transform, format=format, fixed=result.fixed_grid, moving=result.moving_grid)

    return write


def _transform_files(format: str | None = None) -> Callable[[Path], Sequence[Path]]:
    """The files that :func:`_transform` writes."""

    def files(path: Path) -> list[Path]:
        from ..io.transforms import planned_files

        return planned_files(path, format)

    return files


def _missing(role: str) -> Writer:
    """Write the probability of missing tissue in the image of a role."""

    def write(result: RegistrationResult, path: Path) -> list[Path]:
        from ..io.images import write_image

        values = getattr(result, f"missing_{role}")
        if values is None:
            raise InputError(f"{path}: the result has no map of missing tissue; register with --missing map")
        write_image(path, values, getattr(result, f"{role}_grid"))
        return [path]

    return write


def _error(result: RegistrationResult, path: Path) -> list[Path]:
    from ..registration.error_files import write_error_map

    if result.error_mm is None:
        raise InputError(f"{path}: the result has no error map; use monai-locor check")
    return write_error_map(path, result.error_mm)


def _affine(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io import write_affine

    write_affine(path, result.affine)
    return [path]


def _determinant(result: RegistrationResult) -> torch.Tensor:
    from ..metrics import jacobian_determinant

    return jacobian_determinant(result.forward_mm, result.fixed_grid)


def _basis(result: RegistrationResult, path: Path) -> list[Path]:
    if result.basis is None and result.interrupted:
        logger.warning("%s is not written: the registration was interrupted before it was learned", path)
        return []
    return result.save_basis(path)


def _basis_files(path: Path) -> list[Path]:
    from ..io.weights import weights_paths

    return list(weights_paths(path))


def _thumbnail(result: RegistrationResult, path: Path) -> list[Path]:
    from ..report.html.thumbnail import write_thumbnail

    return [write_thumbnail(path, result)]


def _report(result: RegistrationResult, path: Path, **shown: Any) -> list[Path]:
    from ..report.html import write_report

    return [write_report(path, result, **shown)]


OUTPUTS: dict[str, Output] = {
    "warped": Output(
        "warped.nii.gz", "the moving image on the fixed grid", _image(lambda result: result.held("warped_moving"), "fixed_grid")
    ),
    "warped-fixed": Output(
        "warped_fixed.nii.gz",
        "the fixed image on the moving grid",
        _image(lambda result: result.held("warped_fixed"), "moving_grid"),
    ),
    "forward": Output(
        FORWARD, "whole transform, fixed to moving points, on the fixed grid (ITK field)", _field("forward_mm", "fixed_grid")
    ),
    "inverse": Output(INVERSE, "its inverse, on the moving grid", _field("inverse_mm", "moving_grid")),
    "affine": Output("affine.tfm", "the affine part alone (ITK)", _affine),
    "composite": Output("transform.h5", "both as an ITK composite", _transform(), _transform_files()),
    "ants": Output(
        "ants_",
        "0GenericAffine.mat, 1Warp and 1InverseWarp for antsApplyTransforms",
        _transform("ants"),
        _transform_files("ants"),
    ),
    "velocity": Output(
        "velocity.nii.gz",
        "stationary velocity, whose exponential comes before the affine (LPS mm)",
        _field("velocity_mm", "fixed_grid", velocity=True),
    ),
    "jacobian": Output("jacobian.nii.gz", "Jacobian determinant of the forward transform", _image(_determinant, "fixed_grid")),
    "error": Output(
        "error.nii.gz", "expected registration error of every voxel, lower and upper bound (3 channels, mm)", _error
    ),
    "missing-fixed": Output(
        "missing_fixed.nii.gz", "probability that the moving image lacks the tissue of a voxel", _missing("fixed")
    ),
    "missing-moving": Output("missing_moving.nii.gz", "likewise for the moving image, on its grid", _missing("moving")),
    "basis": Output("basis", "the learned basis, to start another pair from", _basis, _basis_files, ("safetensors",)),
    "thumbnail": Output(
        "thumbnail.jpg",
        "small picture: fixed and warped image with outlines of the fixed one",
        _thumbnail,
        needs=("matplotlib",),
    ),
    "report": Output("report.html", "HTML report with images and the verdict", _report, needs=("matplotlib",)),
}
DEFAULT_OUTPUTS = ("warped", "forward", "inverse", "affine", "error", "report")
MISSING_OUTPUTS = ("missing-fixed", "missing-moving")  # also by default, if missing tissue is looked for


def chosen_outputs(text: str | None, config: RegistrationConfig, several: bool = False) -> list[str]:
    """Names of the outputs to write, from ``a,b,c``, ``all`` or None (the default outputs).

    Args:
        text: value of the option.
        config: settings of the registration.
        several: whether a side has several images.

    Raises:
        InputError: for no or an unknown name, or an output that these settings or the installed packages do not allow.
    """
    if text in (None, "all"):
        wanted = [*(DEFAULT_OUTPUTS if text is None else OUTPUTS), *MISSING_OUTPUTS]
        skipped = MISSING_OUTPUTS if config.missing == "never" else ()
        wanted = [name for name in dict.fromkeys(wanted) if name not in skipped]
        problems = {name: _problem(name, config, several) for name in wanted}
        for name, problem in problems.items():
            if problem:
                logger.warning("%s is not written: it %s", OUTPUTS[name].name, problem)
        return [name for name in wanted if not problems[name]]
    names = list(dict.fromkeys(part.strip() for part in str(text).split(",") if part.strip()))
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown or not names:
        problem = f"unknown output {', '.join(unknown)}" if unknown else "names no output"
        raise InputError(f"--outputs {text or repr(text)}: {problem}; choose among {', '.join(OUTPUTS)}, or all")
    for name in names:
        problem = _problem(name, config, several)
        if problem:
            raise InputError(f"--outputs {name}: it {problem}")
    return names


def _problem(name: str, config: RegistrationConfig, several: bool) -> str:
    """The reason why an output is not available, and the remedy; empty if it is."""
    missing = " ".join(package for package in OUTPUTS[name].needs if find_spec(package) is None)
    if missing:
        return f"needs {missing}; pip install {missing}"
    if name == "basis" and (config.similarity != "locor" or config.basis != "learned"):
        return "needs similarity locor with basis learned; use those, or leave it out"
    if name == "basis" and several:
        return "needs one image per side, and there are several; leave it out"
    if name in MISSING_OUTPUTS and config.missing == "never":
        return "needs a search for missing tissue; add --missing map, or leave it out"
    if name == "velocity" and config.transform != "deformable":
        return f"needs a deformation, but transform is {config.transform}; use deformable, or leave it out"
    if name == "velocity" and config.composition != "single":
        return f"needs one velocity, but composition {config.composition} has one per stage; use single, or leave it out"
    return ""
