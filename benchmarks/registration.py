# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Accuracy, time and memory of registrations of cases whose answer is known.

Every case is registered with every tool, preset and seed, each in a fresh process (see `_measure.py` and, for the tools of
others, `_peers.py`), and scored from the files that this wrote (see `_score.py`). Prints a Markdown table; `--json FILE`
keeps the numbers of every run, `--plot FILE` draws them.

    python benchmarks/registration.py FOLDER --presets default fast --seeds 0 1 2 --threads 2
    python benchmarks/registration.py FOLDER --tools all --threads 2 --plot tools.png
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _peers
import _plot
from _measure import Measured, Spec, _reset_peak, _status, measure
from _score import FORWARD, INVERSE, score
from loss import machine
from nibabel.filebasedimages import ImageFileError

COST = "cost.json"
OURS = "monai_locor"
COLUMNS = (  # heading, key of a run, format
    ("TRE before, mm", "tre_before_mm", ".2f"),
    ("TRE mean, mm", "tre_mm", ".3f"),
    ("TRE 95 %, mm", "tre_p95_mm", ".3f"),
    ("Dice before", "dice_before", ".3f"),
    ("Dice", "dice", ".3f"),
    ("folding, voxels", "folding_voxels", "g"),
    ("inverse 95 %, voxels", "inverse_p95_vox", ".3f"),
    ("seconds", "seconds", ".1f"),
    ("CPU seconds", "processor_seconds", ".1f"),
    ("peak, MiB", "memory_mib", ".0f"),
)


@dataclass(frozen=True)
class Job:
    """One registration: the case's folder, a preset as it was named on the command line, a seed, a tool.

    The tool is an entry of `TOOLS`, or of `_peers.PEERS`; the latter have no presets.
    """

    case: Path
    preset: str
    seed: int
    tool: str = OURS

    @property
    def label(self) -> str:
        """The preset in the table: its name, or that of its file."""
        return Path(self.preset).stem


def ours(case: Path, out: Path, options: Mapping[str, Any]) -> Measured:
    """`register`, after a tiny pair that takes the imports and the start of the thread pools out of the measurement."""
    import torch

    from monai_locor import register

    tiny = {"stages": [{"factor": 1, "iterations": 1}, {"factor": 1, "iterations": 1, "spacing": 8}]}
    register(*torch.rand(2, 1, 12, 12, 12), preset=tiny, device=options["device"], progress=False)
    arguments = {name: options[name] for name in ("preset", "seed", "device")}
    names = (case / f"{role}.nii.gz" for role in ("fixed", "moving"))
    result, cost = _cost(lambda: register(*names, **arguments, progress=False), options["device"])
    if options.get("save", True):
        result.save(out)
    return cost


# A tool with presets, of this interpreter, runs in a process of its own. It gets the folder of the case (of which it may read
# the two images only), the folder for its result and the options preset, seed, threads and device; it leaves the fields there,
# as `_score.py` reads them, and returns the cost of the registration itself. It raises what goes wrong; the last line of that
# is the row. All other tools are in `_peers.py`.
TOOLS: dict[str, Callable[[Path, Path, Mapping[str, Any]], Measured]] = {OURS: ours}


def _cost(function: Callable[[], Any], device: str) -> tuple[Any, Measured]:
    """What a function returns, and its time and memory above what the process holds before it, as `_measure.py` has them."""
    import torch

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        base = torch.cuda.memory_allocated(device)
    else:
        known = _reset_peak()
        base = _status("VmRSS")
    start, processor_start = time.perf_counter(), time.process_time()
    result = function()
    if cuda:
        torch.cuda.synchronize(device)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    if cuda:
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = _status("VmHWM") if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result, Measured((seconds,), (processor_seconds,), peak - base)


def prepare(device: str, tool: str, case: str, out: str, options: Mapping[str, Any]) -> Callable[[], None]:
    """What `_measure.py` calls in the fresh process; without a case (its tiny instance) there is nothing to do."""

    def step() -> None:
        if case:
            cost = TOOLS[tool](Path(case), Path(out), {**options, "device": device})
            (Path(out) / COST).write_text(json.dumps(asdict(cost)), encoding="utf-8")

    return step


def attempt(job: Job, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run and score one registration; what went wrong, if anything, is its `problem`."""
    run = {"case": job.case.name, "tool": job.tool, "preset": job.label, "seed": job.seed, "problem": ""}
    out.mkdir(parents=True, exist_ok=True)
    for name in (FORWARD, INVERSE, COST):  # of an earlier run must not be scored
        (out / name).unlink(missing_ok=True)
    problem = (_run if job.tool in TOOLS else _run_peer)(job, out, options)
    if problem:
        return run | {"problem": " ".join(problem.split())}
    try:
        told = json.loads((out / COST).read_text(encoding="utf-8"))
        run |= {"version": told.pop("version")} if "version" in told else {}
        cost = Measured(**told)
        run |= {"seconds": cost.seconds[0], "processor_seconds": cost.processor_seconds[0], "memory_mib": cost.bytes / 2**20}
        return run | score(job.case, out)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        return run | {"problem": " ".join(f"not scored: {error}".split())}


def _run(job: Job, out: Path, options: argparse.Namespace) -> str:
    """One of `TOOLS`; what went wrong."""
    told = {"preset": job.preset, "seed": job.seed, "threads": options.threads}
    arguments = {"tool": job.tool, "case": str(job.case), "out": str(out), "options": told}
    spec = Spec("registration", "prepare", arguments, {"case": ""}, 0, options.threads, options.device, options.limit)
    return measure(spec).problem


def _run_peer(job: Job, out: Path, options: argparse.Namespace) -> str:
    """One of `_peers.PEERS`; what went wrong."""
    files = {role: job.case / f"{role}.nii.gz" for role in ("fixed", "moving")}
    files |= {"forward": out / FORWARD, "inverse": out / INVERSE}
    settings = {"seed": job.seed, "threads": options.threads, "limit": options.limit}
    return _peers.run(job.tool, files, out / COST, settings, options.pythons.get(job.tool, sys.executable))


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Tools and presets alternate, so that what else the machine does is shared out among them."""
    for case in options.cases:
        for seed in options.seeds:
            for tool in options.tools:
                for preset in options.presets if tool in TOOLS else [""]:
                    yield Job(case, preset, seed, tool)


def medians(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each case, tool and preset, the median of every number over the runs; a failed run is a row of its own."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["case"], run["tool"], run["preset"]), []).append(run)
    rows = []
    for (case, tool, preset), members in groups.items():
        name = {"case": case, "tool": tool, "preset": preset}
        good = [run for run in members if not run["problem"]]
        if good:
            keys = [key for _, key, _ in COLUMNS if all(key in run for run in good)]
            middle = {key: statistics.median(run[key] for run in good) for key in keys}
            rows.append(name | {"seeds": [run["seed"] for run in good], "problem": ""} | middle)
        rows += [name | {"seeds": [run["seed"]], "problem": run["problem"]} for run in members if run["problem"]]
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; an empty cell is a measure that the case does not allow."""
    lines = [["case", "tool", "preset", "seeds", *(heading for heading, _, _ in COLUMNS)], ["---"] * (4 + len(COLUMNS))]
    for row in rows:
        cells = [format(row[key], style) if key in row else "" for _, key, style in COLUMNS]
        if row["problem"]:
            failed = "" if row["problem"].startswith(_peers.MISSING) else "failed: "
            cells = [failed + row["problem"].replace("|", "\\|"), *[""] * (len(COLUMNS) - 1)]
        lines.append([row["case"], row["tool"], row["preset"], " ".join(map(str, row["seeds"])), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """When, where, with what."""
    import monai

    import monai_locor

    found = machine(argparse.Namespace(device="cpu", threads=options.threads, repeats=1))
    found["processor"] = found.pop("device")
    del found["repeats"]
    if options.device.startswith("cuda"):
        found["device"] = machine(argparse.Namespace(**vars(options), repeats=1))["device"]
    found |= {"monai": monai.__version__, "monai_locor": monai_locor.__version__}
    commit = _commit(Path(monai_locor.__file__).parent)
    return found | ({"commit": commit} if commit else {})


def _commit(folder: Path) -> str:
    """Short hash of the commit checked out, with "-dirty" when files differ from it; nothing outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _text(path: Path) -> str | None:
    """A file of settings as it is now."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line; `cases` become folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="each case is a folder in it with fixed.nii.gz and moving.nii.gz")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, by default all")
    parser.add_argument("--tools", nargs="+", default=[OURS], metavar="TOOL", help=f"'all', or of {', '.join(_all_tools())}")
    parser.add_argument("--python", action="append", default=[], metavar="[TOOL=]PATH", help="interpreter of a tool, or of all")
    parser.add_argument(
        "--presets", nargs="+", default=["default", "fast"], metavar="PRESET", help=f"of {OURS}: names or files"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="a run may take, the start included")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keeps the results: DIR/CASE/PRESET or TOOL/SEED")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture of time against error")
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _all_tools() -> list[str]:
    return [*TOOLS, *_peers.PEERS]


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what cannot be, before hours of registrations; fill in tools, their interpreters and the folders of cases."""
    options.tools = list(dict.fromkeys(_all_tools() if options.tools == ["all"] else options.tools))
    unknown = [name for name in options.tools if name not in _all_tools()]
    if unknown:
        parser.error(f"no tool {' '.join(unknown)}; known are {', '.join(_all_tools())}")
    try:
        options.pythons = _pythons(options.python)
    except ValueError as error:
        parser.error(str(error))
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    find_cases(parser, options)
    labels = [Job(Path(), preset, 0).label for preset in options.presets]
    if len(set(labels)) < len(labels) or len(set(options.seeds)) < len(options.seeds):
        parser.error("presets and seeds must differ, files of presets in their names")
    if set(labels) & set(_peers.PEERS):
        parser.error("a file of a preset must not be named like a tool")


def find_cases(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Make `options.cases` folders: those named, or all in `options.folder`."""
    found = sorted(path.parent.name for path in options.folder.glob("*/fixed.nii.gz"))
    unknown = [name for name in options.cases if name not in found]
    if unknown or not found:
        parser.error(f"{options.folder}: no case {' '.join(unknown)} there; a case is a folder with fixed.nii.gz")
    options.cases = [options.folder / name for name in options.cases or found]


def _pythons(words: Sequence[str]) -> dict[str, str]:
    """Interpreter of each peer, from ``PATH`` (all), ``TOOL=PATH`` or ``FAMILY=PATH``, where ants is one; the last one wins.

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    content: dict[str, Any] = {
        "machine": about(options),
        "presets": {p: _text(Path(p)) for p in options.presets},
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        for job in jobs(options):
            out = (options.output or Path(temporary)) / job.case.name / (job.label or job.tool) / str(job.seed)
            run = attempt(job, out, options)
            content["runs"].append(run)
            print(table(medians([run])).splitlines()[-1], file=sys.stderr)
            if options.json:  # after every run: there may be hours of them
                content["rows"] = medians(content["runs"])
                options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    versions = dict.fromkeys(run["version"] for run in content["runs"] if "version" in run)
    print(", ".join([*(f"{name} {value}" for name, value in content["machine"].items()), *versions]) + "\n")
    rows = medians(content["runs"])
    print(table(rows))
    if options.plot:
        _plot.scatter(rows, options.plot)


if __name__ == "__main__":
    main()
