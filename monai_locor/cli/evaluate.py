# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor evaluate``: Dice, HD95, TRE, mutual information, folding and inverse consistency of a transform."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..roles import ROLES
from .console import console_of
from .inputs import check_file, check_image, check_transforms
from .parser import TRANSFORM_ORDER, CommandHelp, add_command, add_transforms

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Evaluate a transform. Label maps give Dice and the 95th percentile of the Hausdorff distance, landmarks the target
registration error, images the normalized mutual information. Folding and inverse consistency need the transform alone.
Each measure is computed before registration (world coordinates only) and after; without a transform, only before.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor evaluate -t out --fixed-labels fixed_seg.nii.gz --moving-labels moving_seg.nii.gz
monai-locor evaluate -t out --fixed-points fixed.csv --moving-points moving.csv --json
monai-locor evaluate --fixed-labels truth.nii.gz --moving-labels already_warped.nii.gz"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        check,
        CommandHelp(usage="[-t TRANSFORM]", summary="Dice, HD95, TRE, folding, ...", text=TEXT, example=EXAMPLE),
    )
    add_transforms(parser, required=False)
    parser.add_argument(
        "--inverse-transform",
        action="append",
        metavar="FILE",
        help="transform from moving to fixed points, for inverse consistency; given like -t, with its --from after those "
        "of -t (default: the inverse stored with -t)",
    )
    parser.add_argument("--fixed", type=Path, metavar="IMAGE", help="the fixed image")
    parser.add_argument("--moving", type=Path, metavar="IMAGE", help="the moving image")
    parser.add_argument("--fixed-labels", type=Path, metavar="IMAGE", help="label map in fixed space")
    parser.add_argument("--moving-labels", type=Path, metavar="IMAGE", help="label map in moving space, with the same labels")
    parser.add_argument("--labels", metavar="N,N,...", help="labels to evaluate (default: all of the fixed map except 0)")
    parser.add_argument("--fixed-points", type=Path, metavar="FILE", help="landmarks in fixed space (.csv, .fcsv, .json)")
    parser.add_argument(
        "--moving-points", type=Path, metavar="FILE", help="the same in moving space, matched by label or order"
    )
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="landmarks in .csv files are pixels of --fixed and --moving, x from the left, y from the top (default: mm)",
    )
    parser.add_argument(
        "--mask", type=Path, metavar="IMAGE", help="mask in fixed space for folding, consistency and mutual information"
    )


def check(args: argparse.Namespace) -> None:
    """Check that the arguments are consistent and the files exist."""
    for name in ("", "_labels", "_points"):
        pair = [getattr(args, f"{role}{name}") for role in ROLES]
        if any(pair) and not all(pair) and not (name == "" and pair[0]):
            options = " and ".join(f"--{role}{name}".replace("_", "-") for role in ROLES)
            raise InputError(f"{pair[0] or pair[1]}: {options} must be given together")
    if not (args.transforms or args.fixed_labels or args.fixed_points or args.moving):
        raise InputError("evaluate: nothing to evaluate; give a transform with -t, or label maps, landmarks or images")
    if args.pixels and not (args.fixed_points and args.moving):
        raise InputError("--pixels: needs --fixed, --moving and landmarks; give these, or leave it out")
    _labels(args.labels)
    _check_partners(args)
    check_transforms([*(args.transforms or ()), *(args.inverse_transform or ())], args.formats)
    for role in ROLES:
        check_image(getattr(args, role), f"{role} image")
        check_image(getattr(args, f"{role}_labels"), f"{role} labels")
        check_file(getattr(args, f"{role}_points"), f"{role} points")
    check_image(args.mask, "mask")


def _check_partners(args: argparse.Namespace) -> None:
    """Refuse options without what they apply to, which would have no effect."""
    for option, given, partners, has_partner in (
        ("--labels", args.labels, "--fixed-labels and --moving-labels", args.fixed_labels),
        ("--inverse-transform", args.inverse_transform and args.inverse_transform[0], "a transform with -t", args.transforms),
        ("--mask", args.mask, "a transform with -t, or --fixed and --moving", args.transforms or args.moving),
    ):
        if given is not None and not has_partner:
            raise InputError(f"{option} {given}: needs {partners}; add what is missing, or leave it out")


def run(args: argparse.Namespace) -> int:
    """Compute all measures that the arguments allow."""
    from .measures import evaluate

    console, found = console_of(args), evaluate(args, _labels(args.labels))
    for line in _lines(found):
        console.say(line)
    return console.answer(found)


def _labels(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--labels {text}: give integers separated by commas, as in 1,2,3") from error


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The results as a table with columns before and after."""
    rows = [row for row in _rows(found) if any(v is not None for v in row[1:])]
    if rows:
        width = max(len(row[0]) for row in rows)
        yield f"{'':{width}}  {'before':>9}  {'after':>9}"
        for name, before, after in rows:
            yield f"{name:{width}}  {_number(before):>9}  {_number(after):>9}"
    if "inverse_consistency_mm" in found:
        error = found["inverse_consistency_mm"]
        yield f"inverse consistency error: mean {_number(error['mean'])} mm, 95 % below {_number(error['p95'])} mm"
    if "jacobian" in found:
        from .jacobian import folding_line

        yield folding_line(found["jacobian"])


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    for key, title in (("dice", "Dice"), ("hd95_mm", "HD95 mm")):
        before, after = (found.get(key, {}).get(when, {}) for when in ("before", "after"))
        for label in before.get("labels", {}):
            yield f"{title} {label}", before["labels"][label], after.get("labels", {}).get(label)
        yield f"{title} mean", before.get("mean"), after.get("mean")
    for key, title, kinds in (("tre_mm", "TRE mm", ("mean", "median", "p95", "max")), ("nmi", "NMI", ("value",))):
        before, after = (found.get(key, {}).get(when, {}) for when in ("before", "after"))
        for kind in kinds:
            yield title if kind == "value" else f"{title} {kind}", before.get(kind), after.get(kind)


def _number(value: float | None) -> str:
    return "-" if value is None else "n/a" if math.isnan(value) else f"{value:.4g}"
