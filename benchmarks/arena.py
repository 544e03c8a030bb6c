# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Every case with every installed tool: stored runs, and a page that compares the tools on each kind of cases.

Tools, their settings, cases and the choice of `--quick` are in `arena_settings.json`, whose hash every stored run holds. The
command may be interrupted and repeated: it adds the missing runs, and writes the page of those that there are.

    python benchmarks/arena.py CASES --histology DATA/histology --python PEERS/bin/python            # over night, two cores
    python benchmarks/arena.py CASES --histology DATA/histology --python PEERS/bin/python --quick    # about 15 minutes
    python benchmarks/arena.py                                                                       # the page only
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import _histology
import nibabel as nib
from _arena_page import page, picture_name, with_summary
from _arena_pictures import draw
from _arena_records import NOTHING, SETTINGS, Runs, cases_of, freeze, hash_of, key_of, kind_of, read_settings
from _arena_statistics import error_left
from _compare import is_missing, name_of
from _ours import TOOLS
from registration import Job, _pythons, about, attempt, nothing

RECORDS = Path(__file__).parent / "results" / "arena.jsonl"
README = Path(__file__).parents[1] / "README.md"
POLL_SECONDS = 0.2


def jobs(settings: Mapping[str, Any], folder: Path, quick: bool) -> list[Job]:
    """The runs in their order.

    All methods of a case follow each other, so that runs that are interrupted compare all methods on some cases. The full
    arena completes one seed before the next.
    """
    found = [case for case in cases_of(settings) if (folder / case / "fixed.nii.gz").exists()]
    methods = settings["methods"]
    if quick:
        found = quick_cases(settings, folder, found)
        names = settings["quick"]["methods"]
        methods = sorted((m for m in methods if _name(m) in names), key=lambda m: names.index(_name(m)))
    seeds = settings["quick"]["seeds"] if quick else sorted({seed for method in methods for seed in method["seeds"]})
    return [
        job
        for seed in seeds
        for case in found
        for method in methods
        if seed in method["seeds"] and kind_of(settings, case) not in method.get("not_for", ())
        for job in (Job(folder / case, method["preset"], seed, method["tool"]),)
    ]


def _name(method: Mapping[str, Any]) -> str:
    return name_of((method["tool"], method["preset"]))


def quick_cases(settings: Mapping[str, Any], folder: Path, found: Sequence[str]) -> list[str]:
    """Of every kind the cases with the fewest voxels of the fixed image, in the order of the kinds."""
    chosen = []
    for name in settings["kinds"]:
        own = [case for case in cases_of(settings, [name]) if case in found]
        voxels = {case: _voxels(folder / case / "fixed.nii.gz") for case in own}
        chosen += sorted(own, key=lambda case: voxels[case])[: settings["quick"]["cases_per_kind"]]
    return chosen


def _voxels(path: Path) -> int:
    count = 1
    for size in nib.load(path).shape:
        count *= size
    return count


class Arena:
    """Runs jobs in threads, each job in a process of its own, and stores what they find.

    Args:
        settings: frozen.
        runs: what there is; new runs are added.
        options: of the command line.
    """

    def __init__(self, settings: Mapping[str, Any], runs: Runs, options: argparse.Namespace) -> None:
        self.settings, self.runs, self.options = settings, runs, options
        self.machine = about(options)
        self.lock, self.case_lock, self.stopped = threading.Lock(), threading.Lock(), threading.Event()
        self.missing: set[str] = set()
        self.start = time.monotonic()

    def run(self, waiting: Sequence[Job], seconds: float) -> None:
        """Run what is missing; after some seconds no further run is started."""
        todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in waiting:
            if not self.is_done(job):
                todo.put(job)
        threads = [
            threading.Thread(target=self._work, args=(todo, seconds), daemon=True) for _ in range(self.settings["workers"])
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                time.sleep(POLL_SECONDS)
        finally:
            self.stopped.set()
            for pid in _children():
                _end(pid)

    def is_done(self, job: Job) -> bool:
        """Return whether there is such a run; of this package, of its present code; with `--retry`, one without a problem."""
        found = self.runs.by_key.get((job.case.name, job.tool, job.preset, job.seed))
        if found is None or (found["problem"] and self.options.retry):
            return False
        return job.tool not in TOOLS or found.get("source") == self.machine["source"]

    def _work(self, todo: queue.SimpleQueue[Job], seconds: float) -> None:
        while not self.stopped.is_set() and time.monotonic() - self.start < seconds:
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            if job.tool not in self.missing:
                with self.case_lock:  # what the runs of the case are compared with
                    if job.case.name not in self.runs.nothing:
                        self._one(Job(job.case, "", 0, NOTHING), job.case)
                with tempfile.TemporaryDirectory() as folder:
                    self._one(job, Path(folder))

    def _one(self, job: Job, out: Path) -> None:
        """Run, score, draw and store one job."""
        run: dict[str, Any] = {"case": job.case.name, "tool": job.tool, "preset": job.preset, "seed": job.seed, "problem": ""}
        try:
            run |= nothing(job.case) if job.tool == NOTHING else attempt(job, out, self.options)
        except Exception as error:  # of a scorer, on output that nobody foresaw
            run["problem"] = f"not scored: {' '.join(str(error).split())}"
        with self.lock:
            if self.stopped.is_set():  # it was ended, and has not failed
                return
            if is_missing(run):
                self.missing.add(job.tool)
                print(f"{job.tool}: {run['problem']}", file=sys.stderr)
                return
            self._store(run, job, out)

    def _store(self, run: dict[str, Any], job: Job, out: Path) -> None:
        key = self.settings["kinds"][kind_of(self.settings, run["case"])]["measure"]
        left = error_left(run, self.runs.nothing.get(run["case"], {}), key)
        run |= {name: self.machine[name] for name in ("date", "processor")}
        run |= {name: self.machine[name] for name in ("source", "commit") if name in self.machine and job.tool in TOOLS}
        if left is not None and job.tool != NOTHING:
            run["left"] = left
            own = [other for other in self.runs.of(run["tool"], run["preset"]) if key_of(other) != key_of(run)]
            if left >= max((other.get("left", 0) for other in own), default=0):
                draw(job.case, out, self.runs.path.parent / picture_name(self.runs.path, (run["tool"], run["preset"])))
        self.runs.add(run)
        told = run["problem"] or (f"error left {100 * left:.1f} %" if left is not None else "")
        print(f"{time.monotonic() - self.start:.0f} s: {job.case.name}, {job.tool} {job.preset}: {told}", file=sys.stderr)


def _children() -> Iterator[int]:
    """Processes that this one has started."""
    for file in Path("/proc/self/task").glob("*/children"):
        yield from map(int, file.read_text(encoding="ascii").split())


def _end(pid: int) -> None:
    """End a process, with its own session if it has one."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def write_histology(settings: Mapping[str, Any], data: Path, folder: Path) -> None:
    """Make the cases of stained sections that are not there yet."""
    for name, (fixed, moving) in settings["histology"].items():
        if not (folder / name / "fixed.nii.gz").exists():
            _histology.write_pair(data, fixed, moving, folder / name)


def write_page(settings: Mapping[str, Any], runs: Runs) -> None:
    """Write the page beside the runs and, of the runs in the repository, the summary in the README."""
    runs.path.with_suffix(".md").write_text(page(settings, runs), encoding="utf-8")
    if runs.path == RECORDS:
        README.write_text(with_summary(README.read_text(encoding="utf-8"), settings, runs), encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of cases; without it only the page is written")
    parser.add_argument("--histology", type=Path, metavar="DIR", help="stains and landmarks, to make these cases in the folder")
    parser.add_argument("--quick", action="store_true", help="about 15 minutes: some cases and methods, chosen by the settings")
    parser.add_argument("--retry", action="store_true", help="repeat failed runs, for example after a tool was repaired")
    parser.add_argument("--python", action="append", default=[], metavar="[TOOL=]PATH", help="as of registration.py")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="FILE", help="runs; the page is written beside them")
    parser.add_argument("--settings", type=Path, default=SETTINGS, metavar="FILE", help="frozen settings")
    parser.add_argument("--freeze", action="store_true", help="take the tools' settings into the file of settings, and end")
    options = parser.parse_args(arguments)
    try:
        options.pythons = _pythons(options.python)
    except ValueError as error:
        parser.error(str(error))
    if options.folder and not options.folder.is_dir():
        parser.error(f"{options.folder}: no such folder; name the folder of the cases")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    if options.freeze:
        freeze(options.settings)
        return
    try:
        settings = read_settings(options.settings)
    except ValueError as error:
        sys.exit(str(error))
    runs = Runs(options.records.absolute(), hash_of(settings))
    for number in (signal.SIGINT, signal.SIGTERM):  # also where the shell has it ignored, as in the background
        signal.signal(number, _interrupt)
    options.threads, options.limit, options.device = settings["threads"], settings["limit_seconds"], "cpu"
    try:
        if options.folder:
            if options.histology:
                write_histology(settings, options.histology, options.folder)
            seconds = settings["quick"]["seconds"] if options.quick else float("inf")
            Arena(settings, runs, options).run(jobs(settings, options.folder, options.quick), seconds)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
    finally:
        write_page(settings, runs)


if __name__ == "__main__":
    main()
