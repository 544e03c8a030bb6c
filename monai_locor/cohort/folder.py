# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The output folder of a cohort: layout, lock, and which pairs are finished."""

from __future__ import annotations

import contextlib
import csv
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.datalist import refuse
from ..differences import first_difference
from ..errors import InputError
from ..io.paths import WORK_FOLDER, check_output_dir, lock_file, read_json, write_json
from ..io.stored_files import stored_files, stored_place
from .pairs import CohortPair

__all__ = ["RECORD_FORMAT", "CohortFolder", "is_free", "is_of_kind", "signature", "stored_object"]

RECORD_KIND = "monai_locor cohort pair"
RECORD_FORMAT = f"{RECORD_KIND} 1"
SUMMARY_COLUMNS = {"id", "state", "verdict", "attempts"}  # of summary.csv, in all versions


@dataclass(frozen=True)
class CohortFolder:
    """The output folder of a cohort.

    ``pairs/ID`` has the results of a finished pair: the outputs of ``register`` and ``pair.json``. It is moved there as a
    whole, so it is never incomplete. ``failed/ID.json`` is the record of a failed pair. The unfinished ones are
    in :attr:`work`.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def settings(self) -> Path:
        """Registration settings of the cohort, for ``register --config``."""
        return self.root / "settings.json"

    @property
    def thresholds(self) -> Path:
        """Thresholds of the verdict, for ``register --thresholds``."""
        return self.root / "thresholds.json"

    @property
    def summary(self) -> Path:
        """The table of all pairs."""
        return self.root / "summary.csv"

    @property
    def page(self) -> Path:
        """The same as a page."""
        return self.root / "summary.html"

    @property
    def work(self) -> Path:
        """Folder of the unfinished pairs."""
        return self.root / WORK_FOLDER

    def pair(self, name: str) -> Path:
        """Folder of a finished pair."""
        return self.root / "pairs" / name

    def failure(self, name: str) -> Path:
        """Record of a failed pair."""
        return self.root / "failed" / f"{name}.json"

    def scratch(self, name: str) -> Path:
        """A new name in :attr:`work` for the results of a pair."""
        return self.work / f"{name}.{secrets.token_hex(4)}"

    def record(self, name: str) -> dict[str, Any] | None:
        """Content of ``pair.json`` of a finished pair; None if it is not finished."""
        folder = self.pair(name)
        record = stored_object(folder / "pair.json")
        complete = record.get("format") == RECORD_FORMAT and (folder / "run.json").is_file()
        return record if complete else None

    def finished(self, pair: CohortPair, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a pair that was finished with these inputs and this request, else None."""
        record = self.record(pair.id)
        return record if record is not None and not changes(record, pair, request, self.pair(pair.id)) else None

    def states(self) -> dict[str, str]:
        """The state of each pair in the list of the last run, by id; empty if no cohort has written a summary."""
        with contextlib.suppress(OSError, ValueError, csv.Error), self.summary.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if set(rows.fieldnames or ()) >= SUMMARY_COLUMNS:
                return {row["id"]: row["state"] for row in rows}
        return {}

    @property
    def is_own(self) -> bool:
        """Whether a cohort has run here: one that was killed leaves :attr:`work`, any other one the summary."""
        if self.work.is_dir() or self.states():
            return True
        return any(is_of_kind(stored_object(path), RECORD_KIND) for path in self.root.glob("pairs/*/pair.json"))

    def check_replaceable(self, names: Iterable[str], thresholds: bool = False) -> None:
        """Check that a run would overwrite nothing but what an earlier one has written. Call it outside of :meth:`locked`.

        Args:
            names: ids of the pairs.
            thresholds: whether :attr:`thresholds` will be written.

        Raises:
            InputError: if the folder of a pair is not missing, empty or that of a pair, or if there is a file that a run
                writes, but no run has been here.
        """
        names = list(names)
        foreign = [
            f"{self.pair(n)} is not that of a pair (no pair.json of a cohort)" for n in names if not self._may_replace(n)
        ]
        places = [self.pair("x").parent, self.failure("x").parent]
        foreign += [f"{path} is not a folder" for path in places if os.path.lexists(path) and not path.is_dir()]
        if not self.is_own:
            files = [self.settings, self.summary, self.page, *map(self.failure, names)]
            files += [self.thresholds] if thresholds else []
            foreign += [f"{path} is not that of a cohort" for path in files if os.path.lexists(path)]
        refuse(foreign, f"output folder {self.root}", "name another output folder, or move it away")

    def _may_replace(self, name: str) -> bool:
        """Whether a run may replace the folder of a pair. After a power failure, the files of a pair may be cut off."""
        folder = self.pair(name)
        if is_free(folder):
            return True
        found = stored_object(folder / "pair.json")
        cut_off = not found and all((folder / file).is_file() for file in ("pair.json", "run.json"))
        return cut_off or is_of_kind(found, RECORD_KIND)

    def place(self, scratch: Path, name: str) -> None:
        """Move the results of a pair to their place, replacing outdated ones, see :meth:`check_replaceable`."""
        target = self.pair(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            outdated = self.scratch(name)
            os.replace(target, outdated)
            os.replace(scratch, target)
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            os.replace(scratch, target)
        self.failure(name).unlink(missing_ok=True)

    def fail(self, name: str, values: Mapping[str, Any]) -> None:
        """Record a failed pair."""
        path = self.failure(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, values)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, keep other runs out of it, and remove unfinished pairs before and after.

        Raises:
            InputError: if another process works in the folder, or it cannot be written.
        """
        check_output_dir(self.root)
        lock = self.root / ".lock"
        with lock.open("a") as file:  # a file of this name keeps its content
            lock_file(file.fileno(), self.root)
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(exist_ok=True)  # on network file systems, what a killed run had open may still be there
            try:
                yield
            finally:
                shutil.rmtree(self.work, ignore_errors=True)


def changes(record: Mapping[str, Any], pair: CohortPair, request: Mapping[str, Any], folder: Path) -> str:
    """How inputs and request differ from those of a finished pair; empty if they do not."""
    difference = first_difference(record["request"], request)
    if difference:
        return difference
    if record["files"].keys() != pair.files.keys():
        return "other inputs"
    for key, path in pair.files.items():
        if record["files"][key]["path"] != path:
            return f"{key} {record['files'][key]['path']} then, {path} now"
        if record["files"][key]["signature"] != signature(path) and not _same_content(folder, key):
            return f"{path} has changed"
    return ""


def _same_content(folder: Path, key: str) -> bool:
    """Whether an input has the hash that is recorded in run.json; landmarks and labels that are transformed have none."""
    from ..registration.manifest import RunManifest

    role, of_labels, _ = key.partition("_driving_labels")
    try:
        manifest = RunManifest.load(folder)
        manifest.labels(role) if of_labels else manifest.input(key)
    except (InputError, KeyError):
        return False
    return True


def signature(path: str) -> list[int]:
    """Total size in bytes and last modification in ns of the files of an input; of a DICOM series, of all in its folder."""
    stats = [file.stat() for file in stored_files(stored_place(Path(path)))]
    return [sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)]


def is_free(folder: Path) -> bool:
    """Whether a folder is missing or empty."""
    return not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))


def is_of_kind(record: Mapping[str, Any], kind: str) -> bool:
    """Whether a record has the format of a kind, in any version."""
    return str(record.get("format")).startswith(kind)


def stored_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(path)
        return found if isinstance(found, dict) else {}
    return {}
