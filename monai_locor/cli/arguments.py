# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Arguments of a registration, from the options of ``register`` and from an earlier run."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..roles import ROLES
from .inputs import check_file, check_image
from .parser import whole_number
from .settings import read_object, settings_of
from .transforms import files_of, load_transforms

if TYPE_CHECKING:
    from ..quality import Thresholds
    from ..registration import RegistrationConfig

__all__ = [
    "add_channels",
    "add_masks",
    "add_thresholds",
    "check_basis",
    "check_inputs",
    "given_arguments",
    "images_of",
    "input_files",
    "name_images",
    "name_of",
    "named_start",
    "repeated_arguments",
    "start_of",
    "thresholds_of",
    "with_channels",
]


def add_masks(parser: argparse._ActionsContainer) -> None:
    """``--fixed-mask`` and ``--moving-mask``."""
    for role in ROLES:
        parser.add_argument(f"--{role}-mask", metavar="IMAGE", help=f"mask of the {role} image, on any grid")


def add_channels(parser: argparse._ActionsContainer) -> None:
    """``--fixed-channel`` and ``--moving-channel``."""
    for role in ROLES:
        text = f"channel or frame of the {role} image, counted from 0"
        parser.add_argument(f"--{role}-channel", type=whole_number(0), metavar="N", help=text)


def add_thresholds(parser: argparse._ActionsContainer) -> None:
    """``--thresholds``, see :func:`thresholds_of`."""
    text = "JSON file of WARN/FAIL thresholds of the verdict, name: [warn, fail]"
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help=text)


def given_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`monai_locor.register` from the options, without the initial transform.

    Raises:
        InputError: for a missing image or invalid settings.
    """
    if not (args.fixed and args.moving):
        raise InputError("register: give FIXED and MOVING, or --from run.json; see monai-locor register --help")
    return {"preset": settings_of(args), "initial": None, "seed": 0, **_changes(args)}


def repeated_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of an earlier registration, changed by the options.

    Raises:
        InputError: if its run.json or one of its inputs cannot be read or has changed.
    """
    from ..registration import RegistrationConfig
    from ..registration.manifest import RunManifest

    manifest = RunManifest.load(args.manifest)
    changes = _changes(args)
    if args.initial is not None:
        changes["initial"] = None  # the earlier one may have been deleted
    arguments = manifest.arguments(**changes)
    return {
        "initial": None,
        "seed": 0,
        **arguments,
        "preset": settings_of(args, RegistrationConfig.of(arguments["preset"]).to_dict()),
    }


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments given by options, except the settings and the initial transform."""
    names = ("fixed_mask", "moving_mask", "initial_basis", "seed", "channel_weights")
    out: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for role in ROLES:
        path, channel = getattr(args, role), getattr(args, f"{role}_channel")
        if path is None and channel is not None:
            raise InputError(f"--{role}-channel {channel}: name the {role} image as well")
        if len(images_of(path)) > 1 and channel is not None:
            raise InputError(f"--{role}-channel {channel}: goes with one {role} image, not with several")
        if path is not None:
            out[role] = path
    out = with_channels(args, out)
    if args.device is not None:
        parts = [part.strip() for part in args.device.split(",")]
        out.update({"device": parts[0]} if len(parts) == 1 else {"devices": parts})
    return out


def check_inputs(arguments: Mapping[str, Any]) -> None:
    """Check that images, masks and weights exist.

    Raises:
        InputError: for the first one that does not.
    """
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        for image in images_of(arguments.get(name)):
            check_image(image, f"{name} image" if name in ("fixed", "moving") else name.replace("_", " "))
    from ..registration.pairing import checked_weights, pair_count

    count = pair_count(*(len(images_of(arguments.get(role))) for role in ROLES))
    checked_weights(arguments.get("channel_weights"), count)
    basis = arguments.get("initial_basis")
    if basis is not None and count > 1:
        raise InputError(f"--initial-basis {basis}: needs one image per side, and there are several; leave it out")
    check_basis(basis)


def input_files(args: argparse.Namespace, arguments: Mapping[str, Any]) -> list[str | Path | None]:
    """The files of images, masks, basis, initial transform, thresholds and settings, which no output may replace.

    Args:
        args: options of ``register``.
        arguments: of the registration.

    Returns:
        the files; None stands for options that are not given.
    """
    from ..io.stored_files import stored_files, stored_place

    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    images = [name_of(image) for name in names if arguments.get(name) is not None for image in images_of(arguments[name])]
    basis = arguments.get("initial_basis")
    weights = [] if basis is None else stored_files(stored_place(Path(basis).expanduser()))
    start = arguments["initial"] if args.initial is None or named_start(args.initial) else args.initial
    transforms = files_of([item for item in images_of(start) if isinstance(item, str)])  # a repeated one may be a matrix
    return [*images, *weights, *transforms, args.thresholds, args.config]


def check_basis(basis: str | None) -> None:
    """Check that the file of ``--initial-basis``, if any, exists; it may be named without suffix.

    Raises:
        InputError: if it does not.
    """
    if basis is not None and not Path(f"{basis}.safetensors").expanduser().is_file():
        check_file(basis, "basis")


def with_channels(args: argparse.Namespace, images: Mapping[str, Any]) -> dict[str, Any]:
    """Images by name, with the channels of ``--fixed-channel`` and ``--moving-channel``."""
    from ..io.file_channel import FileChannel

    chosen = {role: getattr(args, f"{role}_channel") for role in ROLES}
    chosen = {role: channel for role, channel in chosen.items() if channel is not None and role in images}
    return {**images, **{role: FileChannel(images[role], channel) for role, channel in chosen.items()}}


def name_images(args: argparse.Namespace) -> None:
    """Use the images of ``--fixed`` and ``--moving`` as FIXED and MOVING.

    Raises:
        InputError: if an image is given both ways.
    """
    for role in ROLES:
        alone, several = getattr(args, role), getattr(args, f"{role}_images")
        if alone is not None and several is not None:
            raise InputError(
                f"{role.upper()} {alone}: --{role} also names {several[0]}; use either FIXED MOVING or --fixed and --moving"
            )
        if several is not None:
            setattr(args, role, several if len(several) > 1 else several[0])


def images_of(given: Any) -> list[Any]:
    """One or several images as a list."""
    return given if isinstance(given, list) else [given]


def name_of(image: str | os.PathLike[str]) -> str:
    """The file name of an image or of one channel of a file."""
    return os.fspath(image)


def named_start(how: Sequence[str]) -> bool:
    """Whether ``--initial`` is one of :data:`monai_locor.registration.config.STARTS` rather than a list of transforms."""
    from ..registration.config import STARTS

    return len(how) == 1 and how[0] in STARTS


def start_of(
    how: Sequence[str] | None, arguments: Mapping[str, Any], formats: Sequence[str] | None = None
) -> tuple[Any, RegistrationConfig]:
    """The initial transform and the settings, which may name an initialization instead.

    Args:
        how: a word of :func:`named_start`, or transforms in the order of antsApplyTransforms; None keeps the present one.
        arguments: with ``fixed``, ``moving``, ``initial`` and ``preset``, the settings.
        formats: of the transforms, one for all or one for each.

    Returns:
        the transform or None, and the settings.

    Raises:
        InputError: if a transform cannot be read or has other dimensions.
    """
    config = arguments["preset"]
    if how is None:
        return arguments["initial"], config
    if named_start(how):
        from ..registration.config import STARTS

        return None, dataclasses.replace(config, initialization=STARTS[how[0]])
    from ..io.grids import read_grid

    fixed, moving = (read_grid(images_of(arguments[role])[0], f"{role} image") for role in ROLES)
    return load_transforms(how, fixed=fixed, moving=moving, formats=formats), config


def thresholds_of(path: Path | None) -> Thresholds | None:
    """Thresholds of the verdict from a JSON file; None without a file."""
    if path is None:
        return None
    from ..report import Thresholds

    return Thresholds.of(read_object(path.expanduser(), "--thresholds"))
