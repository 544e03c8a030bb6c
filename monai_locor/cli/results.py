# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What ``register`` writes, and what it says about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.paths import FORWARD, INVERSE
from ..report.summary import verdict_lines

if TYPE_CHECKING:
    from ..quality import Verdict
    from ..registration import RegistrationConfig, RegistrationResult

__all__ = [
    "DEFAULT",
    "OUTPUTS",
    "Output",
    "chosen_outputs",
    "dice_lines",
    "label_dice",
    "result_lines",
    "result_values",
    "verdict_lines",
    "warning_lines",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """One kind of output.

    Attributes:
        name: in the output folder; of several files, what they begin with.
        what: in words.
        write: result and path, for the report also masks and label maps, to the files that were written.
        files: what may be written to a path.
        needs: packages beyond the package's own.
    """

    name: str
    what: str
    write: Callable[..., Sequence[Path]]
    files: Callable[[Path], Sequence[Path]] = lambda path: [path]
    needs: tuple[str, ...] = ()


def _warped(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io.images import write_image

    write_image(path, result.held("warped_moving"), result.fixed_grid)
    return [path]


def _warped_fixed(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io.images import write_image

    write_image(path, result.held("warped_fixed"), result.moving_grid)
    return [path]


def _forward(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io import write_displacement_field

    write_displacement_field(path, result.forward_mm, result.fixed_grid)
    return [path]


def _inverse(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io import write_displacement_field

    write_displacement_field(path, result.inverse_mm, result.moving_grid)
    return [path]


def _affine(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io import write_affine

    write_affine(path, result.affine)
    return [path]


def _composite(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io.transforms import write_transform

    return write_transform(path, result.transform, fixed=result.fixed_grid, moving=result.moving_grid)


def _composite_files(path: Path) -> list[Path]:
    from ..io.transforms import planned_files

    return planned_files(path)


def _ants(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io.transforms import write_transform

    return write_transform(path, result.transform, format="ants", fixed=result.fixed_grid, moving=result.moving_grid)


def _ants_files(path: Path) -> list[Path]:
    from ..io.transforms import planned_files

    return planned_files(path, "ants")


def _velocity(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io import write_displacement_field

    write_displacement_field(path, result.velocity_mm, result.fixed_grid, velocity=True)
    return [path]


def _jacobian(result: RegistrationResult, path: Path) -> list[Path]:
    from ..io.images import write_image
    from ..metrics import jacobian_determinant

    write_image(path, jacobian_determinant(result.forward_mm, result.fixed_grid), result.fixed_grid)
    return [path]


def _basis(result: RegistrationResult, path: Path) -> list[Path]:
    if result.basis is None and result.interrupted:
        logger.warning("%s is left out: the registration was interrupted before there was one", path)
        return []
    return result.save_basis(path)


def _basis_files(path: Path) -> list[Path]:
    from ..io.weights import weights_paths

    return list(weights_paths(path))


def _report(result: RegistrationResult, path: Path, **shown: Any) -> list[Path]:
    from ..report.html import write_report

    return [write_report(path, result, **shown)]


OUTPUTS: dict[str, Output] = {
    "warped": Output("warped.nii.gz", "the moving image on the fixed grid", _warped),
    "warped-fixed": Output("warped_fixed.nii.gz", "the fixed image on the moving grid", _warped_fixed),
    "forward": Output(FORWARD, "whole transform, fixed to moving points, on the fixed grid (ITK field)", _forward),
    "inverse": Output(INVERSE, "its inverse, on the moving grid", _inverse),
    "affine": Output("affine.tfm", "the affine part alone (ITK)", _affine),
    "composite": Output("transform.h5", "both as an ITK composite", _composite, _composite_files),
    "ants": Output("ants_", "0GenericAffine.mat, 1Warp and 1InverseWarp for antsApplyTransforms", _ants, _ants_files),
    "velocity": Output("velocity.nii.gz", "stationary velocity, whose exponential comes before the affine (LPS mm)", _velocity),
    "jacobian": Output("jacobian.nii.gz", "Jacobian determinant of the forward transform", _jacobian),
    "basis": Output("basis", "the learned basis, to start another pair from", _basis, _basis_files, ("safetensors",)),
    "report": Output("report.html", "a page to look at, with the verdict", _report, needs=("matplotlib",)),
}
DEFAULT = ("warped", "forward", "inverse", "affine", "report")


def chosen_outputs(text: str | None, config: RegistrationConfig, several: bool = False) -> list[str]:
    """Names of outputs from ``a,b,c``, ``all`` or nothing, which is the usual ones.

    Args:
        text: of the option.
        config: settings of the registration.
        several: whether a side has several images.

    Raises:
        InputError: for an unknown name, or one that cannot be with these settings or without a package.
    """
    if text in (None, "all"):
        wanted = list(DEFAULT if text is None else OUTPUTS)
        problems = {name: _problem(name, config, several) for name in wanted}
        for name, problem in problems.items():
            if problem:
                logger.warning("%s is left out: it %s", OUTPUTS[name].name, problem)
        return [name for name in wanted if not problems[name]]
    names = list(dict.fromkeys(part.strip() for part in str(text).split(",") if part.strip()))
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown:
        raise InputError(f"--outputs {text}: there is no {', '.join(unknown)}; choose among {', '.join(OUTPUTS)}, or all")
    for name in names:
        problem = _problem(name, config, several)
        if problem:
            raise InputError(f"--outputs {name}: it {problem}")
    return names


def _problem(name: str, config: RegistrationConfig, several: bool) -> str:
    """Why an output cannot be, and the remedy; empty if it can."""
    missing = " ".join(package for package in OUTPUTS[name].needs if find_spec(package) is None)
    if missing:
        return f"needs {missing}; pip install {missing}"
    if name == "basis" and (config.similarity != "locor" or config.basis != "learned"):
        return "is what similarity locor with basis learned learns; use those, or leave it out"
    if name == "basis" and several:
        return "is of one image a side, and there are several; leave it out"
    if name == "velocity" and config.transform != "deformable":
        return f"is of a deformation, which transform {config.transform} has not; use deformable, or leave it out"
    if name == "velocity" and config.composition != "single":
        return f"is one for all stages, and composition {config.composition} has one for each; use single, or leave it out"
    return ""


def result_values(result: RegistrationResult) -> dict[str, Any]:
    """What the JSON answer says of a result."""
    import torch

    lengths = torch.linalg.vector_norm(result.forward_mm.double(), dim=0)
    return {
        "seconds": round(result.seconds, 3),
        "device": result.device,
        "interrupted": result.interrupted,
        "warnings": list(result.warnings),
        "verdict": None if result.verdict is None else result.verdict.to_dict(),
        "affine": result.affine.tolist(),
        "displacement_mm": {"mean": float(lengths.mean()), "max": float(lengths.max())},
        "jacobian": result.jacobian,
    }


def result_lines(values: dict[str, Any], verdict: Verdict | None) -> Iterator[str]:
    """The same for people."""
    from .jacobian import folding_line

    moved = values["displacement_mm"]
    if values["interrupted"]:
        yield "INTERRUPTED: what follows and what is written is the best result until then"
    yield f"{values['seconds']:.1f} s on {values['device']}"
    yield f"displacement {moved['mean']:.3g} mm in the mean, at most {moved['max']:.3g} mm"
    yield folding_line(values["jacobian"])
    if verdict is not None:
        yield from verdict_lines(verdict)


def label_dice(result: RegistrationResult, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Dice of the label maps of both images that belong together, where the registration started and at its end.

    Args:
        labels: ``fixed_labels`` and ``moving_labels``, see :func:`monai_locor.report.write_report`.
    """
    if not all(labels.values()):
        return []
    from ..report.labels import label_pairs

    found = []
    for pair in label_pairs(result, **{name.removesuffix("_labels"): maps for name, maps in labels.items()}):
        if pair.after:
            both = zip(("before", "after"), (pair.before, pair.after), pair.means, strict=True)
            found.append({"name": pair.name, **{when: {"labels": each, "mean": mean} for when, each, mean in both}})
            if pair.fell:
                logger.warning(
                    "%s overlap less than where the registration started: look at the result before you use it", pair.name
                )
    return found


def dice_lines(dice: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same for people."""
    for pair in dice:
        yield f"mean Dice {pair['before']['mean']:.3f} before, {pair['after']['mean']:.3f} after: {pair['name']}"


def warning_lines(warnings: Sequence[str], doubts: Sequence[str]) -> Iterator[str]:
    """What was warned of in a run that was stored, without what its verdict tells."""
    yield from (f"  warned: {text}" for text in warnings if text not in doubts)
