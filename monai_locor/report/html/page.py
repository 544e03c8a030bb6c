# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The report of a registration as one HTML page that works offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape
from os import PathLike
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...errors import InputError
from ...io import ImageSource, atomic_path, check_output_dir
from ...quality import Reason, Verdict
from ...registration.channels import first_image
from ...registration.judging import judge
from ...roles import ROLES
from ..labels import label_overlaps
from .assets import asset, script, style
from .explanations import CHECKS
from .guides import guides_section
from .labels import labels_section
from .report_images import ReportImages
from .sections import basis_section, missing_section, optimization_section, residual_section, transform_section
from .stills import stills
from .tables import run_tables
from .viewer import viewer

if TYPE_CHECKING:
    from ...registration.result import RegistrationResult
    from ..labels import LabelSources

__all__ = ["write_report"]

STATUS_SIGNS = {"PASS": "✓", "WARN": "!", "FAIL": "✕", "SKIP": "–"}
STATUS_HEADLINES = {"PASS": "No problems found.", "WARN": "Check the result before use.", "FAIL": "Do not use the result."}
MAX_PRINTED_WARNINGS = 6  # as in the style sheet
MAX_PRINTED_ADVICE = 6  # reasons; of more, the advice is not printed
PARTS = {
    "images": "images",
    "checks": "checks",
    "labels-card": "label maps",
    "guides": "landmarks and labels",
    "transform": "transform",
    "residual": "local residual",
    "missing": "missing tissue",
    "basis": "basis functions",
    "optimization": "optimization",
    "run": "run",
}


def write_report(
    path: str | PathLike[str],
    result: RegistrationResult,
    fixed: ImageSource | None = None,
    moving: ImageSource | None = None,
    *,
    fixed_mask: ImageSource | None = None,
    moving_mask: ImageSource | None = None,
    fixed_labels: LabelSources = (),
    moving_labels: LabelSources = (),
    title: str | None = None,
    residuals: bool = True,
) -> Path:
    """Write a report as one self-contained HTML file.

    The page contains the verdict with its reasons and the estimated error; a viewer of all slices with the error over the
    fixed image, and of the fixed, moving and warped image with blend, curtain, checkerboard, side by side, flicker, zoom and
    intensity window, contours, outlines of masks and labels; the most doubtful places; all checks and the warnings of the run;
    Dice of the labels; landmarks, labels and surfaces that drove; deformed grid; Jacobian map and histogram; local residual
    before and after; missing tissue; learned basis functions; loss curves; inputs, settings and versions. All numbers are
    explained. It is operated by mouse, touch or keyboard, and prints on two pages.

    Args:
        path: output file; missing folders are created, and the file appears only when it is complete.
        result: registration result.
        fixed, moving: images; of several channels, the first is shown; by default those of the result.
        fixed_mask, moving_mask: as given to :func:`monai_locor.register`.
        fixed_labels, moving_labels: label maps of the images, one or a list. Maps with the same file name are compared; the
            others are compared in their order if there are as many of both images.
        title: by default the names of the input files.
        residuals: whether to map the local residual, the slowest part.

    Returns:
        ``path``.

    Raises:
        ImportError: if matplotlib is not installed.
        InputError: if the images are missing or do not belong to the result, or the file cannot be written.
    """
    _check_matplotlib()

    target = Path(path).expanduser()
    check_output_dir(target.parent)
    fixed = result.fixed_image if fixed is None else fixed
    moving = result.moving_image if moving is None else moving
    if fixed is None or moving is None:
        raise InputError("the result does not hold its images; pass fixed and moving to the report.")
    fixed, moving = first_image(fixed), first_image(moving)
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    verdict = result.verdict or judge(result, fixed, moving, fixed_mask=fixed_mask, moving_mask=moving_mask)
    labels = label_overlaps(result, fixed_labels, moving_labels)
    images = ReportImages.of(result, fixed, moving, masks, labels, residuals)
    texts = {name: escape(text) for name, text in _verdict_texts(result, verdict, title).items()}
    with atomic_path(target) as temporary:
        temporary.write_text(_page(images, verdict, texts), encoding="utf-8", errors="backslashreplace")
    return target


def _page(images: ReportImages, verdict: Verdict, texts: Mapping[str, str]) -> str:
    """The page.

    Args:
        images: images and result.
        verdict: on the result.
        texts: see :func:`_verdict_texts`, escaped.
    """
    result = images.result
    values = {
        **texts,
        "reasons": "\n".join(_reason(r) for r in verdict.reasons),
        "warnings": _warnings(result),
        "error": "" if images.error is None else f'<p class="estimate">{images.error.summary()}</p>',
        "problems": _problems(verdict),
        "stills": stills(images),
        "viewer": viewer(images),
        "labels": labels_section(images.labels),
        "guides": guides_section(result),
        "transform": transform_section(images, verdict),
        "residual": residual_section(images),
        "missing": missing_section(images),
        "basis": basis_section(result),
        "optimization": optimization_section(result),
        "tables": run_tables(result),
        "style": style(),
        "script": script(),
    }
    values["contents"] = _contents(values)
    return Template(asset("report.html")).substitute(values)


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("a report needs matplotlib: pip install 'monai-locor[plot]'") from error


def _verdict_texts(result: RegistrationResult, verdict: Verdict, title: str | None) -> dict[str, str]:
    counts = Counter(reason.status for reason in verdict.reasons)
    known = {"PASS": "passed", "SKIP": "not measured"}
    others = ", ".join(f"{counts[status]} {text}" for status, text in known.items() if counts[status])
    return {
        "title": title or _title(result.inputs),
        "facts": _facts(result),
        "status": verdict.status,
        "level": verdict.status.lower(),
        "sign": STATUS_SIGNS[verdict.status],
        "headline": STATUS_HEADLINES[verdict.status] + (f" Checks: {others}." if others else ""),
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
    for role in ROLES:
        channels = len((result.arguments.get(role) or {}).get("list", ()))
        if channels > 1:
            sizes.append(f"the first of {channels} {role} images is shown")
    if not result.registered:
        return " · ".join([*sizes, "the transform was computed elsewhere"])
    return " · ".join([*sizes, f"{result.seconds:.0f} s on {result.device}", f"seed {result.seed}", *result.remarks])


def _contents(values: Mapping[str, str]) -> str:
    """Links to the parts that the page has."""
    optional = {"labels-card": "labels", "guides": "guides", "residual": "residual", "missing": "missing", "basis": "basis"}
    shown = [part for part in PARTS if values.get(optional.get(part, part), "present")]
    return "".join(f'<li><a href="#{part}">{PARTS[part]}</a></li>' for part in shown)


def _problems(verdict: Verdict) -> str:
    """The checks that are not passed, without explanations; empty if there are none."""
    items = [_reason(reason, explain=False) for reason in verdict.reasons if reason.status in ("WARN", "FAIL")]
    many = " many" if len(items) > MAX_PRINTED_ADVICE else ""
    return f'<ul class="reasons{many}">\n{"".join(items)}\n</ul>' if items else ""


def _reason(reason: Reason, explain: bool = True) -> str:
    advice = f'<span class="advice">→ {escape(reason.advice)}</span>' if reason.advice else ""
    meaning = f'<span class="meaning">{escape(CHECKS[reason.check])}</span>' if explain and reason.check in CHECKS else ""
    return (
        f'<li class="{escape(reason.status)}">'
        f'<span class="mark" role="img" aria-label="{escape(reason.status)}">{STATUS_SIGNS[reason.status]}</span>'
        f'<span class="name">{escape(reason.check)}</span><span class="text">{escape(reason.text)}</span>{advice}{meaning}</li>'
    )


def _warnings(result: RegistrationResult) -> str:
    """List of the warnings of the run."""
    if not result.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in result.warnings)
    hidden = len(result.warnings) - MAX_PRINTED_WARNINGS
    more = f'<p class="printed note">and {hidden} more, not printed</p>' if hidden > 0 else ""
    return f'<h3>Warnings of the run</h3>\n<ul class="warnings">{items}</ul>{more}'
