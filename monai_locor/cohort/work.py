# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""One pair of a cohort, registered on a Dask worker."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..child_process import ChildError, ChildProcess, ChildTimeoutError
from ..io.paths import write_json
from ..roles import ROLES
from .children import of_this_worker
from .folder import RECORD_FORMAT, CohortFolder, signature
from .pairs import CohortPair

__all__ = ["Job", "Outcome", "register_pair"]

DROPPED_VALUES = (
    "command",
    "exit_code",
    "folder",
    "outputs",
    "carried",
)  # of the JSON object of register; they name scratch files


@dataclass(frozen=True)
class Job:
    """A pair to register.

    Attributes:
        pair: the pair.
        root: output folder of the cohort.
        request: what determines the result besides the pair: settings, outputs, seed, thresholds; plain values.
        threads: CPU threads; None for torch's choice.
        devices: devices of the workers of a local cluster, in their order; empty for the default device.
        limit: time limit in seconds.
        attempt: 1 for the first attempt.
        owner: names the run, see :class:`.children.Children`.
    """

    pair: CohortPair
    root: str
    request: dict[str, Any]
    threads: int | None = None
    devices: tuple[str, ...] = ()
    limit: float | None = None
    attempt: int = 1
    owner: str = ""

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"pair {self.pair.id}"

    def words(self, output: Path, device: str | None = None) -> list[str]:
        """The command line that registers the pair, without ``monai-locor``."""
        folder, pair = CohortFolder(Path(self.root)), self.pair
        words = ["register", pair.fixed, pair.moving, "-o", str(output), "--config", str(folder.settings)]
        for key in ("fixed_mask", "moving_mask", "fixed_labels", "moving_labels"):
            words += [f"--{key.replace('_', '-')}", pair.files[key]] if key in pair.files else []
        for option, name in (("--landmarks", "landmarks"), ("--labels", "driving_labels")):
            if f"fixed_{name}" in pair.files:
                words += [option, *(pair.files[f"{role}_{name}"] for role in ROLES)]
        words += ["--initial", pair.initial] if pair.initial is not None else []
        words += ["--seed", str(self.request["seed"]), "--outputs", ",".join(self.request["outputs"])]
        words += [] if self.request["thresholds"] is None else ["--thresholds", str(folder.thresholds)]
        words += [] if self.threads is None else ["--threads", str(self.threads)]
        return words + ([] if device is None else ["--device", device])


@dataclass(frozen=True)
class Outcome:
    """The outcome of an attempt.

    Attributes:
        record: content of ``pair.json`` if the pair is finished.
        error: why the attempt failed, one line; empty on success.
        log: end of what the attempt wrote to stderr.
        seconds: duration.
    """

    record: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log: str = ""
    seconds: float = 0.0


def register_pair(job: Job) -> Outcome:
    """Register a pair in a child process of this worker, and move its results to their place.

    A failure is returned, not raised. A pair that a lost worker has finished is not registered again. Nothing is moved after
    the end of the run.
    """
    folder = CohortFolder(Path(job.root))
    done = folder.finished(job.pair, job.request)
    if done is not None:
        return Outcome(done)
    scratch, begin = folder.scratch(job.pair.id), time.perf_counter()
    try:
        outcome = _registered(job, scratch)
        if outcome.record:
            write_json(scratch / "pair.json", outcome.record)
            with of_this_worker.running(job.owner):
                folder.place(scratch, job.pair.id)
        return outcome
    except ChildTimeoutError as late:
        return Outcome(error=f"{late}; raise the time limit, or look at the images", seconds=time.perf_counter() - begin)
    except (ChildError, OSError, RuntimeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return Outcome(error=text, seconds=time.perf_counter() - begin)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _registered(job: Job, output: Path) -> Outcome:
    """Run ``register`` and describe its outcome."""
    files = {key: {"path": path, "signature": signature(path)} for key, path in job.pair.files.items()}
    begin = time.perf_counter()
    answer = _child(job.owner).ask({"words": job.words(output, _device(job))}, job.limit)
    seconds = round(time.perf_counter() - begin, 3)
    if answer["code"] not in (0, 1):
        error = answer["values"].get("error", f"exit code {answer['code']}")
        return Outcome(error=error, log=answer["log"], seconds=seconds)
    record = {
        "format": RECORD_FORMAT,
        "id": job.pair.id,
        "files": files,
        "request": job.request,
        "attempts": job.attempt,
        "host": socket.gethostname(),
        "wall_seconds": seconds,
        "version": __version__,
        "result": {key: value for key, value in answer["values"].items() if key not in DROPPED_VALUES},
    }
    return Outcome(record, log=answer["log"], seconds=seconds)


def _child(owner: str) -> ChildProcess:
    """The child process of this thread of the worker."""
    return of_this_worker.of(owner)


def _device(job: Job) -> str | None:
    """The device of this worker; None for the default."""
    if not job.devices:
        return None
    from distributed import get_worker

    number = 0
    with contextlib.suppress(ValueError, TypeError):  # workers of a local cluster are numbered
        number = int(get_worker().name)
    return job.devices[number % len(job.devices)]
