# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""All checks and measurements on a machine with a GPU, in nine minutes.

The parts (`_gpu_parts.py`) run in order of importance, in a process that is stopped when one takes too long. JSON and Markdown
are rewritten after every row, so results survive a failure. Missing packages are installed from `.gpu/wheels`, the cases are in
`.gpu/cases`; `make gpu-wheels gpu-cases` makes both on another machine.

    python3 benchmarks/gpu.py --output DIR
    python3 benchmarks/gpu.py --parts loss launches
    python benchmarks/gpu.py --device cpu --smoke      # does the script itself work?
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _gpu_setup
from _gpu_worker import Context, Row, Worker

if TYPE_CHECKING:
    from _gpu_parts import Part

TRAVELS = _gpu_setup.ROOT / ".gpu"
REFERENCE = [_gpu_setup.ROOT / "benchmarks" / f"gpu_reference_{n}.json" for n in (1, 2)]  # threads
LEAST = 5.0  # seconds that a part needs at least
RESERVE = 5.0  # seconds kept for the end


class Results:
    """All numbers so far, in two files that are always complete."""

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        device = "gpu" if machine["device"].startswith("cuda") else machine["device"]
        self.path = folder / f"{device}-{machine['date']}.json"
        self.content: dict[str, Any] = {"machine": machine, "parts": {}}

    def begin(self, part: Part) -> dict[str, Any]:
        """Return the list for the rows of a part."""
        return self.content["parts"].setdefault(part.name, {"rows": [], "problem": "", "skipped": "", "seconds": 0.0})

    def write(self) -> None:
        """Both files."""
        import _gpu_parts

        _replace(self.path, json.dumps(self.content, indent=1) + "\n")
        _replace(self.path.with_suffix(".md"), _gpu_parts.report(self.content))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(os.environ["OUT"]) if os.environ.get("OUT") else _gpu_setup.ROOT / "benchmarks" / "results"
    parser.add_argument("--output", type=Path, default=results, metavar="DIR", help="default: $OUT, else benchmarks/results")
    parser.add_argument("--budget-seconds", type=float, default=540, metavar="N", help="total time, including installation")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these, in this order")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes and few steps, to try the script itself")
    parser.add_argument("--cases", type=Path, default=TRAVELS / "cases", metavar="DIR", help="packed cases of gpu_cases.py")
    parser.add_argument("--wheels", type=Path, default=TRAVELS / "wheels", metavar="DIR")
    parser.add_argument("--site", type=Path, default=TRAVELS / "site", metavar="DIR", help="where the wheels are installed")
    parser.add_argument(
        "--reference", type=Path, nargs="+", default=REFERENCE, metavar="FILE", help="results of registration.py on a CPU"
    )
    parser.add_argument("--commit", default="", help="commit of the package, if git is not available")
    return parser.parse_args(arguments)


def stale(reference: Sequence[Path], source: str) -> str:
    """A note if the CPU references are from another state of the package; otherwise empty."""
    notes = []
    for path in reference:
        if not path.is_file():
            notes.append(f"{path.name} is not there")
            continue
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        if machine.get("source") != source:
            notes.append(
                f"{path.name} is of commit {machine.get('commit', 'unknown')}, source {machine.get('source', 'unknown')}"
            )
    return "; ".join(notes)


def chosen(names: Sequence[str] | None) -> list[Part]:
    """The parts named, or all.

    Raises:
        SystemExit: for an unknown name.
    """
    import _gpu_parts

    known = {part.name: part for part in _gpu_parts.PARTS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        sys.exit(f"error: no part {' '.join(unknown)}; known are {', '.join(known)}")
    return [known[name] for name in names or known]


def go_through(parts: Sequence[Part], options: argparse.Namespace, results: Results, ends: float, scratch: str) -> None:
    """Run all parts, each for its share of the time and what earlier parts left."""
    worker = Worker(_gpu_setup.environment(options.site), results.path.with_name("gpu.log"))
    told = {"device": options.device, "smoke": options.smoke, "scratch": scratch}
    told |= {"cases": str(options.cases), "reference": [str(path) for path in options.reference]}
    begin = time.monotonic()
    rate = (ends - begin) / sum(part.seconds for part in parts)
    due = begin
    try:
        for part in parts:
            due += part.seconds * rate
            found, start = results.begin(part), time.monotonic()
            if due - start < LEAST:
                found["skipped"] = "Skipped: no time left."
            else:
                context = Context(seconds=due - start, **told)
                found["problem"] = worker.run(part.call, context, lambda row, f=found: _take(row, f, results))
            found["seconds"] = round(time.monotonic() - start, 1)
            results.write()
            print(f"{part.name}: {found['seconds']:.0f} s {found['problem'] or found['skipped']}", file=sys.stderr)
    finally:
        worker.stop()


def _take(row: Row, found: dict[str, Any], results: Results) -> None:
    found["rows"].append(row)
    results.write()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line. The exit status is 1 when a check failed."""
    options = parse(arguments)
    ends = time.monotonic() + options.budget_seconds - RESERVE
    try:
        unmet = _gpu_setup.install(options.wheels, options.site)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    import _gpu_parts  # needs what was just installed

    parts = chosen(options.parts)
    machine = _gpu_setup.machine(options.device, options.commit) | ({"unmet": "; ".join(unmet)} if unmet else {})
    results = Results(options.output, machine)
    results.content["reference"] = stale(options.reference, machine["source"])
    results.write()
    with tempfile.TemporaryDirectory() as scratch:
        go_through(parts, options, results, ends, scratch)
    print(_gpu_parts.report(results.content))
    print(f"in {results.path} and {results.path.with_suffix('.md')}", file=sys.stderr)
    sys.exit(bool(_gpu_parts.counts(results.content["parts"].values())["failed"]))


if __name__ == "__main__":
    main()
