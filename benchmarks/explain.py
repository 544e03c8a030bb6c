# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Plots of the local fit at chosen points, before and after a registration.

Registers each case once and draws one figure per point (see `monai_locor.visualize.fit_figure`), with the learned and with a
polynomial basis. Prints a Markdown table of the residuals at the points. A point is `gain` (where the registration
lowered the residual most), `worst` (where it is highest afterwards) or its coordinates in the fixed image, RAS mm.

    python benchmarks/explain.py FOLDER brain_t2_t1_2mm --preset fast --point gain --point=-20.5,-27.5,24.5 --output pictures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tables import markdown
from registration import about, find_cases

from monai_locor import InputError, RegistrationConfig, register
from monai_locor.io import check_output_dir
from monai_locor.visualize import Samples, fit_at, fit_figure, interesting_point, samples_of_result

CHOICES = ("gain", "worst")
COLUMNS = ("case", "point, mm", "basis", "J", "R before", "R after", "before / after", "variance explained", "picture")


def explain(case: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    """Register a case and draw its points; return a table row for each point and basis."""
    images = [case / f"{role}.nii.gz" for role in ("fixed", "moving")]
    result = register(*images, preset=options.preset, device=options.device, seed=options.seed, progress=False)
    before, after = samples_of_result(result, *images)
    for word in options.point:
        point = interesting_point(before, after, word) if word in CHOICES else np.array(coordinates(word))
        name = f"{case.name}-{word.replace(',', '_')}.{options.format}"
        place = f"({', '.join(f'{x:.1f}' for x in point)}) mm".replace("-", "\N{MINUS SIGN}")
        how: dict[str, Any] = {
            "degree": options.degree,
            "plane": options.plane,
            "title": f"{case.name}: local fit around {place}",
        }
        figure: Any = fit_figure(before, after, point, **how)
        figure.canvas.print_figure(options.output / name, dpi=options.dpi)
        yield from rows(case.name, point, before, after, options.degree, name)


def rows(
    case: str, point: np.ndarray, before: Samples, after: Samples, degree: int | None, picture: str
) -> Iterator[list[str]]:
    """The numbers of one figure."""
    place = ", ".join(f"{x:.1f}" for x in point)
    for basis in ["polynomial"] if after.learned is None else ["learned", "polynomial"]:
        now = fit_at(after, point, basis, degree=degree)
        try:
            was = fit_at(before, point, basis, degree=degree).residual
            ratio = [f"{was:.2e}", f"{now.residual:.2e}", f"{was / max(now.residual, 1e-12):.1f}"]
        except InputError:  # nothing to fit there before
            ratio = ["", f"{now.residual:.2e}", ""]
        yield [case, place, basis, str(len(now.theta)), *ratio, f"{now.explained:.1%}", picture]


def coordinates(word: str) -> list[float]:
    """Coordinates of a point given as x,y or x,y,z.

    Raises:
        ValueError: for other text.
    """
    found = [float(part) for part in word.split(",")]
    if len(found) not in (2, 3):
        raise ValueError(f"{word}: a point has 2 or 3 coordinates")
    return found


def point(word: str) -> str:
    """Check a value of `--point`."""
    try:
        if word not in CHOICES:
            coordinates(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; a point is {', '.join(CHOICES)} or x,y,z") from error
    return word


def common(description: str, dpi: int) -> argparse.ArgumentParser:
    """Common options of scripts that register and draw cases."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="cases as in registration.py")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, by default all")
    parser.add_argument("--preset", default="default", help="name or file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="for the pictures")
    parser.add_argument("--dpi", type=int, default=dpi)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Check the options of :func:`common`; `cases` become folders."""
    options = parser.parse_args(arguments)
    find_cases(parser, options)
    try:
        options.config = RegistrationConfig.of(options.preset)
    except ValueError as error:
        parser.error(str(error))
    check_output_dir(options.output)
    return options


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = common(__doc__.splitlines()[0], 150)
    told = "gain, worst or =x,y,z; may be given several times"
    parser.add_argument("--point", type=point, action="append", metavar="POINT", help=told)
    parser.add_argument("--degree", type=int, help="of the polynomial basis, by default that of the settings")
    parser.add_argument("--plane", default="axial", choices=("axial", "coronal", "sagittal"))
    parser.add_argument("--format", default="png", choices=("png", "pdf", "svg"))
    options = checked(parser, arguments)
    options.point = options.point or ["gain"]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    lines: list[list[str]] = []
    for case in options.cases:
        for line in explain(case, options):
            lines.append(line)
            print(*line, file=sys.stderr)
    machine: Mapping[str, Any] = about(options)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"preset {options.preset}, seed {options.seed}\n")
    print(markdown(COLUMNS, lines))


if __name__ == "__main__":
    main()
