# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results of runs in a file that is complete after every run, from which a script can resume."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

KEYS = ("case", "tool", "preset", "seed")  # what one run is


def commit_of(folder: Path) -> str:
    """Short hash of the commit checked out, with "-dirty" if files differ; empty outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def source_hash(folder: Path) -> str:
    """Hash of all Python files in a folder, to identify the code without git; 12 digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


class Record:
    """Runs and their common data.

    Args:
        path: JSON file, or None.
        head: common data of all runs: settings by name under ``"settings"``, the machine and so on.
        resume: keep the runs of an existing file.
        summary: computed from the content and written with it.

    Raises:
        ValueError: when the runs of that file had other settings.
    """

    def __init__(
        self,
        path: Path | None,
        head: Mapping[str, Any],
        resume: bool = False,
        summary: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda content: {},
    ) -> None:
        self.path, self.summary = path, summary
        self.content: dict[str, Any] = {**head, "runs": []}
        if resume and path is not None and path.exists():
            self._take(path)

    def _take(self, path: Path) -> None:
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            runs, settings = old["runs"], old["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: holds no runs to go on from ({error}); name another file") from error
        own = json.loads(json.dumps(self.content["settings"]))
        other = [name for name in own if name in settings and settings[name] != own[name]]
        if other:
            raise ValueError(f"{path}: its runs had other {', '.join(sorted(other))}; name another file")
        self.content |= {"settings": settings | own, "nothing": old.get("nothing", {})}
        commits = [content.get("machine", {}).get("commit") for content in (old, self.content)]
        if commits[0] != commits[1]:
            print(f"{path}: begun at commit {commits[0]}, goes on at {commits[1]}", file=sys.stderr)
        self.content["runs"] = runs

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All runs so far."""
        return self.content["runs"]

    def has(self, **run: Any) -> bool:
        """Return whether a run exists."""
        return any(all(other[key] == run[key] for key in KEYS) for other in self.runs)

    def add(self, run: Mapping[str, Any]) -> None:
        """Add a run and write the file: there may be hours of them."""
        self.runs.append(dict(run))
        self.write()

    def write(self) -> None:
        """Write the file atomically."""
        if self.path is None:
            return
        content = {**self.content, **self.summary(self.content)}
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)
