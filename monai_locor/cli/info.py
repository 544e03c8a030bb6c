# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor info``: describe a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..roles import ROLES
from .carried import is_points
from .console import console_of
from .inputs import check_any, check_image, is_ants_prefix
from .output_files import check_outputs, suffix_of
from .parser import CommandHelp, add_command, add_other_image
from .result_text import verdict_lines, warning_lines
from .transforms import check_formats, load_transforms

if TYPE_CHECKING:
    from typing import TypeAlias

    from ..geometry import Grid

    #: fixed and moving
    Grids: TypeAlias = tuple[Grid | None, ...]

__all__ = ["add_parser", "check", "run"]

TEXT = """\
Describe a file. Image: size, spacing, orientation, intensities, mask or label map. Transform: type, rotation and
scaling, mean and maximum displacement, folding. Points: number and extent. Output folder of register: the contents of
run.json, and the transform.

--csv writes a table of many runs instead, one row for each: verdict, checks with problems, and all numbers of run.json."""

EXAMPLE = """\
monai-locor info t1.nii.gz dicom_folder out/affine.tfm
monai-locor info out --json
monai-locor info study/*/run.json --csv study.csv"""

TRANSFORM_SUFFIXES = (".tfm", ".mat", ".h5", ".hdf5", ".xfm", ".lta", ".txt", ".npz", ".1d", ".x5")
FIELD_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")  # of images of ITK, which may be displacement fields


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "info",
        run,
        check,
        CommandHelp(usage="FILE...", summary="describe an image, transform or run", text=TEXT, example=EXAMPLE),
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="image, transform, points or output folder")
    parser.add_argument("-r", "--reference", type=Path, metavar="IMAGE", help="grid to evaluate transforms on (fixed image)")
    add_other_image(parser, "moving")
    parser.add_argument("--channel", metavar="N", type=int, help="channel or frame, counted from 0 (default: all)")
    parser.add_argument("--from", dest="format", metavar="FORMAT", help="FILEs are transforms of this format")
    text = "write a table of the runs; FILEs are output folders, run.json files, or files of check -o"
    parser.add_argument("--csv", type=Path, metavar="FILE", help=text)
    parser.add_argument("--force", action="store_true", help="overwrite an existing table")


def check(args: argparse.Namespace) -> None:
    """Check that the files exist."""
    check_image(args.reference, "reference image")
    check_image(args.moving, "moving image")
    if args.format is not None:
        check_formats([args.format], 1)
    for path in args.files:
        check_any(path, "file")
    if args.csv is not None:
        check_outputs([args.csv], args.force, args.files)


def run(args: argparse.Namespace) -> int:
    """Describe each file, or write the table of the runs."""
    return _describe_files(args) if args.csv is None else _tabulate(args)


def _tabulate(args: argparse.Namespace) -> int:
    from ..registration.manifest import MANIFEST_NAME, read_run, well_formed
    from ..report.summary import run_row, summary_lines, write_summary

    console, rows = console_of(args), []
    for file, content in map(read_run, args.files):
        with well_formed(file):
            rows.append(run_row(content, file.absolute().parent.name if file.name == MANIFEST_NAME else file.stem))
    write_summary(args.csv.expanduser(), rows)
    for line in [*summary_lines(rows), f"table: {args.csv}"]:
        console.say(line)
    return console.answer({"output": args.csv, "runs": rows})


def _describe_files(args: argparse.Namespace) -> int:
    from ..io.grids import read_grid
    from ..registration.manifest import well_formed
    from .describe import lines_of

    console = console_of(args)
    grids = tuple(None if path is None else read_grid(path) for path in (args.reference, args.moving))
    found = []
    for path in args.files:
        place = path.expanduser()
        described = _describe(place, grids, args.channel) if args.format is None else _transform(place, grids, args.format)
        found.append({"file": path, **described})
        with well_formed(path):
            lines = _run_lines(path, described)
        for line in [*lines, *lines_of(path, described)]:
            console.say(line)
    return console.answer({"files": found})


def _describe(path: Path, grids: Grids, channel: int | None) -> dict[str, Any]:
    from ..io.transforms.detect import shows_transform
    from ..io.transforms.output_folder import MANIFEST, files_in, folder_of

    folder = folder_of(path)
    if folder is not None and (files_in(folder) or (folder / MANIFEST).is_file()):
        return {**_transform(path, grids), "run": _run_of(folder / "run.json")}
    if is_points(path) and path.exists():
        record = _run_of(path) if suffix_of(path) == ".json" else None
        return {"what": "check", "run": record} if (record or {}).get("kind") == "check" else _points(path)
    if suffix_of(path) in TRANSFORM_SUFFIXES or is_ants_prefix(path) or shows_transform(path) or _registers(path):
        return _transform(path, grids)
    kind, hint = _vector_kind(path, grids)
    if kind is not None:
        return _transform(path, grids, None if kind == "nifti" else kind)
    found = _image(path, channel)
    return found if hint is None else {**found, "hint": hint}


def _registers(path: Path) -> bool:
    """Whether a file is a DICOM registration object."""
    from ..io.dicom.headers import is_dicom
    from ..io.dicom.registration import is_registration

    return is_dicom(path) and is_registration(path)


def _image(path: Path, channel: int | None) -> dict[str, Any]:
    from ..io.grids import grid_of_stored
    from ..io.image_files import read_stored
    from .describe import describe_image

    name = f"file {path}"
    stored = read_stored(path, name).chosen("all" if channel is None else channel, name)
    found = describe_image(stored, grid_of_stored(stored.shape, stored.affine, name))
    components = stored.voxels.shape[-1]
    vectors = components == len(stored.shape) > 1 and stored.voxels.dtype.kind == "f" and not stored.channels
    if not vectors or suffix_of(path) not in FIELD_SUFFIXES:
        return found
    return {**found, "hint": f"it has {components} components per voxel; for a displacement field in LPS mm give --from vector"}


def _vector_kind(path: Path, grids: Grids) -> tuple[str | None, str | None]:
    """The format of a NIfTI file recognized as a transform; otherwise None, and a hint if it might be one."""
    from ..io.nifti import is_nifti, load_nifti
    from ..io.transforms.detect import format_of_file
    from ..io.transforms.nifti_vectors import dims_of_vectors

    try:
        if not is_nifti(path) or not path.is_file() or dims_of_vectors(load_nifti(path).shape) is None:
            return None, None
        kind = format_of_file(path)
    except InputError as error:
        return None, str(error)
    except Exception:  # the image reader will report the problem
        return None, None
    if kind == "fsl" and grids[1] is None:
        return None, "it is an FSL warp; give the moving image with --moving"
    return kind, None


def _transform(path: Path, grids: Grids, format: str | None = None) -> dict[str, Any]:
    from .describe import describe_transform

    formats = None if format is None else [format]
    transform = load_transforms([str(path)], fixed=grids[0], moving=grids[1], formats=formats)
    return describe_transform(transform, grids[0] or transform.domain)


def _points(path: Path) -> dict[str, Any]:
    from ..io.points import load_points

    points, labels = load_points(path)
    low, high = points.min(0).tolist(), points.max(0).tolist()
    found = {"what": "points", "count": len(points), "dims": points.shape[1], "min_mm": low, "max_mm": high}
    return {**found, "labels": list(labels)}


def _run_of(path: Path) -> dict[str, Any] | None:
    from ..io.paths import read_json

    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _run_lines(path: Path, found: dict[str, Any]) -> list[str]:
    """The manifest of a registration as lines of text."""
    content = found.get("run")
    if not content:
        return []
    inputs = content.get("inputs") or {}
    names = [f"{role} {_name(inputs.get(role))}" for role in ROLES if inputs.get(role)]
    kind = "check of a transform between" if content.get("kind") == "check" else "registration of"
    lines = [f"{path}: a {kind} {', '.join(names) or 'images in memory'}, {content.get('seconds', '?')} s"]
    verdict = content.get("verdict")
    if isinstance(verdict, dict) and "reasons" in verdict:
        from ..quality import Verdict

        lines += verdict_lines(Verdict.of(verdict))
    lines += warning_lines(*(content.get(key) or () for key in ("warnings", "doubts")))
    if content.get("interrupted"):
        lines.append("INTERRUPTED: this is the state when the run was interrupted")
    return lines


def _name(value: Any) -> str:
    return str(value.get("path", value)) if isinstance(value, dict) else str(value)
