# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Kill `register --resume` at random moments, continue it, and compare the results with those of an uninterrupted run.

Prints one JSON object: the number of runs, of kills, and of stages that were restored, and the outputs that differ. The process
imports torch once and forks for every run.

    python tests/registration/kills.py FIXED MOVING --runs 50    # further options go to register
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from monai_locor import register  # noqa: F401 (imported before the forks)
from monai_locor.cli import main
from monai_locor.report.html.page import write_report  # noqa: F401

MEASURED = ("memory", "seconds", "timings")  # of run.json; they differ between any two runs
OUTPUTS = "warped,forward,inverse,affine"
MAX_KILLS = 3  # of one registration


def forked(words: list[str]) -> int:
    """Run a command line in a fork of this process; returns its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        with (
            Path(words[4]).with_suffix(".log").open("a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            torch.set_num_threads(1)
            code = main(words)
    finally:
        os._exit(code)


def ended(child: int) -> bool:
    """Wait for a process; whether it ended by itself, without error."""
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 1):
        raise RuntimeError(f"exit code {os.WEXITSTATUS(status)}")
    return os.WIFEXITED(status)


def digests(folder: Path) -> dict[str, str]:
    """Hash of each output; of run.json, without what is measured."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    content = json.loads((folder / "run.json").read_text())
    content = {name: value for name, value in content.items() if name not in MEASURED}
    content["stages"] = [{name: value for name, value in stage.items() if name != "seconds"} for stage in content["stages"]]
    found["run.json"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return found


def killed_and_resumed(words: list[str], output: Path, seconds: float, draw: random.Random) -> tuple[int, int]:
    """Run a command until it ends; number of kills, and of saved stages that the runs after them started with.

    On a busy machine the measured ``seconds`` can be far too many. A run that ended before its kill starts again from nothing,
    with half of them, until one was killed.
    """
    kills = restored = 0
    while True:
        restored += len(list(output.glob("state/stage_*.npz"))) if kills else 0
        child = forked(words)
        if kills < MAX_KILLS:
            time.sleep(draw.uniform(0, seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if not ended(child):
            kills += 1
        elif kills:
            return kills, restored
        else:
            seconds /= 2
            shutil.rmtree(output)


def run() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixed")
    parser.add_argument("moving")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args, options = parser.parse_known_args()  # the rest goes to register
    draw, counts, different = random.Random(args.seed), [0, 0], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def words(output: str) -> list[str]:
            line = ["register", args.fixed, args.moving, "-o", str(folder / output), "--resume", "--outputs", OUTPUTS]
            return [*line, "--device", "cpu", *options]

        begin = time.perf_counter()
        if not ended(forked(words("whole"))):
            raise RuntimeError("the uninterrupted run was killed")
        seconds, expected = time.perf_counter() - begin, digests(folder / "whole")
        for number in range(args.runs):
            output = folder / f"run{number}"
            counts = [a + b for a, b in zip(counts, killed_and_resumed(words(output.name), output, seconds, draw), strict=True)]
            found = digests(output)
            if found != expected:
                different[number] = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
    about = {
        "runs": args.runs,
        "kills": counts[0],
        "restored": counts[1],
        "seconds": round(seconds, 2),
        "outputs": len(expected),
    }
    print(json.dumps({**about, "different": different}))


if __name__ == "__main__":
    run()
