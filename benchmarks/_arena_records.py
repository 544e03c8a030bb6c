# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Frozen settings and stored runs of the arena.

The runs are JSON lines. A line holds the hash of the settings of its run; only runs of the same hash are used together. A line
that was cut off by a kill is skipped, and the run is repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _peers import PEERS
from _runs import KEYS

SETTINGS = Path(__file__).parent / "arena_settings.json"
NOTHING = "(nothing)"  # the tool whose run is zero displacement
Run = Mapping[str, Any]


def key_of(run: Run) -> tuple[Any, ...]:
    """Identity of a run: case, tool, preset, seed."""
    return tuple(run[key] for key in KEYS)


def read_settings(path: Path = SETTINGS) -> dict[str, Any]:
    """The frozen settings.

    Raises:
        ValueError: when the adapters would run a tool with other arguments than the frozen ones.
    """
    settings = json.loads(path.read_text(encoding="utf-8"))
    for method in settings["methods"]:
        tool = method["tool"]
        if tool in PEERS and method["arguments"] != frozen_arguments(tool):
            raise ValueError(f"{path}: {tool} has other settings than in benchmarks/_peers.py; run arena.py --freeze")
    return settings


def frozen_arguments(tool: str) -> dict[str, Any]:
    """Arguments of an adapter, as JSON holds them."""
    return json.loads(json.dumps(PEERS[tool][2]))


def freeze(path: Path = SETTINGS) -> None:
    """Take the arguments of all adapters into the file of the settings, which starts a new set of runs."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    for method in settings["methods"]:
        if method["tool"] in PEERS:
            method["arguments"] = frozen_arguments(method["tool"])
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def hash_of(settings: Mapping[str, Any]) -> str:
    """Hash of settings, independent of the order and layout of the file; 12 digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@dataclass
class Runs:
    """The runs of a file with one hash.

    Args:
        path: JSON lines; it need not exist.
        settings: hash of the settings.
    """

    path: Path
    settings: str
    by_key: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    others: int = 0  #: lines of other settings
    broken: int = 0  #: lines that are not complete

    def __post_init__(self) -> None:
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                run = json.loads(line)
                key = key_of(run)
            except (ValueError, KeyError, TypeError):
                self.broken += bool(line)
                continue
            if run.get("settings") == self.settings:
                self.by_key[key] = run  # a later run replaces an earlier one
            else:
                self.others += 1

    def __iter__(self) -> Any:
        return iter(self.by_key.values())

    def of(self, tool: str, preset: str = "") -> list[dict[str, Any]]:
        """The runs of a method."""
        return [run for run in self if (run["tool"], run["preset"]) == (tool, preset)]

    @property
    def nothing(self) -> dict[str, dict[str, Any]]:
        """Case to the score of zero displacement."""
        return {run["case"]: run for run in self.of(NOTHING)}

    def add(self, run: Run) -> None:
        """Append a run to the file in one write."""
        stored = {"settings": self.settings, **run}
        line = json.dumps(stored).encode() + b"\n"
        with self.path.open("ab") as file:
            line = (b"\n" if self._cut_off() else b"") + line
            os.write(file.fileno(), line)
            os.fsync(file.fileno())
        self.by_key[key_of(stored)] = stored

    def _cut_off(self) -> bool:
        """Return whether the last line of the file is not complete."""
        with self.path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def names_of_methods(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Tool and preset of all methods, in the order of the file."""
    return [(method["tool"], method["preset"]) for method in settings["methods"]]


def kind_of(settings: Mapping[str, Any], case: str) -> str:
    """Kind of a case.

    Raises:
        KeyError: when the settings do not list the case.
    """
    for name, kind in settings["kinds"].items():
        if case in kind["cases"]:
            return name
    raise KeyError(case)


def cases_of(settings: Mapping[str, Any], kinds: Sequence[str] | None = None) -> list[str]:
    """All cases, or those of some kinds."""
    return [case for name, kind in settings["kinds"].items() if kinds is None or name in kinds for case in kind["cases"]]
