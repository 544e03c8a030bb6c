# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Overhead of the scheduler and throughput of `monai-locor cohort`.

Prints Markdown tables. `overhead` runs empty tasks through the same code as registrations, and times what the main process does
for each pair: checking the files, looking for finished pairs, writing the summaries. `throughput` registers pairs of cubes
filled with structure (see `scaling.py`) with all outputs of `register`; its rate is that between the first and the last pair,
without the start of the processes.

    python benchmarks/cohort.py overhead --tasks 10000 --workers 2
    python benchmarks/cohort.py throughput --pairs 8 --size 48 --preset draft --setups 1x1 1x2 2x1    # workers x threads
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from loss import machine
from scaling import write_pair

from monai_locor.cohort import CohortPair, check_pairs
from monai_locor.cohort.api import _Run, requested
from monai_locor.cohort.folder import CohortFolder, signature
from monai_locor.cohort.scheduling import connected, run_jobs
from monai_locor.cohort.work import Job, Outcome, register_pair
from monai_locor.io.paths import write_json

THUMBNAIL_BYTES = 3000


def nothing(job: Job) -> Outcome:
    """An empty task with a result of usual size."""
    return Outcome({"id": job.pair.id, "result": {"text": "x" * 2000}})


@contextmanager
def timed(rows: dict[str, float], name: str) -> Iterator[None]:
    """Store the seconds that the body takes."""
    begin = time.perf_counter()
    yield
    rows[name] = time.perf_counter() - begin


def overhead(folder: Path, tasks: int, workers: int) -> dict[str, float]:
    """Seconds of each step of a cohort other than the registrations."""
    (folder / "images").mkdir()
    write_pair(folder / "images", (16, 16, 16))
    source = {role: (folder / "images" / f"{role}.nii.gz").read_bytes() for role in ("fixed", "moving")}
    pairs, rows, output = [], {}, CohortFolder(folder / "out")
    for n in range(tasks):
        for role, data in source.items():
            (folder / "images" / f"{n}_{role}.nii.gz").write_bytes(data)
        pairs.append(CohortPair(f"p{n}", *(str(folder / "images" / f"{n}_{role}.nii.gz") for role in source)))
    request = requested("default", None, 0, None)
    with timed(rows, "check ids and headers"):
        check_pairs(pairs)
    jobs = [Job(pair, str(output.root), request) for pair in pairs]
    with connected(None, workers) as client:
        client.wait_for_workers(workers)
        with timed(rows, "empty tasks on Dask"):
            run_jobs(client, jobs, nothing, lambda job, outcome: None)
    make_finished(output, pairs, request)
    with timed(rows, "look for finished pairs"):
        run = _Run(output, pairs, request, False)
    assert not run.missing
    with timed(rows, "write summary.csv and summary.html"):
        run.finish()
    rows["summary.html, MB"] = (output.root / "summary.html").stat().st_size / 1e6
    return rows


def make_finished(output: CohortFolder, pairs: Iterable[CohortPair], request: dict) -> None:
    """Folders as of finished pairs, without the images."""
    thumbnail = np.random.default_rng(0).bytes(THUMBNAIL_BYTES)
    result = {"seconds": 1.0, "verdict": {"status": "PASS", "reasons": [], "measures": {}}, "displacement_mm": {"mean": 1.0}}
    for pair in pairs:
        files = {key: {"path": path, "signature": signature(path)} for key, path in pair.files.items()}
        record = {"format": "monai_locor cohort pair 1", "files": files, "request": request, "attempts": 1, "host": "h"}
        output.pair(pair.id).mkdir(parents=True)
        write_json(output.pair(pair.id) / "pair.json", {**record, "result": result})
        (output.pair(pair.id) / "run.json").write_text("{}")
        (output.pair(pair.id) / "thumbnail.jpg").write_bytes(thumbnail)


def throughput(folder: Path, number: int, size: int, preset: str, setup: str) -> tuple[float, float, float]:
    """Seconds until the first result, seconds per pair after it, and median seconds of a registration on its worker."""
    workers, threads = (int(part) for part in setup.split("x"))
    images = folder / "images"
    if not images.exists():
        images.mkdir()
        write_pair(images, (size,) * 3)
    output, request = CohortFolder(folder / setup), requested(preset, None, 0, None)
    pairs = [CohortPair(f"p{n}", *(str(images / f"{role}.nii.gz") for role in ("fixed", "moving"))) for n in range(number)]
    ends, seconds, begin = [], [], time.perf_counter()

    def done(job: Job, outcome: Outcome) -> None:
        if outcome.error:
            sys.exit(f"{job.pair.id}: {outcome.error}")
        ends.append(time.perf_counter())
        seconds.append(outcome.seconds)

    with output.locked():
        write_json(output.settings, request["settings"])
        jobs = [Job(pair, str(output.root), request, threads, ("cpu",)) for pair in pairs]
        with connected(None, workers) as client:
            run_jobs(client, jobs, register_pair, done)
    steady = (ends[-1] - ends[workers - 1]) / (number - workers)  # each worker starts with its first pair
    return ends[0] - begin, steady, float(np.median(seconds[workers:]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "throughput"])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--setups", nargs="+", default=["1x1", "1x2", "2x1"], metavar="WORKERSxTHREADS")
    args = parser.parse_args()
    print(machine(argparse.Namespace(device="cpu", threads=None, repeats=1)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        say: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
        if args.what == "overhead":
            say(f"\n{args.tasks} pairs, {args.workers} workers\n\n| step | total | per pair |\n| --- | --- | --- |")
            for name, value in overhead(Path(folder), args.tasks, args.workers).items():
                unit, share = ("", value / args.tasks) if "MB" in name else (" s", 1000 * value / args.tasks)
                say(f"| {name} | {value:.1f}{unit} | {share:.4g}{' ms' if unit else ''} |")
            return
        say(f"\n{args.pairs} pairs of {args.size}^3 voxels, {args.preset}, all outputs\n")
        say("| workers x threads | first result, s | seconds per pair | on a worker, s | pairs per hour |")
        say("| --- | --- | --- | --- | --- |")
        for setup in args.setups:
            first, steady, alone = throughput(Path(folder), args.pairs, args.size, args.preset, setup)
            say(f"| {setup} | {first:.1f} | {steady:.2f} | {alone:.2f} | {3600 / steady:.0f} |")


if __name__ == "__main__":
    main()
