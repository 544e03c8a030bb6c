# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor tune``: search the parameters of a registration on cases whose answer is known."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import Console, console_of
from .inputs import check_device
from .parser import add_command, whole_number
from .settings import add_settings, settings_of

if TYPE_CHECKING:
    from ..registration import RegistrationConfig
    from ..tuning import Tuning

__all__ = ["add_parser", "check", "run"]

TEXT = """\
Search the parameters of a registration on validation cases, as the paper does: Bayesian optimization, then the five best,
by a Gaussian process that has seen all trials, five times again with other seeds; the best mean wins. A registration that
fails counts as no displacement.

CASES is a folder whose folders are cases:
  fixed.nii.gz, moving.nii.gz                what the registration gets, and where there are any
  fixed_mask.nii.gz, moving_mask.nii.gz      where the images count
  truth.nii.gz                               the displacement on the fixed grid, as ITK reads it; with mask.nii.gz there only
  fixed_landmarks.csv, moving_landmarks.csv  x,y,z in RAS mm, in the same order
  fixed_labels.nii.gz, moving_labels.nii.gz  label maps
A case needs one of the last three, or a case.json of a study that has a score of its own.

Searched are bending_weight, learning_rate_affine, learning_rate_dense (0.04 leaves the schedule as it is) and
  locor                           learning_rate_basis, kernel_sigma, num_basis
  locor, with basis=polynomial    kernel_sigma, degree
  srwcr                           spacing
  local_ncc                       kernel_size
  local_parzen_cr                 kernel_sigma, num_bins
  mutual_information, normalized_mutual_information, correlation_ratio
                                  num_bins, quantile

OUT is a folder. It gets preset.json, for --config of register, report.md with pictures, tuning.json with all numbers, and
study.db. Where nothing better than the settings to start from is found, there is no preset.json. The same command goes on
with a study that is there already."""

EXAMPLE = """\
monai-locor tune validation -o tuned --workers 2
monai-locor tune validation case1 case2 -o tuned_mind --similarity mind_ssc --preset fast --trials 30 --minutes 60
monai-locor tune validation -o narrow --parameters bending_weight,kernel_sigma --range kernel_sigma=0.5:2
monai-locor register fixed.nii.gz moving.nii.gz -o out --config tuned/preset.json"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "tune",
        run,
        check,
        usage="CASES [CASE ...] -o OUT",
        summary="search the best settings on cases with a known answer",
        text=TEXT,
        example=EXAMPLE,
    )
    parser.add_argument("folder", type=Path, metavar="CASES", help="folder of cases")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases (default: all)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="folder for the outputs")
    settings = parser.add_argument_group("settings to start from")
    add_settings(settings)
    settings.add_argument("--stages", metavar="PRESET", help="schedule of another preset, or file of settings")
    _add_search(parser.add_argument_group("search"))
    _add_machine(parser.add_argument_group("machine"))


def _add_search(group: argparse._ActionsContainer) -> None:
    group.add_argument("--trials", type=whole_number(1), default=100, metavar="N", help="in all (default: 100)")
    group.add_argument(
        "--minutes", type=_positive, metavar="N", help="begin no trial after so long; the repetitions come on top"
    )
    group.add_argument("--parameters", metavar="NAME,...", help="search only these (default: all of the measure)")
    group.add_argument(
        "--range", dest="ranges", action="append", default=[], metavar="NAME=LOW:HIGH", help="other bounds than the paper's"
    )
    group.add_argument(
        "--score",
        default="auto",
        metavar="NAME",
        help="what is minimized: study, tre, dice, relative (to no registration), auto: the first that all cases know "
        "(default: auto)",
    )
    group.add_argument(
        "--sampler", default="auto", metavar="NAME", help="hebo, gp, tpe, random, auto: hebo or else gp (default: auto)"
    )
    group.add_argument("--finalists", type=whole_number(1), default=5, metavar="N", help="run again (default: 5)")
    group.add_argument("--repeats", type=whole_number(1), default=5, metavar="N", help="how often (default: 5)")
    group.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="of all random numbers (default: 0)")


def _add_machine(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--workers",
        type=whole_number(0),
        default=1,
        metavar="N",
        help="processes, which share --threads; 0 for none (default: 1)",
    )
    group.add_argument("--device", metavar="NAME,...", help="cpu, cuda, cuda:1 ...; several are shared out among the workers")
    group.add_argument("--limit", type=_positive, metavar="SECONDS", help="a registration that takes longer has failed")


def check(args: argparse.Namespace) -> None:
    """Refuse cases, settings, parameters and names that cannot be."""
    from ..tuning import choose_score, find_cases, search_space
    from ..tuning.samplers import check_sampler

    check_sampler(args.sampler)
    check_device(args.device)
    search_space(_base(args), parameters=_parameters(args), ranges=_ranges(args.ranges))
    choose_score(find_cases(args.folder, args.cases), args.score)


def _parameters(args: argparse.Namespace) -> list[str] | None:
    return None if args.parameters is None else [name.strip() for name in args.parameters.split(",")]


def run(args: argparse.Namespace) -> int:
    """Search, and say what was found."""
    from ..tuning import find_cases, tune

    console = console_of(args)
    folders = [case.folder for case in find_cases(args.folder, args.cases)]
    try:
        found = tune(
            folders,
            args.output,
            base=_base(args),
            parameters=_parameters(args),
            ranges=_ranges(args.ranges),
            device=args.device if args.device is None else [name.strip() for name in args.device.split(",")],
            progress=console.progress,
            **{name: getattr(args, name) for name in ("trials", "minutes", "finalists", "repeats", "workers", "limit")},
            **{name: getattr(args, name) for name in ("score", "sampler", "seed")},
        )
    except KeyboardInterrupt:
        console.say(f"interrupted; the same command goes on with what is in {args.output}")
        return console.answer({"error": "interrupted", "folder": args.output}, console.interrupted)
    return _say(console, found)


def _base(args: argparse.Namespace) -> RegistrationConfig:
    import dataclasses

    from ..registration import RegistrationConfig

    base = settings_of(args)
    return base if args.stages is None else dataclasses.replace(base, stages=RegistrationConfig.of(args.stages).stages)


def _ranges(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    found = {}
    for word in words:
        name, _, bounds = word.partition("=")
        try:
            low, high = (float(number) for number in bounds.split(":"))
        except ValueError as error:
            raise InputError(f"--range {word}: give NAME=LOW:HIGH, as in kernel_sigma=0.5:2") from error
        found[name] = (low, high)
    return found


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def _say(console: Console, found: Tuning) -> int:
    score, best = found.objective.score.short, found.best
    values = {name: found.space.parameters[name].rounded(value) for name, value in best.trial.values.items()}
    cases = ", ".join(found.objective.before)
    console.say(f"{len(found.trials)} trials on {cases}; without registration {score} {found.objective.nothing:.4g}")
    base = found.base
    if base is not None:
        console.say(f"settings to start from: {score} {base.value:.4g}, one run")
    console.say(
        f"trial {best.trial.number}: {score} {best.mean:.4g} ± {best.deviation:.2g} in {len(best.scores)} repetitions, with"
    )
    for name, value in values.items():
        console.say(f"  {name} {value:g}")
    if found.preset is None:
        console.say(f"that is no better than the start ({score} {found.start:.4g}): no preset is written; keep your settings")
    console.say(f"in {found.folder}: {'' if found.preset is None else 'preset.json, '}report.md, tuning.json, study.db")
    return console.answer(
        {
            "folder": found.folder,
            "preset": found.preset,
            "score": found.objective.score.name,
            "without_registration": found.objective.nothing,
            "base": None if base is None else base.value,
            "trials": len(found.trials),
            "found": {"trial": best.trial.number, "parameters": values, "mean": best.mean, "deviation": best.deviation},
        }
    )
