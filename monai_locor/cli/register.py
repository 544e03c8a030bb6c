# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor register``: align two images."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.paths import STATE_FOLDER, remove_state
from ..roles import ROLES
from .arguments import (
    add_channels,
    add_masks,
    add_thresholds,
    check_inputs,
    given_arguments,
    images_of,
    input_files,
    name_images,
    name_of,
    named_start,
    repeated_arguments,
    start_of,
    thresholds_of,
)
from .blocks import add_blocks, check_blocks, run_blocks, wants_blocks
from .carried import EXACT_MODES, Carried, add_interpolation, load_carried, mode_of
from .carried_checks import check_carried
from .console import Console, console_of, listed, write_json
from .inputs import check_device, check_file, check_image, check_transforms
from .landmarks import add_landmarks, read_landmarks, with_landmark_options
from .output_files import check_earlier, check_names, check_outputs, stem_of, suffix_of
from .parser import CommandHelp, add_command, add_device, add_from, add_output
from .registration_outputs import DEFAULT_OUTPUTS, OUTPUTS, chosen_outputs
from .result_text import dice_lines, label_dice, result_lines, result_values
from .settings import add_settings
from .termination import say_state
from .transforms import check_formats

if TYPE_CHECKING:
    from ..geometry import Grid
    from ..quality import Thresholds
    from ..registration import RegistrationResult

__all__ = ["add_parser", "check", "run"]

TEXT = """\
Align the moving image to the fixed image: an affine map, then a diffeomorphic deformation, in both directions at once.
The images may be of any modality, size, spacing, orientation and field of view; each keeps its own grid.

OUT is a folder. It receives run.json (inputs, settings, versions, timings, verdict) and the outputs named by --outputs, by
default {default}:
{outputs}
With --force, all outputs of an earlier run in OUT are removed before the first one is written."""

EXAMPLE = """\
monai-locor register flair.nii.gz t1.nii.gz -o out
monai-locor register mr.nii.gz ct_dicom_folder -o out --moving-labels ct_organs.nii.gz --fixed-mask body.nii.gz
monai-locor register fixed.nii.gz moving.nii.gz -o out --preset fast --similarity mind_ssc --set bending_weight=20
monai-locor register --fixed t1.nii.gz t2.nii.gz --moving flair.nii.gz ct.nii.gz --channel-weights 1 0.5 -o out
monai-locor register --from out/run.json -o again"""

CARRIED = {"image": "image", "labels": "label map", "points": "list of points"}


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    width = max(map(len, OUTPUTS)) + 2
    outputs = "\n".join(f"  {name:<{width}}{output.what} ({output.name})" for name, output in OUTPUTS.items())
    text = TEXT.format(default=", ".join(DEFAULT_OUTPUTS), outputs=outputs)
    parser = add_command(
        commands,
        "register",
        run,
        check,
        CommandHelp(
            usage="FIXED MOVING -o OUT",
            summary="align two images",
            text=text,
            example=EXAMPLE,
            codes="0 verdict PASS or WARN, 1 verdict FAIL",
        ),
    )
    parser.add_argument(
        "fixed", nargs="?", metavar="FIXED", help="fixed image: a file, a DICOM folder, or FOLDER/UID of one series in it"
    )
    parser.add_argument("moving", nargs="?", metavar="MOVING", help="moving image, likewise")
    add_output(parser, "folder for the outputs", "OUT")
    parser.add_argument("--outputs", metavar="NAME,...", help="outputs to write (see above), or all")
    parser.add_argument(
        "--from",
        dest="manifest",
        type=Path,
        metavar="RUN.JSON",
        help="repeat the registration of a run.json, changed by other options; --preset and --config replace all its settings",
    )
    text = f"save the state after each stage in OUT/{STATE_FOLDER}, and continue there if the same command was stopped before"
    parser.add_argument("--resume", action="store_true", help=text)
    add_thresholds(parser)
    add_settings(parser.add_argument_group("settings"))
    _add_images(parser.add_argument_group("images"))
    add_landmarks(parser.add_argument_group("landmarks, labels and surfaces"))
    _add_carried(parser.add_argument_group("also transform (each may be given several times)"))
    machine = parser.add_argument_group("machine")
    add_device(machine)
    add_blocks(machine)


def _add_images(group: argparse._ActionsContainer) -> None:
    for role in ROLES:
        text = f"several {role} images instead of {role.upper()}, resampled to the first: registered jointly, pair by pair"
        group.add_argument(f"--{role}", dest=f"{role}_images", nargs="+", metavar="IMAGE", help=text)
    text = "weight of each pair of --fixed and --moving (default: equal)"
    group.add_argument("--channel-weights", nargs="+", type=float, metavar="W", help=text)
    add_masks(group)
    add_channels(group)
    group.add_argument(
        "--initial",
        action="append",
        metavar="HOW",
        help="initial alignment: world (coordinates), center or centers (of the fields of view), moments (centers of mass), "
        "auto, or a transform, as -t of apply (default: auto)",
    )
    add_from(group, "--initial-from", "initial_formats")
    group.add_argument("--initial-basis", metavar="FILE", help="basis learned from another pair (.safetensors)")


def _add_carried(group: argparse._ActionsContainer) -> None:
    for role, other in (("moving", "fixed"), ("fixed", "moving")):
        for kind, what in CARRIED.items():
            text = f"{what} in {role} space, written on the {other} image" + ", all channels" * (kind == "image")
            group.add_argument(f"--{role}-{kind}", action="append", default=[], metavar="FILE", help=text)
    text = "points in .csv files are pixels of their image, x from the left, y from the top, counted from 0 (default: RAS mm)"
    group.add_argument("--pixels", action="store_true", help=text)
    add_interpolation(group, "; smooth is for label maps")


@dataclass(frozen=True)
class Plan:
    """Inputs and outputs of a registration, checked before it starts.

    Attributes:
        arguments: arguments of the registration, with files by name.
        folder: output folder.
        outputs: path of each output, by name.
        carried: other files to transform: ``(role of its space, kind, file, output)``.
        pictures: likewise the images themselves, if they are pictures, in their colors and size.
        flat: whether both images are pictures.
        pixels: whether points in .csv files are pixels of the images.
        earlier: outputs of an earlier run, to be removed.
    """

    arguments: Mapping[str, Any]
    folder: Path
    outputs: Mapping[str, Path]
    carried: tuple[tuple[str, str, str, Path], ...]
    pictures: tuple[tuple[str, str, str, Path], ...] = ()
    flat: bool = False
    pixels: bool = False
    earlier: tuple[Path, ...] = ()

    def load(self, mode: str | None, pictures: bool = False) -> list[tuple[Carried, str, Path]]:
        """Read and check the files of ``carried``, all channels of images: ``(content, role of its space, output)`` of each.

        Args:
            mode: interpolation; ``"smooth"`` reads images as label maps.
            pictures: read those of ``pictures`` instead.

        Raises:
            InputError: if a file cannot be read or transformed.
        """
        found, files = [], self.pictures if pictures else self.carried
        grids = {role: self.grids(role) for role in {role for role, *_ in files}}
        for role, kind, path, target in files:
            read_as = "labels" if kind == "image" and mode == "smooth" else kind
            fits = mode if read_as == "image" or mode in EXACT_MODES else None
            channel = "all" if read_as == "image" else None
            pixels_of = grids[role] if self.pixels and kind == "points" else None
            found.append((load_carried(path, read_as, role, channel, mode=fits, pixels_of=pixels_of), role, target))
            check_carried(found[-1][0], grids[role][1])
        return found

    def grids(self, role: str) -> tuple[Grid, Grid]:
        """The grids of the image of a role and of the other image, as in their files."""
        from ..io.grids import read_grid

        first, second = (read_grid(images_of(self.arguments[each])[0], f"{each} image") for each in (role, _other(role)))
        return first, second


def check(args: argparse.Namespace) -> None:
    """Check settings, inputs and outputs, and store the plan in ``args.plan``."""
    if wants_blocks(args):
        check_blocks(args)
        return
    name_images(args)
    arguments = repeated_arguments(args) if args.manifest else given_arguments(args)
    check_device(args.device)
    if args.initial is not None and not named_start(args.initial):
        check_transforms(args.initial)
        check_formats(args.initial_formats, len(args.initial), "--initial-from")
    elif args.initial_formats is not None:
        raise InputError(
            f"--initial-from {' '.join(args.initial_formats)}: is the format of a transform; name one with --initial"
        )
    thresholds_of(args.thresholds)
    args.plan = _plan(args, with_landmark_options(args, arguments))


def run(args: argparse.Namespace) -> int:
    """Register, write and judge."""
    if args.blocks is not None:
        return run_blocks(args)
    try:
        return _run(args)
    except KeyboardInterrupt:
        return say_state(console_of(args), args.plan.folder, args.resume)


def _run(args: argparse.Namespace) -> int:
    from .. import register
    from ..run_log import collecting

    console, plan = console_of(args), args.plan
    with collecting():  # warnings about the inputs are part of the run
        arguments = dict(plan.arguments)
        arguments["initial"], arguments["preset"] = start_of(args.initial, arguments, args.initial_formats)
        if args.pixels and args.landmarks is not None:
            arguments["landmarks"] = read_landmarks(arguments["landmarks"], plan.grids("fixed"))
        limits = thresholds_of(args.thresholds)
        carried = plan.load(mode_of(args.interpolation))
        named = (", ".join(map(name_of, images_of(arguments[role]))) for role in ("moving", "fixed"))
        console.say("registering {} to {} ...".format(*named))
        state = {"resume": plan.folder / STATE_FOLDER} if args.resume else {"keep_interrupted": True}
        result = register(**arguments, progress=console.progress, **state)
    result = _with_start(result, args)
    carried += plan.load(mode_of(args.interpolation), pictures=True)
    if limits is not None:
        result = _judged(result, arguments, limits)
    code = _finish(console, plan, result, carried, {name: arguments.get(name) for name in ("fixed_mask", "moving_mask")})
    if args.resume:
        remove_state(plan.folder)
    return code


def _with_start(result: RegistrationResult, args: argparse.Namespace) -> RegistrationResult:
    """The result, with the files of the initial transform for run.json if these alone describe it."""
    from ..registration.described import described_start

    if args.initial is None or named_start(args.initial) or args.initial_formats is not None:
        return result
    return dataclasses.replace(result, arguments={**result.arguments, "initial": described_start(args.initial)})


def _judged(result: RegistrationResult, arguments: Mapping[str, Any], limits: Thresholds) -> RegistrationResult:
    """The result, with the verdict of the given thresholds."""
    from ..registration.judging import judge

    masks = {name: arguments.get(name) for name in ("fixed_mask", "moving_mask")}
    fixed, moving = (images_of(arguments[role])[0] for role in ROLES)
    verdict = judge(result, fixed, moving, limits, **masks)
    return dataclasses.replace(result, verdict=verdict)


def _plan(args: argparse.Namespace, arguments: Mapping[str, Any]) -> Plan:
    """Build the plan and check that the inputs exist and the outputs can be written.

    Raises:
        InputError: if not.
    """
    folder: Path = args.output.expanduser()
    if folder.is_file():
        raise InputError(f"output folder {folder}: is a file; name a folder")
    several = any(len(images_of(arguments[role])) > 1 for role in ROLES)
    outputs = {name: folder / OUTPUTS[name].name for name in chosen_outputs(args.outputs, arguments["preset"], several)}
    check_inputs(arguments)
    flat = all(_is_flat_picture(images_of(arguments[role])[0]) for role in ROLES)
    pictures = _take_pictures(outputs, arguments) if flat else []
    wanted = [
        (role, kind, path) for role in ("moving", "fixed") for kind in CARRIED for path in getattr(args, f"{role}_{kind}")
    ]
    for role, kind, path in wanted:
        (check_file if kind == "points" else check_image)(path, f"{role} {kind}")
    targets = [folder / f"{stem_of(path)}_on_{_other(role)}{_suffix(kind, path, flat)}" for role, kind, path in wanted]
    check_names(targets, [path for *_, path in wanted])
    files = [file for name, path in outputs.items() for file in OUTPUTS[name].files(path)]
    files += [target for *_, target in pictures]
    resumed = args.resume and (folder / STATE_FOLDER).is_dir()  # the outputs of the killed command, if any, are written again
    inputs = [
        *input_files(args, arguments),
        *(args.landmarks or ()),
        *(args.labels or ()),
        *(path for pair in args.surfaces or () for path in pair),
        *(p for *_, p in wanted),
    ]
    files = [*files, *targets, folder / "run.json"]
    check_outputs(files, args.force or resumed, inputs)
    earlier = check_earlier(folder, files, args.force or resumed, inputs)
    carried = [(*what, target) for what, target in zip(wanted, targets, strict=True)]
    return Plan(arguments, folder, outputs, tuple(carried), tuple(pictures), flat, args.pixels, tuple(earlier))


def _other(role: str) -> str:
    return "fixed" if role == "moving" else "moving"


def _take_pictures(outputs: dict[str, Path], arguments: Mapping[str, Any]) -> list[tuple[str, str, str, Path]]:
    """Take the warped images from the outputs, to be written in the format of the images."""
    found = []
    for role, name in (("moving", "warped"), ("fixed", "warped-fixed")):
        if name in outputs:
            file = name_of(images_of(arguments[role])[0])
            target = outputs.pop(name)
            found.append((role, "image", file, target.with_name(stem_of(target) + suffix_of(file))))
    return found


def _is_flat_picture(path: str | PathLike[str]) -> bool:
    """Whether an image is a picture file of one plane."""
    from ..io.grids import read_grid
    from ..io.paths import is_picture

    return is_picture(path) and read_grid(path).dims == 2


def _suffix(kind: str, path: str, pictures: bool) -> str:
    """Suffix of a transformed file: that of the file for points, and for pictures that go with pictures."""
    from ..io.paths import is_picture

    return suffix_of(path) if kind == "points" or (pictures and is_picture(path)) else ".nii.gz"


def _finish(
    console: Console,
    plan: Plan,
    result: RegistrationResult,
    loaded: list[tuple[Carried, str, Path]],
    masks: dict[str, Any],
) -> int:
    """Write all outputs and print the result."""
    from ..io.earlier_outputs import remove_outputs

    remove_outputs(plan.earlier)
    data = {name: path for name, path in plan.outputs.items() if name != "report"}
    written: dict[str, Any] = {name: OUTPUTS[name].write(result, path) for name, path in data.items()}
    carried = _carry(loaded, result, plan)
    written["run"] = [_manifest(result, plan.folder / "run.json", carried)]  # last, so its presence means a complete run
    labels = {f"{s}_labels": [c.content for c, role, _ in loaded if c.kind == "labels" and role == s] for s in ROLES}
    dice = label_dice(result, labels)
    values = {**result_values(result), **({"dice": dice} if dice else {})}
    for line in [*result_lines(values, result.verdict), *dice_lines(dice)]:
        console.say(line)
    if "report" in plan.outputs:
        written["report"] = OUTPUTS["report"].write(result, plan.outputs["report"], **masks, **labels)
    files = [*(p for paths in written.values() for p in paths), *(t for *_, t in (*plan.carried, *plan.pictures))]
    console.say(f"in {plan.folder}: {listed(files, plan.folder)}")
    failed = result.verdict is not None and result.verdict.status == "FAIL"
    code = console.interrupted if result.interrupted else int(failed)
    return console.answer({**values, "folder": plan.folder, "outputs": written, "carried": carried}, code)


def _manifest(result: RegistrationResult, path: Path, carried: list[dict[str, Any]]) -> Path:
    """Write run.json, with the other transformed files for a later report."""
    from ..io.stored_files import stored_place
    from ..registration.manifest import sha256

    files = [each["input"] for each in carried]
    known = [{"input": file.absolute(), "sha256": sha256(stored_place(file))} for file in files]
    carried = [{**each, **more} for each, more in zip(carried, known, strict=True)]
    return write_json(path, {**result.summary(), "carried": carried})


def _carry(loaded: list[tuple[Carried, str, Path]], result: RegistrationResult, plan: Plan) -> list[dict[str, Any]]:
    """Transform images of moving space to the fixed grid and its points by the inverse; files of fixed space vice versa."""
    from ..geometry import SpatialTransform

    if not loaded:
        return []
    inverse = (result.inverse_mm, result.moving_grid)
    forward = SpatialTransform.of_field(result.forward_mm, result.fixed_grid, inverse)
    done = []
    for carried, role, target in loaded:
        moves_points = carried.kind == "points"
        transform = forward if (role == "moving") != moves_points else forward.inverse()
        grid = result.fixed_grid if role == "moving" else result.moving_grid
        own = result.moving_grid if role == "moving" else result.fixed_grid
        if plan.flat:  # the result of large pictures lies on smaller grids
            own, grid = plan.grids(role)
        moved = carried.beside(own).through(transform, None if moves_points else grid, target)
        done.append({**moved, "space": role})
    return done
