# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Register all pairs of a cohort."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..data.datalist import refuse
from ..io.paths import expanded, write_json
from ..report.summary import write_summary
from .folder import CohortFolder, changes
from .machine import Machine, check_workers
from .page import write_page
from .pairs import CohortPair, check_pairs
from .scheduling import check_dask, connected, run_jobs
from .summary import summary_row
from .work import Job, Outcome, register_pair

if TYPE_CHECKING:
    from ..quality import Thresholds
    from ..registration import RegistrationConfig

__all__ = ["Cohort", "run_cohort"]

logger = logging.getLogger(__name__)

SUMMARY_SECONDS = 20.0  # at most so old is summary.csv while pairs are running


@dataclass(frozen=True)
class Cohort:
    """The results of a cohort.

    Attributes:
        folder: output folder.
        rows: one row for each pair in the order of the list, see :func:`.summary.summary_row`; pairs that did not run because
            of an interrupt have the state ``"waiting"``.
        skipped: number of pairs that had been finished by an earlier run.
    """

    folder: Path
    rows: list[dict[str, Any]]
    skipped: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of pairs by verdict (PASS, WARN, FAIL), or by state if there is no verdict (failed, waiting)."""
        return dict(Counter(row["verdict"] or row["state"] for row in self.rows))


def run_cohort(
    pairs: Sequence[CohortPair | Mapping[str, Any]],
    output: str | PathLike[str],
    *,
    preset: RegistrationConfig | Mapping[str, Any] | str | PathLike[str] = "default",
    outputs: Iterable[str] | None = None,
    seed: int = 0,
    thresholds: Thresholds | Mapping[str, Any] | None = None,
    device: str | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    force: bool = False,
    progress: bool = True,
    title: str | None = None,
    machine: Machine | None = None,
) -> Cohort:
    """Register many pairs, each as the command ``register`` does it, on a Dask cluster.

    The results of a pair are in ``output/pairs/ID``, which appears when it is complete. Run the same call again after an
    interruption: finished pairs are skipped, failed ones are tried again. A pair that fails or exceeds the time limit is tried
    a second time, then recorded in ``output/failed/ID.json``; the others are not affected. ``summary.csv`` and
    ``summary.html`` list all pairs.

    A script that calls this function needs the guard ``if __name__ == "__main__":``, as for Python's ``multiprocessing``.

    Args:
        pairs: see :class:`CohortPair` and :func:`.lists.read_pairs`.
        output: output folder. With ``scheduler``, all workers must have it, and the images, under the same paths.
        preset: settings, see :func:`monai_locor.register`.
        outputs: names of the outputs of each pair, see ``monai-locor register --help``; by default those of ``register``. The
            thumbnail for ``summary.html`` is added.
        seed: random seed of each registration.
        thresholds: of the verdict, or those that differ from the defaults.
        device: device of all workers. By default, each worker of a local cluster uses a GPU of its own if there are GPUs.
        scheduler: address of an existing Dask scheduler, or its scheduler file; by default a local cluster is started.
        workers: number of processes of a local cluster; by default one for each GPU, or without GPUs one for each core, but
            at most one for each 4 GiB of memory.
        threads: CPU threads of each worker; by default those of the machine, divided among the workers of a local cluster.
        timeout: time limit of a pair in seconds.
        force: register pairs again that were finished with other inputs or settings, instead of refusing.
        progress: show a progress bar.
        title: text before the progress bar.
        machine: workers that serve several runs, instead of ``device``, ``scheduler``, ``workers`` and ``threads``.

    Raises:
        InputError: if a pair, a setting or the output folder cannot be used, before the first registration.
        ImportError: if ``dask.distributed`` is not installed; the message names the extra.
        KeyboardInterrupt: on Ctrl-C, when the workers have ended and the summaries are written.
    """
    check_dask()
    check_workers(scheduler, workers)
    listed = [CohortPair.of(pair) for pair in pairs]
    folder = CohortFolder(expanded(output, f"output folder {output}").absolute())
    check_pairs(listed, progress=progress)
    request = requested(preset, outputs, seed, thresholds)
    folder.check_replaceable([pair.id for pair in listed], thresholds is not None)
    with folder.locked():
        run = _Run(folder, listed, request, force)
        write_json(folder.settings, request["settings"])
        if request["thresholds"] is not None:
            write_json(folder.thresholds, request["thresholds"])
        place = machine or Machine.of(device, scheduler, workers, threads, len(run.missing))
        jobs = [Job(pair, str(folder.root), request, place.threads, place.devices, timeout) for pair in run.missing]
        try:
            run.start(jobs, place, progress, title)
        finally:
            run.finish()
    return Cohort(folder.root, list(run.rows.values()), len(listed) - len(run.missing))


def requested(
    preset: Any, outputs: Iterable[str] | None, seed: int, thresholds: Thresholds | Mapping[str, Any] | None
) -> dict[str, Any]:
    """What determines the results besides the pairs, as plain values that can be compared with stored ones.

    Raises:
        InputError: for invalid settings, outputs, thresholds or seeds.
    """
    from ..cli.registration_outputs import chosen_outputs
    from ..quality import Thresholds
    from ..registration import RegistrationConfig
    from ..registration.numbers import whole_seed

    config = RegistrationConfig.of(preset)
    names = chosen_outputs(None if outputs is None else ",".join(outputs), config)
    names += ["thumbnail"] if find_spec("matplotlib") is not None and "thumbnail" not in names else []
    limits = None if thresholds is None else dataclasses.asdict(Thresholds.of(thresholds))
    values = {"settings": config.to_dict(), "outputs": names, "seed": whole_seed(seed), "thresholds": limits}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


class _Run:
    """The pairs of a run, and a row for each.

    Attributes:
        missing: pairs that are not finished.
        rows: rows of the summaries by id.

    Raises:
        InputError: if pairs were finished with other inputs or settings and ``force`` is not set.
    """

    def __init__(self, folder: CohortFolder, pairs: Sequence[CohortPair], request: dict[str, Any], force: bool) -> None:
        self.folder, self.request = folder, request
        self.missing: list[CohortPair] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.written = time.monotonic()
        changed = []
        for pair in pairs:
            record = folder.record(pair.id)
            difference = "" if record is None else changes(record, pair, request, folder.pair(pair.id))
            if difference:
                changed.append(f"pair {pair.id} is finished with other inputs or settings ({difference})")
            if record is None or difference:
                self.missing.append(pair)
            self.rows[pair.id] = summary_row(pair, Outcome(record or {}))
        if not force:
            refuse(changed, f"output folder {folder.root}", "name another folder, or add --force (force=True) to redo them")

    def start(self, jobs: Sequence[Job], place: Machine, progress: bool, title: str | None) -> None:
        """Run the jobs."""
        if not jobs:
            return
        ended: Counter[str] = Counter()
        count = {"total": len(self.rows), "initial": len(self.rows) - len(jobs)}
        with (
            connected(place.scheduler, place.workers) if place.client is None else nullcontext(place.client) as client,
            tqdm(desc=title, **count, disable=not progress, unit="pair") as bar,
        ):

            def done(job: Job, outcome: Outcome) -> None:
                self.note(job, outcome)
                ended[self.rows[job.pair.id]["verdict"] or "failed"] += 1
                bar.set_postfix(ended, refresh=False)
                bar.update()

            owned = [dataclasses.replace(job, owner="" if client is None else client.id) for job in jobs]
            run_jobs(client, owned, register_pair, done)

    def note(self, job: Job, outcome: Outcome) -> None:
        """Record the last outcome of a pair."""
        pair = job.pair
        if outcome.error:
            logger.warning("pair %s failed: %s", pair.id, outcome.error)
            words = job.words(Path("OUT"))
            values = {"id": pair.id, "error": outcome.error, "attempts": job.attempt, "log": outcome.log, "command": words}
            self.folder.fail(pair.id, values)
        self.rows[pair.id] = summary_row(pair, outcome)
        if time.monotonic() - self.written > SUMMARY_SECONDS:
            self.write()

    def finish(self) -> None:
        """Write both summaries. After an interrupt, workers may have finished pairs that were not reported."""
        for pair in self.missing:
            if self.rows[pair.id]["state"] == "waiting":
                self.rows[pair.id] = summary_row(pair, Outcome(self.folder.finished(pair, self.request) or {}))
        self.write()
        write_page(self.folder, list(self.rows.values()))

    def write(self) -> None:
        """Write ``summary.csv``."""
        write_summary(self.folder.summary, list(self.rows.values()))
        self.written = time.monotonic()
