# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``monai-locor cohort``: register many pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..roles import ROLES
from .arguments import add_thresholds
from .console import Console, console_of
from .derivatives import add_xfm, say_derivatives
from .inputs import check_device
from .parser import CommandHelp, add_command, positive_number, whole_number
from .settings import add_settings, read_object, settings_of

if TYPE_CHECKING:
    from ..cohort import Cohort

__all__ = ["add_machine", "add_parser", "check", "check_machine", "run"]

TEXT = """\
Register many pairs, each as register does it, on a Dask cluster: by default processes of this machine, one for each GPU or
core; with --scheduler, the workers of an existing cluster.

PAIRS is one of
  a CSV file             columns fixed and moving; optional: id, fixed_mask, moving_mask, fixed_labels,
                         moving_labels, initial (a transform); and what drives the registration:
                         fixed_landmarks, moving_landmarks, fixed_driving_labels, moving_driving_labels
  a JSON file            a datalist of MONAI with the same names, or the dataset.json of a Learn2Reg task
  a BIDS folder          with --fixed T1w --moving FLAIR: one pair for each session
Relative paths are relative to the folder of the file. All files are checked before the first registration.

The folder OUT receives
  pairs/ID/              outputs of register for each pair, once they are complete
  failed/ID.json         error and command line of each pair that failed or exceeded --timeout twice; others go on
  summary.csv            one row for each pair
  summary.html           the same with thumbnails, to sort and to filter; a single file
With --derivatives, the results are also written as a BIDS derivative dataset, see derivatives --help.

The same command continues after an interruption: finished pairs are skipped, failed ones are tried again. If the inputs or
settings of finished pairs have changed, it stops; --force registers these pairs again."""

EXAMPLE = """\
monai-locor cohort pairs.csv -o out --preset fast --workers 2
monai-locor cohort bids_folder -o out --fixed T1w --moving FLAIR --derivatives bids_folder/derivatives/monai_locor
monai-locor cohort AbdomenMRCT_dataset.json --section registration_val -o out --scheduler tcp://10.0.0.1:8786
monai-locor cohort pairs.csv -o out --slurm-script run_cohort.py"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "cohort",
        run,
        check,
        CommandHelp(
            usage="PAIRS -o OUT",
            summary="register many pairs, on this machine or a cluster",
            text=TEXT,
            example=EXAMPLE,
            codes="0 all pairs done with verdict PASS or WARN, 1 a pair failed or has verdict FAIL",
        ),
    )
    parser.add_argument("pairs", type=Path, metavar="PAIRS", help="CSV or JSON file, or BIDS folder")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="folder for the outputs")
    parser.add_argument("--force", action="store_true", help="register pairs again whose inputs or settings have changed")
    parser.add_argument("--outputs", metavar="NAME,...", help="outputs of each pair, see register --help")
    add_thresholds(parser)
    lists = parser.add_argument_group("list of pairs")
    lists.add_argument("--section", metavar="NAME", help="name of the list in a JSON file (default: the first known one)")
    for role in ROLES:
        text = f"{role} image of a BIDS folder: its suffix, with entities if necessary, as in acq-mprage_T1w"
        lists.add_argument(f"--{role}", metavar="NAME", help=text)
    bids = parser.add_argument_group("BIDS derivatives")
    text = "also write the results of this list there; with --force, replace those of other registrations"
    bids.add_argument("--derivatives", type=Path, metavar="DIR", help=text)
    add_xfm(bids)
    add_settings(parser.add_argument_group("settings"))
    machine = parser.add_argument_group("machine")
    add_machine(machine)
    text = "write a Python script that runs the cohort on SLURM with dask-jobqueue, and stop"
    machine.add_argument("--slurm-script", type=Path, metavar="FILE", help=text)


def add_machine(group: argparse._ActionsContainer) -> None:
    """``--scheduler``, ``--workers``, ``--timeout``, ``--device`` and ``--seed``."""
    group.add_argument("--scheduler", metavar="ADDRESS", help="existing Dask scheduler: tcp://HOST:PORT, or its JSON file")
    text = "worker processes on this machine, which share its CPU threads (default: one for each GPU, or core)"
    group.add_argument("--workers", type=whole_number(1), metavar="N", help=text)
    group.add_argument("--timeout", type=positive_number, metavar="SECONDS", help="time limit of a pair")
    group.add_argument("--device", metavar="NAME", help="device of all workers: cpu, cuda (default: a GPU each, or the CPU)")
    group.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="random seed of each pair (default: 0)")


def check_machine(args: argparse.Namespace) -> None:
    """Check the options of :func:`add_machine`.

    Raises:
        InputError: for invalid values and combinations.
    """
    check_device(args.device)
    if args.device is not None and "," in args.device:
        raise InputError(f"--device {args.device}: one device for all workers; leave it out to use all GPUs")
    if args.scheduler is not None and args.workers is not None:
        raise InputError(f"--workers {args.workers}: the cluster at {args.scheduler} has its own workers; leave it out")


def check(args: argparse.Namespace) -> None:
    """Check the list and the options; files are checked by :func:`monai_locor.cohort.run_cohort`."""
    from ..cohort import read_pairs
    from ..cohort.api import requested
    from ..cohort.scheduling import check_dask

    check_machine(args)
    if args.slurm_script is not None and args.slurm_script.exists() and not args.force:
        raise InputError(f"--slurm-script {args.slurm_script}: already exists; name another, or add --force to overwrite it")
    requested(**_settings(args))
    args.found = read_pairs(args.pairs, section=args.section, fixed=args.fixed, moving=args.moving)
    if args.derivatives is not None:
        _check_derivatives(args)
    check_dask()


def _check_derivatives(args: argparse.Namespace) -> None:
    """Check the names before the registrations."""
    from ..bids.dataset import DerivativeDataset
    from ..bids.derivatives import check_pair_names
    from ..bids.files import check_ending
    from ..bids.names import PairNames

    if args.slurm_script is not None:
        raise InputError(
            f"--derivatives {args.derivatives}: does not go into the script; run monai-locor derivatives when it has ended"
        )
    check_ending(f".{args.xfm}")
    DerivativeDataset(args.derivatives)
    check_pair_names((f"pair {pair.id}", PairNames.of(pair.fixed, pair.moving)) for pair in args.found)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the registrations."""
    return {
        "preset": settings_of(args).to_dict(),
        "outputs": None if args.outputs is None else [name.strip() for name in args.outputs.split(",")],
        "seed": args.seed,
        "thresholds": None if args.thresholds is None else read_object(args.thresholds.expanduser(), "--thresholds"),
    }


def run(args: argparse.Namespace) -> int:
    """Register all pairs, or write the script for SLURM."""
    console = console_of(args)
    common = {**_settings(args), "device": args.device, "timeout": args.timeout}
    if args.slurm_script is not None:
        return _write_script(console, args, common)
    from ..cohort import run_cohort

    own = {"scheduler": args.scheduler, "workers": args.workers, "threads": args.threads, "force": args.force}
    try:
        found = run_cohort(args.found, args.output, **common, **own, progress=console.progress)
    except KeyboardInterrupt:
        console.say(f"interrupted; run the same command again to continue in {args.output}")
        return console.answer({"error": "interrupted", "folder": args.output}, console.interrupted)
    _say(console, found)
    if args.derivatives is not None:
        _derive(console, args, found)
    values = {"folder": found.folder, "counts": found.counts, "skipped": found.skipped, "pairs": found.rows}
    return console.answer(values, int(bool({"FAIL", "failed"} & found.counts.keys())))


def _derive(console: Console, args: argparse.Namespace, found: Cohort) -> None:
    """Write the BIDS derivatives of the finished pairs."""
    from ..bids import write_derivatives
    from ..cohort.folder import CohortFolder

    done = [CohortFolder(found.folder).pair(row["id"]) for row in found.rows if row["state"] == "done"]
    say_derivatives(console, write_derivatives(done, args.derivatives, xfm=f".{args.xfm}", force=args.force))


def _write_script(console: Console, args: argparse.Namespace, common: dict[str, Any]) -> int:
    from ..cohort import check_pairs, slurm_script
    from ..io.paths import atomic_path

    check_pairs(args.found, progress=console.progress)
    names = {name: getattr(args, name) for name in ("section", "fixed", "moving") if getattr(args, name) is not None}
    pairs = {"source": args.pairs.expanduser().absolute(), **names}
    jobs = {} if args.workers is None else {"jobs": args.workers}
    text = slurm_script(pairs, {"output": args.output.expanduser().absolute(), **common}, **jobs)
    with atomic_path(args.slurm_script) as temporary:
        temporary.write_text(text, encoding="utf-8")
    console.say(f"{args.slurm_script}: edit the settings of the jobs, then run it with python")
    return console.answer({"script": args.slurm_script})


def _say(console: Console, found: Cohort) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.counts.items()))
    before = f"; {found.skipped} were finished before" if found.skipped else ""
    console.say(f"{len(found.rows)} pairs: {counts}{before}")
    for row in [row for row in found.rows if row["state"] == "failed"]:
        console.say(f"  failed {row['id']}: {row['error']}")
    console.say(f"in {found.folder}: summary.html, summary.csv, pairs/")
