# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor apply``: apply transforms to an image, a label map, points or contours."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.paths import is_picture
from .carried import add_interpolation, is_points, load_carried, mode_of
from .carried_checks import check_target
from .console import console_of
from .dicom_objects import apply_to_object, check_object, kind_of_object
from .inputs import check_file, check_image, check_transforms
from .output_files import check_outputs
from .parser import TRANSFORM_ORDER, CommandHelp, add_command, add_output, add_transforms
from .transforms import files_of, load_transforms, size_of

if TYPE_CHECKING:
    import torch

    from ..geometry import Grid, SpatialTransform

__all__ = ["add_parser", "check", "run"]

TEXT = f"""\
Apply transforms to an image, a label map or a list of points.

Images and label maps are resampled from the space of the moving image onto the grid of the reference (the fixed image).
Points are mapped the other way, from fixed to moving. --inverse reverses both.

{TRANSFORM_ORDER}"""

EXAMPLE = """\
monai-locor apply t1.nii.gz -t out -r flair.nii.gz -o t1_on_flair.nii.gz
monai-locor apply atlas_labels.nii.gz -t 1Warp.nii.gz -t 0GenericAffine.mat -r scan.nii.gz --labels -o labels.nii.gz
monai-locor apply landmarks_fixed.csv -t out -o landmarks_moving.csv
monai-locor apply mr_folder -t out -r ct_folder --dicom -o mr_on_ct
monai-locor apply rtstruct.dcm -t out -r ct_folder --drawn-on mr_folder --dicom -o rtstruct_on_ct.dcm
monai-locor apply cd31.tif -t out -r he.tif -o cd31_on_he.tif
monai-locor apply fixed_labels.nii.gz -t out --inverse -r moving.nii.gz --labels -o labels_on_moving.nii.gz"""

PLURALS = {"image": "images", "labels": "label maps", "points": "points"}  # of the kinds of input


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    summary = "apply transforms to an image, a label map or points"
    parser = add_command(
        commands,
        "apply",
        run,
        check,
        CommandHelp(usage="INPUT -t TRANSFORM -o FILE", summary=summary, text=TEXT, example=EXAMPLE),
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="image, label map (--labels) or points (.csv, .fcsv, .json)")
    add_transforms(parser)
    add_output(parser, "image (.nii.gz, .nii, .nrrd, .mha; pictures .png, .jpg, .tif, .bmp) or points (.csv, .fcsv, .mrk.json)")
    parser.add_argument("--inverse", action="store_true", help="use the inverse of the whole list")
    parser.add_argument(
        "-r", "--reference", type=Path, metavar="IMAGE", help="grid of the output (default: that of the first field)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--labels", action="store_true", help="INPUT is a label map: nearest neighbor (or -n smooth), labels and type are kept"
    )
    kind.add_argument("--points", action="store_true", help="INPUT is a list of points, regardless of its name")
    add_interpolation(parser, "; smooth is for label maps")
    parser.add_argument(
        "--tensor-axes",
        choices=("voxels", "world"),
        default="voxels",
        help="axes of the components of diffusion tensors (NIfTI, symmetric matrix) (default: %(default)s, as in ANTs)",
    )
    parser.add_argument("--lps", action="store_true", help="points in .csv files are LPS, as in ANTs (default: RAS)")
    parser.add_argument(
        "--pixels",
        nargs=2,
        type=Path,
        metavar=("IMAGE", "OTHER"),
        help="points in .csv files are pixels, x from the left and y from the top, counted from 0: INPUT of IMAGE, the output "
        "of OTHER (default: mm)",
    )
    parser.add_argument(
        "--dicom",
        action="store_true",
        help="write a DICOM series into the folder -o, in the study of the reference; INPUT and reference are DICOM. For an "
        "RTSTRUCT or SEG object as INPUT, write such an object to the file -o (.dcm)",
    )
    parser.add_argument(
        "--drawn-on", type=Path, metavar="IMAGE", help="DICOM series that the contours of INPUT, an RTSTRUCT, were drawn on"
    )
    parser.add_argument(
        "--error-map",
        type=Path,
        metavar="FILE",
        help="write the expected error of each point and its 90 %% interval, mm, from this error map (default: error.nii.gz of "
        "the output folder that is the transform; not in ANTs' .csv)",
    )
    parser.add_argument("--channel", metavar="N", help="channel or frame, counted from 0, or 'all'")


def check(args: argparse.Namespace) -> None:
    """Check that the arguments are consistent, the inputs exist and the output can be written."""
    _channel(args.channel)
    carried = kind_of_object(args)
    if args.drawn_on is not None and carried != "RTSTRUCT":
        raise InputError(f"--drawn-on {args.drawn_on}: is for RTSTRUCT objects, and {args.input} is none; leave it out")
    if carried is not None:
        check_object(args, carried)
        return
    kind = _kind(args)
    if args.labels and args.interpolation not in (None, "nearest", "smooth"):
        raise InputError(
            f"-n {args.interpolation}: would interpolate between label values; give nearest or smooth, or leave --labels out"
        )
    if not args.dicom:
        check_target(args.output, kind, pictures=is_picture(args.input))
    (check_file if kind == "points" else check_image)(args.input, f"{_role(args)} {kind}")
    check_transforms(args.transforms, args.formats)
    check_image(args.reference, "reference image")
    for image in args.pixels or ():
        check_image(image, "image of --pixels")
    if args.pixels and (args.lps or kind != "points"):
        raise InputError(f"--pixels {args.pixels[0]}: is for points, and not together with --lps; leave one out")
    _check_kind(args, kind)
    if args.error_map is not None:
        check_file(args.error_map, "error map")
    if args.dicom:
        _check_series(args, kind)
        return
    check_outputs([args.output], args.force, [args.input, args.reference, args.error_map, *files_of(args.transforms)])


def _check_kind(args: argparse.Namespace, kind: str) -> None:
    """Refuse options of another kind of input, which would have no effect."""
    for option, given, kinds in (
        (f"--error-map {args.error_map}", args.error_map is not None, ("points",)),
        ("--lps", args.lps, ("points",)),
        (f"--channel {args.channel}", args.channel is not None, ("images", "label maps")),
        (f"-n {args.interpolation}", args.interpolation is not None, ("images", "label maps")),
        (f"--tensor-axes {args.tensor_axes}", args.tensor_axes != "voxels", ("images",)),
    ):
        if given and PLURALS[kind] not in kinds:
            raise InputError(f"{option}: is for {' and '.join(kinds)}; leave it out")


def _check_series(args: argparse.Namespace, kind: str) -> None:
    """Check that a DICOM series can be written, before anything is computed."""
    from ..io.dicom.images import check_series_folder
    from ..io.dicom.series import open_series

    if kind != "image":
        raise InputError(f"--dicom: writes images, and {args.input} is taken as {kind}; leave it out, or give an image")
    if args.reference is None:
        raise InputError("--dicom: the series belongs to the study of the reference; name its DICOM folder with -r")
    check_series_folder(args.output.expanduser())
    open_series(args.input, f"{_role(args)} image {args.input}")
    open_series(args.reference, f"reference image {args.reference}")


def _kind(args: argparse.Namespace) -> str:
    return (
        "labels"
        if args.labels or args.interpolation == "smooth"
        else "points"
        if args.points or is_points(args.input)
        else "image"
    )


def _role(args: argparse.Namespace) -> str:
    return "fixed" if args.inverse else "moving"


def run(args: argparse.Namespace) -> int:
    """Apply the transforms."""
    from ..io.grids import read_grid

    carried_object = kind_of_object(args)
    if carried_object is not None:
        return _run_object(args, carried_object)
    console, kind, role = console_of(args), _kind(args), _role(args)
    mode = mode_of(args.interpolation)
    pixels = None if args.pixels is None else (read_grid(args.pixels[0]), read_grid(args.pixels[1]))
    carried = load_carried(args.input, kind, role, _channel(args.channel), args.lps, mode, args.tensor_axes, pixels)
    reference = None if args.reference is None else read_grid(args.reference)
    grids = {"fixed": reference, "moving": carried.grid}  # of the transform that is applied, inverted or not
    transform = load_transforms(args.transforms, inverse=args.inverse, **grids, formats=args.formats)
    grid = None if kind == "points" else reference or _own_grid(transform)
    target = args.output.expanduser()
    if args.dicom and grid is not None:
        done = carried.as_series(transform, grid, target, args.reference)
    else:
        done = carried.through(transform, grid, target, _errors(args) if kind == "points" else None)
    where = f"{done['count']} points" if grid is None else f"{carried.kind}, {size_of(grid)}"
    console.say(f"{args.output}: {where}")
    return console.answer({**done, "transforms": args.transforms, "inverse": args.inverse})


def _run_object(args: argparse.Namespace, kind: str) -> int:
    console, done = console_of(args), apply_to_object(args, kind)
    console.say(f"{args.output}: {kind} of {len(done['regions'])} regions")
    return console.answer({**done, "transforms": args.transforms, "inverse": args.inverse})


def _errors(args: argparse.Namespace) -> Callable[..., dict[str, Any]] | None:
    """The columns of the estimated error from the points before and after the transform; None without an error map."""
    path = args.error_map
    if path is None and len(args.transforms) == 1:
        from ..io.transforms.output_folder import folder_of

        folder = folder_of(Path(args.transforms[0]).expanduser())
        path = None if folder is None or not (folder / "error.nii.gz").is_file() else folder / "error.nii.gz"
    if path is None:
        return None
    from ..registration.error_files import read_error_map

    error = read_error_map(path.expanduser())

    def columns(before: torch.Tensor, after: torch.Tensor) -> dict[str, Any]:
        found = error.at(after if args.inverse else before)  # the map is on the fixed image
        names = ("error_mm", "error_low_mm", "error_high_mm")
        return {name: values.tolist() for name, values in zip(names, found[:3], strict=True)}

    return columns


def _channel(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if not text.isdecimal():  # what int() reads; digits such as ² are not
        raise InputError(f"--channel {text}: give a number from 0, or all")
    return int(text)


def _own_grid(transform: SpatialTransform) -> Grid:
    if transform.domain is None:
        raise InputError("an affine transform has no grid of its own: name the reference image with -r")
    return transform.domain
