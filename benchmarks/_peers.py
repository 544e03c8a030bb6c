# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Other registration tools, each run in a separate process, possibly of another interpreter.

The process needs only numpy, nibabel and the tool. It imports the tool, measures the registration, and converts its transform
to the fields that `_score.py` reads. Wall-clock and CPU seconds are of the registration, including programs that it starts.
Memory is the peak resident set above that of the interpreter with the tool imported (see `_measure.py`), or that of the
largest program.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _measure import MEMORY_ERRORS, Measured, _limit_memory, _reset_peak, _status
from _peer import Peer, Task

ANTS_SYN = {"type_of_transform": "SyN", "syn_metric": "mattes", "syn_sampling": 32, "reg_iterations": [100, 70, 50, 20]}
ELASTIX = {
    "maps": ["affine", "bspline"],
    "changes": {"AutomaticTransformInitialization": "true", "WriteResultImage": "false"},
}
GREEDY = {"affine": "-m NMI -n 100x50x10 -ia-image-centers", "deformable": "-m NMI -n 100x100x50 -s 2vox 1vox"}
SITK_AFFINE = {
    "bins": 50,
    "sampling": 0.2,
    "shrink": [4, 2, 1],
    "sigmas_voxels": [2, 1, 0],
    "descent": {"learningRate": 1.0, "minStep": 1e-4, "numberOfIterations": 300},
}
SITK_SPLINE = {
    "spacing_mm": 10.0,
    "sampling": 0.05,
    "lbfgs": {"solutionAccuracy": 1e-6, "numberOfIterations": 30, "deltaConvergenceTolerance": 1e-3},
}

# name: module of this folder, class, arguments of it, which `arena.py` freezes
PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ants-syn": ("_peers_python", "Ants", ANTS_SYN),
    "ants-quick": ("_peers_python", "Ants", {"type_of_transform": "antsRegistrationSyNQuick[s]"}),
    "convexadam": ("_peers_python", "ConvexAdam", {"affine": SITK_AFFINE}),
    "elastix": ("_peers_python", "Elastix", ELASTIX),
    "greedy": ("_peers_python", "Greedy", GREEDY),
    "niftyreg-mind": ("_peers_programs", "NiftyReg", {"measure": ["--mind", "1"]}),
    "niftyreg-mindssc": ("_peers_programs", "NiftyReg", {"measure": ["--mindssc", "1"]}),
    "niftyreg-nmi": ("_peers_programs", "NiftyReg", {"measure": []}),
    "locor": ("_peers_programs", "Original", {}),
    "simpleitk": ("_peers_python", "SimpleItk", {"affine": SITK_AFFINE, "spline": SITK_SPLINE}),
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
MISSING = "not run"  # begins the problem of a tool that is not installed


def run(tool: str, files: Mapping[str, Path], cost: Path, settings: Mapping[str, Any], python: str = sys.executable) -> str:
    """Register with a tool in a new process of the interpreter `python`.

    Args:
        tool: a name in `PEERS`.
        files: fixed and moving image, and the forward and inverse field that are written.
        cost: file for time, memory and the tool's version.
        settings: the seed, the number of threads, the limit in seconds and, of 2-D images, ``"dims": 2``.
        python: interpreter that the tool is installed for.

    Returns:
        The problem, "not run ..." when the tool is not installed, otherwise an empty string.
    """
    told = {name: str(path.absolute()) for name, path in files.items()}
    told |= {"seed": settings["seed"], "threads": settings["threads"], "dims": settings.get("dims", 3)}
    command = [python, str(Path(__file__).absolute()), json.dumps([tool, told, str(cost.absolute())])]
    environment = os.environ | dict.fromkeys(THREADS, str(settings["threads"]))
    nothing = subprocess.DEVNULL
    try:  # a session of its own, so that the limit can end it with all that it has started
        child = subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        return f"{MISSING} ({error.strerror}: {python})"
    try:
        errors = child.communicate(timeout=settings["limit"])[1]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # the programs that it started, too
        child.communicate()
        return f"more than {settings['limit']:.0f} s"
    return problem(child.returncode, errors)


def problem(status: int, errors: str) -> str:
    """Describe a failure from the exit status and the error stream."""
    if not status:
        return ""
    if status == -signal.SIGKILL or any(text in errors for text in MEMORY_ERRORS):
        return "does not fit in memory"
    lines = errors.strip().splitlines() or [f"exit status {status}"]
    return next((line for line in lines if line.startswith(MISSING)), lines[-1])


def measured(peer: Peer) -> dict[str, Any]:
    """Time and memory of a registration."""
    known = _reset_peak()
    base = _status("VmRSS")
    start, before = time.perf_counter(), _processor_seconds()
    peer.register()
    seconds, processor_seconds = time.perf_counter() - start, _processor_seconds() - before
    if peer.programs:
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    else:
        memory = (_status("VmHWM") if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) - base
    return asdict(Measured((seconds,), (processor_seconds,), memory)) | {"version": peer.version}


def _processor_seconds() -> float:
    """CPU seconds of this process and its finished children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main(tool: str, told: Mapping[str, Any], cost: str) -> None:
    """Run in the fresh process."""
    module, name, arguments = PEERS[tool]
    paths = {key: Path(told[key]) for key in ("fixed", "moving", "forward", "inverse")}
    with tempfile.TemporaryDirectory() as work:
        task = Task(**paths, work=Path(work), **{key: told[key] for key in ("seed", "threads", "dims")})
        try:
            adapter = getattr(importlib.import_module(module), name)
            if task.dims not in adapter.dims:
                sys.exit(f"{MISSING} (registers no {task.dims}-D images)")
            peer = adapter(task, **arguments)
        except (ImportError, FileNotFoundError) as error:
            sys.exit(f"{MISSING} ({error})")
        _limit_memory()
        found = measured(peer)
        peer.convert()

    Path(cost).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
