# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Accuracy, time and memory of registrations of cases with a known answer.

Every case is registered with every tool, preset and seed, each in a fresh process (see `_measure.py`, `_ours.py` and, for other
tools, `_peers.py`), and scored from its output files (see `_score.py`). Prints a Markdown table of medians over the seeds, and
one that compares the tools over all cases. `--json FILE` keeps the numbers of every run, for `--resume` and `current.py`;
`--plot FILE` draws them.

    python benchmarks/registration.py FOLDER --presets default fast --seeds 0 1 2 --threads 2
    python benchmarks/registration.py FOLDER --tools all --threads 2 --json tools.json --resume --plot tools.png
    python benchmarks/registration.py FOLDER --tools monai_locor ours:mutual_information ours:mind_ssc --presets default
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _compare
import _peers
import _plot
import _plot_groups
import nibabel as nib
import numpy as np
from _measure import Measured, Spec, measure
from _ours import COST, OURS, TOOLS
from _peer import write_field
from _runs import Record, commit_of, source_hash
from _score import FORWARD, INVERSE, score
from _tables import medians, table
from loss import machine
from nibabel.filebasedimages import ImageFileError


@dataclass(frozen=True)
class Job:
    """One registration: folder of the case, preset as named on the command line, seed, tool.

    The tool is an entry of `_ours.TOOLS`, or of `_peers.PEERS`; the latter have no presets.
    """

    case: Path
    preset: str
    seed: int
    tool: str = OURS

    @property
    def label(self) -> str:
        """Name of the preset, or of its file, in the table."""
        return Path(self.preset).stem

    @property
    def key(self) -> dict[str, Any]:
        """What distinguishes it from other runs in a record."""
        return {"case": self.case.name, "tool": self.tool, "preset": self.label, "seed": self.seed}

    @property
    def folder(self) -> str:
        """Folder for its result."""
        name = self.tool.replace(":", "-")
        parts = [name, self.label] if self.tool != OURS else [self.label]
        return str(Path(self.case.name) / "-".join(filter(None, parts)) / str(self.seed))


def attempt(job: Job, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run and score one registration; a failure is described in `problem`."""
    run = job.key | {"problem": ""}
    out.mkdir(parents=True, exist_ok=True)
    for name in (FORWARD, INVERSE, COST):  # of an earlier run must not be scored
        (out / name).unlink(missing_ok=True)
    problem = (_run if job.tool in TOOLS else _run_peer)(job, out, options)
    if problem:
        return run | {"problem": " ".join(problem.split())}
    run = scored(run, lambda: _cost(out))
    return run if run["problem"] else scored(run, lambda: score(job.case, out))


def _cost(out: Path) -> dict[str, Any]:
    """Version of the tool, if it tells one, time and memory of a run."""
    told = json.loads((out / COST).read_text(encoding="utf-8"))
    version = {"version": told.pop("version")} if "version" in told else {}
    cost = Measured(**told)
    used = {"seconds": cost.seconds[0], "processor_seconds": cost.processor_seconds[0], "memory_mib": cost.bytes / 2**20}
    return version | used


def scored(run: Mapping[str, Any], scorer: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Add what a scorer finds to a run, or the problem if it cannot read the result."""
    try:
        return {**run, **scorer()}
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        return {**run, "problem": " ".join(f"not scored: {error}".split())}


def _run(job: Job, out: Path, options: argparse.Namespace) -> str:
    """Run one of `TOOLS`; return the problem."""
    told = {"preset": job.preset, "seed": job.seed, "threads": options.threads}
    arguments = {"tool": job.tool, "case": str(job.case), "out": str(out), "options": told}
    spec = Spec("_ours", "prepare", arguments, {"case": ""}, 0, options.threads, options.device, options.limit)
    return measure(spec).problem


def _run_peer(job: Job, out: Path, options: argparse.Namespace) -> str:
    """Run one of `_peers.PEERS`; return the problem."""
    files = {role: job.case / f"{role}.nii.gz" for role in ("fixed", "moving")}
    files |= {"forward": out / FORWARD, "inverse": out / INVERSE}
    try:
        dims = dims_of(job.case)
    except (OSError, EOFError, ImageFileError) as error:
        return f"fixed image not read: {error}"
    settings = {"seed": job.seed, "threads": options.threads, "limit": options.limit, "dims": dims}
    return _peers.run(job.tool, files, out / COST, settings, options.pythons.get(job.tool, sys.executable))


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Tools and presets alternate, so that other load on the machine affects all of them."""
    for case in options.cases:
        for seed in options.seeds:
            for tool in options.tools:
                for preset in options.presets if tool in TOOLS else [""]:
                    yield Job(case, preset, seed, tool)


def dims_of(case: Path) -> int:
    """Dimensions of the images of a case."""
    return min(3, len(nib.load(case / "fixed.nii.gz").shape))


def nothing(case: Path) -> dict[str, Any]:
    """Score of zero displacement; empty if the case cannot be scored, which its runs report."""
    fixed = case / "fixed.nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        try:
            shape = nib.load(fixed).shape[:3]
            write_field(Path(folder) / FORWARD, np.zeros((*shape, len(shape))), fixed)
            return score(case, Path(folder))
        except (OSError, EOFError, ValueError, ImageFileError):
            return {}


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Date, hardware and versions."""
    import monai

    import monai_locor

    found = machine(argparse.Namespace(device="cpu", threads=options.threads, repeats=1))
    found["processor"] = found.pop("device")
    del found["repeats"]
    if options.device.startswith("cuda"):
        found["device"] = machine(argparse.Namespace(**vars(options), repeats=1))["device"]
    found |= {"monai": monai.__version__, "monai_locor": monai_locor.__version__}
    folder = Path(monai_locor.__file__).parent
    commit = commit_of(folder)
    return found | {"source": source_hash(folder)} | ({"commit": commit} if commit else {})


def _text(path: Path) -> str | None:
    """Text of a settings file."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def command_line(about: str) -> argparse.ArgumentParser:
    """What to run with what."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path, help="folder of cases, each a folder with fixed.nii.gz and moving.nii.gz")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, by default all")
    parser.add_argument(
        "--tools", nargs="+", default=[OURS], metavar="TOOL", help=f"'all', 'measures', or of {', '.join(_all_tools())}"
    )
    parser.add_argument("--python", action="append", default=[], metavar="[TOOL=]PATH", help="interpreter of a tool, or of all")
    parser.add_argument(
        "--presets", nargs="+", default=["default", "fast"], metavar="PRESET", help=f"of {OURS}: names or files"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="time limit of a run, start included")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keeps the results: DIR/CASE/PRESET or TOOL/SEED")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    parser.add_argument("--resume", action="store_true", help="resume from the runs in the file of --json")
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line; `cases` become folders."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot of time against error, and one over all cases")
    options = parser.parse_args(arguments)
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    check(parser, options)
    return options


def _all_tools() -> list[str]:
    return [*TOOLS, *_peers.PEERS]


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check the options before hours of registrations; fill in tools, their interpreters and the folders of cases."""
    groups = {"all": _all_tools(), "measures": list(TOOLS)}
    options.tools = list(dict.fromkeys(tool for name in options.tools for tool in groups.get(name, [name])))
    if options.resume and not options.json:
        parser.error("--resume needs --json")
    unknown = [name for name in options.tools if name not in _all_tools()]
    if unknown:
        parser.error(f"no tool {' '.join(unknown)}; known are {', '.join(_all_tools())}")
    try:
        options.pythons = _pythons(options.python)
    except ValueError as error:
        parser.error(str(error))
    find_cases(parser, options)
    labels = [Job(Path(), preset, 0).label for preset in options.presets]
    if len(set(labels)) < len(labels) or len(set(options.seeds)) < len(options.seeds):
        parser.error("presets and seeds must differ, files of presets in their names")
    if set(labels) & {name.replace(":", "-") for name in _all_tools()}:
        parser.error("a file of a preset must not be named like a tool")


def find_cases(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make `options.cases` folders: those named, or all in `options.folder`."""
    found = sorted(path.parent.name for path in options.folder.glob("*/fixed.nii.gz"))
    unknown = [name for name in options.cases if name not in found]
    if unknown or not found:
        parser.error(f"{options.folder}: no case {' '.join(unknown)} there; a case is a folder with fixed.nii.gz")
    options.cases = [options.folder / name for name in options.cases or found]


def _pythons(words: Sequence[str]) -> dict[str, str]:
    """Interpreter of each peer, from ``PATH`` (all), ``TOOL=PATH`` or ``FAMILY=PATH`` such as ``ants=PATH``; the last one wins.

    Raises:
        ValueError: for an unknown tool.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        path = path if equals else name
        tools = [tool for tool in _peers.PEERS if not equals or tool == name or tool.startswith(f"{name}-")]
        if not tools:
            raise ValueError(f"--python {word}: no tool {name}; known are {', '.join(_peers.PEERS)}")
        found |= dict.fromkeys(tools, path)
    return found


def compare(record: Record, options: argparse.Namespace) -> dict[str, Any]:
    """Rows over all cases for every available measure: every tool compared with the first one."""
    reference = (options.tools[0], Job(Path(), options.presets[0], 0).label if options.tools[0] in TOOLS else "")
    found = {m.key: _compare.comparison(record.runs, record.content["nothing"], m, reference) for m in _compare.MEASURES}
    return {"reference": reference, "rows": {key: rows for key, rows in found.items() if len(rows) > 1}}


def report(record: Record, options: argparse.Namespace) -> None:
    """Print the tables and draw the pictures."""
    content = record.content
    print(versions_of(record) + "\n")
    print(table(medians(record.runs)))
    found = compare(record, options)
    shown = [m for m in _compare.MEASURES if m.key in found["rows"]]
    for measured in shown:
        print("\n" + _compare.table(found["rows"][measured.key], measured, found["reference"]))
    if options.plot:
        _plot.scatter(medians(record.runs), options.plot)
        middle = {m.heading: _compare.medians_by_method(record.runs, content["nothing"], m) for m in shown}
        _plot_groups.groups(middle, options.plot.with_stem(options.plot.stem + "-cases"))


def record_of(options: argparse.Namespace, summary: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Record:
    """The runs of the file of `--json`, or new ones; ends with a message if that file cannot be continued."""
    told = {f"preset {job.label}": _text(Path(job.preset)) for job in (Job(Path(), p, 0) for p in options.presets)}
    told |= {"threads": options.threads, "device": options.device}
    head = {"machine": about(options), "settings": told, "nothing": {}}
    try:
        return Record(options.json, head, options.resume, summary)
    except ValueError as error:
        sys.exit(f"error: {error}")


def versions_of(record: Record) -> str:
    """Machine and versions of the tools."""
    versions = dict.fromkeys(run["version"] for run in record.runs if "version" in run)
    return ", ".join([*(f"{name} {value}" for name, value in record.content["machine"].items()), *versions])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    record = record_of(options, lambda content: {"rows": medians(content["runs"])})
    with tempfile.TemporaryDirectory() as temporary:
        for job in jobs(options):
            if job.case.name not in record.content["nothing"]:
                record.content["nothing"][job.case.name] = nothing(job.case)
            if not record.has(**job.key):
                run = attempt(job, (options.output or Path(temporary)) / job.folder, options)
                record.add(run)
                print(table(medians([run])).splitlines()[-1], file=sys.stderr)
    record.content["comparison"] = compare(record, options)
    record.write()
    report(record, options)


if __name__ == "__main__":
    main()
