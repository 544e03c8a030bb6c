# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``apply --dicom`` of RTSTRUCT and SEG objects, whose regions are written as a new object of the reference."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from .inputs import check_file, check_image, check_transforms
from .output_files import check_outputs, suffix_of
from .transforms import files_of, load_transforms

__all__ = ["apply_to_object", "check_object", "kind_of_object"]

SUFFIX = ".dcm"
#: options of images and points, by their names in the arguments
OTHER_OPTIONS = {
    **{"labels": "--labels", "points": "--points", "interpolation": "-n", "channel": "--channel", "lps": "--lps"},
    **{"pixels": "--pixels", "error_map": "--error-map"},
}


def kind_of_object(args: argparse.Namespace) -> str | None:
    """``"RTSTRUCT"`` or ``"SEG"`` if the input is one that is to be written as such; otherwise None.

    A SEG object without ``--dicom`` is an image.
    """
    from ..io.dicom.image_slices import object_kind

    kind = object_kind(args.input.expanduser())
    return kind if args.dicom or kind == "RTSTRUCT" else None


def check_object(args: argparse.Namespace, kind: str) -> None:
    """Check that the arguments are consistent, the inputs exist and the output can be written.

    Raises:
        InputError: if not.
    """
    from ..io.dicom.image_slices import open_slices

    name = f"{kind} {args.input}"
    if not args.dicom:
        raise InputError(f"{name}: holds contours, which are written as a new RTSTRUCT; add --dicom")
    given = [option for key, option in OTHER_OPTIONS.items() if getattr(args, key) not in (None, False)]
    if given:
        raise InputError(f"{given[0]}: does not apply to {name}, whose regions are resampled linearly; leave it out")
    if suffix_of(args.output) != SUFFIX:
        raise InputError(f"output file {args.output}: its name must end in {SUFFIX} for {kind}")
    if args.reference is None:
        raise InputError(f"{name}: is written for the reference; name its DICOM folder with -r")
    check_file(args.input, kind)
    if kind == "RTSTRUCT":
        if args.drawn_on is None:
            raise InputError(f"{name}: its contours lie in slices of a series; name its DICOM folder with --drawn-on")
        check_image(args.drawn_on, "image of --drawn-on")
        open_slices(args.drawn_on, f"image of --drawn-on {args.drawn_on}")
    check_transforms(args.transforms, args.formats)
    check_image(args.reference, "reference image")
    open_slices(args.reference, f"reference image {args.reference}")
    check_outputs([args.output], args.force, [args.input, args.reference, args.drawn_on, *files_of(args.transforms)])


def apply_to_object(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Apply the transforms to the regions of an RTSTRUCT or SEG object.

    Returns:
        a description for the JSON object of the command.
    """
    from ..io.dicom.rtstruct import carry_structures
    from ..io.dicom.segmentations import carry_segments
    from ..io.grids import read_grid

    grids = {"fixed": read_grid(args.reference), "moving": read_grid(args.input if kind == "SEG" else args.drawn_on)}
    transform = load_transforms(args.transforms, inverse=args.inverse, **grids, formats=args.formats)
    source, target, reference = (Path(path).expanduser() for path in (args.input, args.output, args.reference))
    if kind == "RTSTRUCT":
        counts = carry_structures(source, target, transform, reference, args.drawn_on)
    else:
        counts = carry_segments(source, target, transform, reference)
    return {"input": args.input, "kind": kind, "output": target, "regions": counts}
