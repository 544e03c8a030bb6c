# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor register --blocks``: align two images that do not fit memory."""

from __future__ import annotations

import argparse
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..roles import ROLES
from .arguments import check_basis, named_start, start_of, thresholds_of
from .console import console_of
from .inputs import check_device, check_transforms
from .landmarks import read_landmarks, with_landmark_options
from .parser import whole_number
from .result_text import label_line, landmark_line, verdict_lines
from .settings import settings_of
from .transforms import files_of

if TYPE_CHECKING:
    from ..blockwise import BlockwiseResult

__all__ = ["add_blocks", "check_blocks", "run_blocks", "wants_blocks"]

logger = logging.getLogger(__name__)

# options of register that are not possible in blocks: name, dest, and value when not given
REFUSED: tuple[tuple[str, str, Any], ...] = (
    ("--outputs", "outputs", None),
    ("--from", "manifest", None),
    ("--fixed", "fixed_images", None),
    ("--moving", "moving_images", None),
    ("--channel-weights", "channel_weights", None),
    ("--surfaces", "surfaces", None),
    ("--surface-weight", "surface_weight", None),
    ("--surface-space", "surface_space", None),
    *((f"--{role}-{kind}", f"{role}_{kind}", []) for role in ROLES for kind in ("image", "labels", "points")),
)
MIN_BLOCK = 32  # voxels


def add_blocks(group: argparse._ActionsContainer) -> None:
    """``--blocks``, ``--workers`` and ``--scheduler``."""
    text = (
        "register images larger than memory (OME-Zarr or .nii): a coarse registration of the whole images, then tiles of SIZE "
        "voxels along each axis with their halo, on Dask; auto: 128 and the halo (960 in 2-D), or what --memory allows"
    )
    group.add_argument("--blocks", type=_size, metavar="SIZE", help=text)
    text = "with --blocks, processes of this machine, each with one tile at a time (default: 1)"
    group.add_argument("--workers", type=whole_number(1), metavar="N", help=text)
    group.add_argument("--scheduler", metavar="ADDRESS", help="with --blocks, an existing Dask scheduler or its JSON file")


def _size(text: str) -> int | str:
    return text if text == "auto" else whole_number(MIN_BLOCK)(text)


def wants_blocks(args: argparse.Namespace) -> bool:
    """Whether to register in blocks.

    Raises:
        InputError: if an option is given that needs ``--blocks`` or is not possible with it.
    """
    if args.blocks is None:
        for name in ("workers", "scheduler"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} {getattr(args, name)}: is for registration in blocks; add --blocks auto")
        return False
    for option, name, unset in REFUSED:
        if getattr(args, name) != unset:
            raise InputError(f"{option}: is not possible with --blocks; leave it out")
    if args.scheduler is not None and args.workers is not None:
        raise InputError(f"--workers {args.workers}: the cluster at {args.scheduler} has its own workers; leave it out")
    if args.device is not None and "," in args.device:
        raise InputError(f"--device {args.device}: with --blocks, one device; more --workers use more of the machine")
    return True


def check_blocks(args: argparse.Namespace) -> None:
    """Check settings, inputs and outputs; the voxels are not read.

    ``args.plan`` receives the settings as ``preset``, and the files of landmarks and labels, if any.

    Raises:
        InputError: for invalid settings, or a file that cannot be read in parts.
        ImportError: if Dask or zarr is not installed; the message names the extra.
    """
    from ..blockwise.checks import check_folder, check_settings, results_in
    from ..cohort.scheduling import check_dask
    from ..io.earlier_outputs import check_no_inputs

    if not (args.fixed and args.moving):
        raise InputError("register: give FIXED and MOVING; see monai-locor register --help")
    check_device(args.device)
    args.plan = with_landmark_options(args, {"preset": settings_of(args)})
    check_settings(args.plan["preset"])
    check_dask("registration in blocks")
    if find_spec("zarr") is None:
        raise ImportError("registration in blocks writes OME-Zarr: pip install 'monai-locor[cohort]'")
    _check_images(args)
    check_basis(args.initial_basis)
    thresholds_of(args.thresholds)
    if args.initial is not None and not named_start(args.initial):
        check_transforms(args.initial)
    folder = args.output.expanduser()
    if folder.is_file():
        raise InputError(f"output folder {folder}: is a file; name a folder")
    if not args.force:
        check_folder(folder, args.resume)
    elif not args.resume and args.initial is not None and not named_start(args.initial):
        check_no_inputs(results_in(folder), files_of(args.initial))


def _check_images(args: argparse.Namespace) -> None:
    from ..blockwise import BlockImage

    for role in ROLES:
        BlockImage(getattr(args, role), f"{role} image", getattr(args, f"{role}_channel"), quiet=True)
        mask = getattr(args, f"{role}_mask")
        if mask is not None:
            BlockImage(mask, f"{role} mask", quiet=True)


def run_blocks(args: argparse.Namespace) -> int:
    """Register in blocks and write the results."""
    from ..blockwise import register_blockwise

    console = console_of(args)
    arguments = {"fixed": args.fixed, "moving": args.moving, "initial": None, "preset": args.plan["preset"]}
    initial, config = start_of(args.initial, arguments, args.initial_formats)
    console.say(f"registering {args.moving} to {args.fixed} in blocks ...")
    result = register_blockwise(
        args.fixed,
        args.moving,
        args.output,
        block=args.blocks,
        preset=config,
        **{name: getattr(args, name) for name in ("fixed_channel", "moving_channel", "fixed_mask", "moving_mask")},
        initial=initial,
        landmarks=_landmarks(args),
        labels=args.plan.get("labels"),
        initial_basis=args.initial_basis,
        thresholds=thresholds_of(args.thresholds),
        seed=args.seed or 0,
        device=args.device,
        scheduler=args.scheduler,
        workers=args.workers or 1,
        threads=args.threads,
        resume=args.resume,
        force=args.force,
        progress=console.progress,
    )
    _write_report(result)
    for line in _lines(result):
        console.say(line)
    names = ("seconds", "affine", "jacobian", "inverse", "landmarks_mm", "label_dice", "tiles", "verdict", "warnings")
    values: dict[str, Any] = {name: result.summary[name] for name in names}
    return console.answer({**values, "folder": result.folder}, int(result.status == "FAIL"))


def _landmarks(args: argparse.Namespace) -> Any:
    """Files of landmarks, or their points if the files hold pixels; None without any."""
    from ..blockwise import BlockImage

    paths = args.plan.get("landmarks")
    if paths is None or not args.pixels:
        return paths
    fixed, moving = (
        BlockImage(getattr(args, role), f"{role} image", getattr(args, f"{role}_channel"), quiet=True).grid for role in ROLES
    )
    return read_landmarks(paths, (fixed, moving))


def _write_report(result: BlockwiseResult) -> None:
    """Write the report of the coarse registration, if matplotlib is installed."""
    if find_spec("matplotlib") is None:
        logger.warning("report.html is not written: it needs matplotlib; pip install matplotlib")
        return
    from ..report.html import write_report

    write_report(result.folder / "report.html", result.coarse)


def _lines(result: BlockwiseResult) -> list[str]:
    summary = result.summary
    tiles, jacobian, inverse = summary["tiles"], summary["jacobian"], summary["inverse"]
    lines = [f"{summary['seconds']:.1f} s, {tiles['registered']} of {tiles['count']} tiles with anatomy"]
    folding = f"{jacobian['folding_percent']:.4f} % folding"
    lines.append(f"Jacobian determinant {jacobian['min']:.3f} to {jacobian['max']:.3f}, {folding}")
    if inverse is not None:
        lines.append(f"inverse: {inverse['mean_residual_mm']:.2g} mm mean distance from the exact one")
    if summary["landmarks_mm"] is not None:
        lines.append(landmark_line(summary["landmarks_mm"]))
    if summary["label_dice"] is not None:
        lines.append(label_line(summary["label_dice"]))
    verdict = result.coarse.verdict
    lines += [] if verdict is None else ["of the coarse registration of the whole images:", *verdict_lines(verdict)]
    return [*lines, f"in {result.folder}: {', '.join(sorted(p.name for p in result.folder.iterdir()))}"]
