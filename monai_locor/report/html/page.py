# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One page that shows a registration: it opens offline, loads nothing, and has the verdict at its top."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from os import PathLike
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...errors import InputError
from ...io import ImageSource, atomic_path, check_output_dir
from ...quality import Verdict
from ...registration.judging import judge
from ..labels import label_pairs
from .assets import asset
from .explanations import CHECKS
from .labels import labels_section
from .tables import run_tables

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult
    from ..labels import Sources

__all__ = ["write_report"]

SIGNS = {"PASS": "✓", "WARN": "!", "FAIL": "✕", "SKIP": "–"}
HEADLINES = {"PASS": "Nothing wrong was found.", "WARN": "Look at it before you use it: ", "FAIL": "Do not use it: "}


def write_report(
    path: str | PathLike[str],
    result: RegistrationResult,
    fixed: ImageSource | None = None,
    moving: ImageSource | None = None,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    fixed_labels: Sources = (),
    moving_labels: Sources = (),
    title: str | None = None,
    residuals: bool = True,
) -> Path:
    """Write a report as one self-contained HTML file.

    The verdict; the warped image with contours of the fixed one; all that was checked, and the warnings of the run; a viewer
    of all slices of the fixed, moving and warped image with blend, curtain, checkerboard, zoom and intensity window, contours,
    outlines of masks and labels; Dice of the labels; deformed grid; Jacobian map and histogram; local residual before and
    after; learned basis functions; loss curves; inputs, settings, versions. What the numbers mean stands beside them.

    Args:
        path: of the file; missing folders are made, and it appears only when it is complete.
        result: of the registration.
        fixed, moving: the images, of several channels the first is shown; by default those that the result holds.
        fixed_mask, moving_mask: as they were given to :func:`monai_locor.register`.
        fixed_labels, moving_labels: label maps of either image, one or a list. Maps of the same file name are compared, the
            others in their order if there are as many of both.
        title: by default the names of the input files.
        residuals: whether to map the local residual, the slowest part.

    Returns:
        ``path``.

    Raises:
        ImportError: when matplotlib is not installed, naming the extra that brings it.
        InputError: when the images are missing or not those of the result, or the file cannot be written.
    """
    _check_matplotlib()
    from ...registration.channels import first_image
    from .sections import basis_section, loss_curves, residual_section, transform_section
    from .viewer import Pictures

    target = Path(path).expanduser()
    check_output_dir(target.parent)
    fixed = result.fixed_image if fixed is None else fixed
    moving = result.moving_image if moving is None else moving
    if fixed is None or moving is None:
        raise InputError("the result does not hold its images: give fixed and moving to the report, too.")
    fixed, moving = first_image(fixed), first_image(moving)
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    verdict = result.verdict or judge(result, fixed, moving, fixed_mask=fixed_mask, moving_mask=moving_mask)
    labels = label_pairs(result, fixed_labels, moving_labels)
    pictures = Pictures.of(result, fixed, moving, masks, labels, residuals)
    values = {
        **{name: escape(text) for name, text in _words(result, verdict, title).items()},
        "reasons": "\n".join(_reason(r) for r in verdict.reasons),
        "warnings": _warnings(result),
        "opening": pictures.opening(),
        "viewer": pictures.viewer(),
        "labels": labels_section(labels),
        "transform": transform_section(pictures, verdict),
        "residual": residual_section(pictures),
        "basis": basis_section(result),
        "curves": loss_curves(result),
        "tables": run_tables(result),
        "style": asset("report.css"),
        "script": asset("report.js"),
    }
    page = Template(asset("report.html")).substitute(values)
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("a report needs matplotlib: pip install 'monai-locor[plot]'") from error


def _words(result: RegistrationResult, verdict: Verdict, title: str | None) -> dict[str, str]:
    told = "; ".join(r.text for r in verdict.reasons if r.status == verdict.status and verdict.status != "PASS")
    return {
        "title": title or _title(result.inputs),
        "facts": _facts(result),
        "status": verdict.status,
        "level": verdict.status.lower(),
        "sign": SIGNS[verdict.status],
        "headline": HEADLINES[verdict.status] + (told + "." if told else ""),
        "version": __version__,
    }


def _title(inputs: Mapping[str, str]) -> str:
    names = {role: Path(inputs[role]).name if role in inputs else f"{role} image" for role in ("moving", "fixed")}
    return f"{names['moving']} registered to {names['fixed']}"


def _facts(result: RegistrationResult) -> str:
    grids: Any = (("fixed", result.fixed_grid), ("moving", result.moving_grid))
    sizes = [
        f"{role} {'×'.join(map(str, grid.shape))} voxels of {'×'.join(f'{s:.3g}' for s in grid.spacing)} mm"
        for role, grid in grids
    ]
    for role in ("fixed", "moving"):
        channels = len((result.arguments.get(role) or {}).get("list", ()))
        if channels > 1:
            sizes.append(f"the first of {channels} {role} images is shown")
    return " · ".join([*sizes, f"{result.seconds:.0f} s on {result.device}", f"seed {result.seed}", *result.remarks])


def _reason(reason: Any) -> str:
    advice = f'<span class="advice">→ {escape(reason.advice)}</span>' if reason.advice else ""
    meaning = f'<span class="meaning">{escape(CHECKS[reason.check])}</span>' if reason.check in CHECKS else ""
    return (
        f'<li class="{escape(reason.status)}"><span class="mark" title="{escape(reason.status)}">{SIGNS[reason.status]}</span>'
        f'<span class="name">{escape(reason.check)}</span><span class="text">{escape(reason.text)}</span>{advice}{meaning}</li>'
    )


def _warnings(result: RegistrationResult) -> str:
    """What was warned of during the run."""
    if not result.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in result.warnings)
    return f'<h3>Warnings of the run</h3>\n<ul class="warnings">{items}</ul>'
