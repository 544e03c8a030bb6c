# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor tune``: tune registration parameters on validation cases."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import Console, console_of
from .inputs import check_device
from .parser import CommandHelp, add_command, positive_number, whole_number
from .settings import add_settings, settings_of

if TYPE_CHECKING:
    from ..registration import RegistrationConfig
    from ..tuning import Tuning

__all__ = ["add_parser", "check", "run"]

TEXT = """\
Tune registration parameters on validation cases, as in the paper: Bayesian optimization, then five repetitions, with
other seeds, of the five trials that a Gaussian process predicts to be best. The best mean score wins. A failed
registration scores as zero displacement.

CASES is a folder with one subfolder per case:
  fixed.nii.gz, moving.nii.gz                the images
  fixed_mask.nii.gz, moving_mask.nii.gz      masks (optional)
  truth.nii.gz                               true displacement on the fixed grid, as ITK reads it; inside mask.nii.gz, if any
  fixed_landmarks.csv, moving_landmarks.csv  x,y,z in RAS mm, in the same order
  fixed_labels.nii.gz, moving_labels.nii.gz  label maps
A case needs one of the last three references, or a case.json of a study with its own score.

The search covers bending_weight, learning_rate_affine, learning_rate_dense (0.04 keeps the schedule unchanged) and
  locor                           learning_rate_basis, kernel_sigma, num_basis
  locor, with basis=polynomial    kernel_sigma, degree
  srwcr                           spacing
  local_ncc                       kernel_size
  local_parzen_cr                 kernel_sigma, num_bins
  mutual_information, normalized_mutual_information, correlation_ratio
                                  num_bins, quantile

The folder OUT gets preset.json (for register --config), report.md with figures, tuning.json with all numbers, and
study.db. If the search does not improve on the base settings, preset.json is not written. Running the same command again
resumes an existing study."""

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
        CommandHelp(
            usage="CASES [CASE ...] -o OUT", summary="tune the settings on validation cases", text=TEXT, example=EXAMPLE
        ),
    )
    parser.add_argument("folder", type=Path, metavar="CASES", help="folder of cases")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases (default: all)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="folder for the outputs")
    settings = parser.add_argument_group("base settings")
    add_settings(settings)
    settings.add_argument("--stages", metavar="PRESET", help="use the schedule of another preset or settings file")
    _add_search(parser.add_argument_group("search"))
    _add_machine(parser.add_argument_group("machine"))


def _add_search(group: argparse._ActionsContainer) -> None:
    group.add_argument("--trials", type=whole_number(1), default=100, metavar="N", help="total number of trials (default: 100)")
    group.add_argument(
        "--minutes", type=positive_number, metavar="N", help="start no trial after N minutes; the repetitions run in addition"
    )
    group.add_argument("--parameters", metavar="NAME,...", help="parameters to search (default: all of the measure)")
    group.add_argument(
        "--range",
        dest="ranges",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH",
        help="bounds that replace those of the paper",
    )
    group.add_argument(
        "--score",
        default="auto",
        metavar="NAME",
        help="score to minimize: study, tre, dice, relative (to no registration), auto: the first one available for all "
        "cases (default: auto)",
    )
    group.add_argument(
        "--sampler",
        default="auto",
        metavar="NAME",
        help="hebo, gp, tpe, random, auto: hebo or else gp (default: auto)",
    )
    group.add_argument("--finalists", type=whole_number(1), default=5, metavar="N", help="trials to repeat (default: 5)")
    group.add_argument("--repeats", type=whole_number(1), default=5, metavar="N", help="repetitions of each (default: 5)")
    group.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="random seed (default: 0)")


def _add_machine(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--workers",
        type=whole_number(0),
        default=1,
        metavar="N",
        help="worker processes, which share --threads; 0 runs in this process (default: 1)",
    )
    group.add_argument("--device", metavar="NAME,...", help="cpu, cuda, cuda:1 ...; several are distributed over the workers")
    group.add_argument("--limit", type=positive_number, metavar="SECONDS", help="time limit of one registration")


def check(args: argparse.Namespace) -> None:
    """Check cases, settings, parameters and names."""
    from ..tuning import choose_score, find_cases, search_space
    from ..tuning.samplers import check_sampler

    check_sampler(args.sampler)
    check_device(args.device)
    search_space(_base(args), parameters=_parameters(args), ranges=_ranges(args.ranges))
    choose_score(find_cases(args.folder, args.cases), args.score)


def _parameters(args: argparse.Namespace) -> list[str] | None:
    return None if args.parameters is None else [name.strip() for name in args.parameters.split(",")]


def run(args: argparse.Namespace) -> int:
    """Run the search and print the result."""
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
        console.say(f"interrupted; run the same command again to resume the search in {args.output}")
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


def _say(console: Console, found: Tuning) -> int:
    score, best = found.objective.score.short, found.best
    values = {name: found.space.parameters[name].rounded(value) for name, value in best.trial.values.items()}
    cases = ", ".join(found.objective.before)
    console.say(f"{len(found.trials)} trials on {cases}; without registration {score} {found.objective.nothing:.4g}")
    base = found.base
    if base is not None:
        console.say(f"base settings: {score} {base.value:.4g}, one run")
    console.say(
        f"trial {best.trial.number}: {score} {best.mean:.4g} ± {best.deviation:.2g} in {len(best.scores)} repetitions, with"
    )
    for name, value in values.items():
        console.say(f"  {name} {value:g}")
    if found.preset is None:
        console.say(f"no improvement on {score} {found.start:.4g}: no preset is written; keep your settings")
    console.say(f"written to {found.folder}: {'' if found.preset is None else 'preset.json, '}report.md, tuning.json, study.db")
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
