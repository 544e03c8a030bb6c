# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``run.json``, the record for repeating a registration: inputs with hashes, arguments, settings, versions."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import InputError, one_line
from ..geometry import Grid
from ..io.file_channel import FileChannel
from ..io.paths import expanded, read_json
from ..io.stored_files import stored_files, stored_place
from ..roles import ROLES

__all__ = [
    "CODE_ARGUMENTS",
    "INPUT_IMAGES",
    "INPUT_NAMES",
    "MANIFEST_FORMAT",
    "MANIFEST_NAME",
    "TRANSFORM_NAMES",
    "RunManifest",
    "described_grid",
    "read_run",
    "sha256",
    "versions",
    "well_formed",
]

logger = logging.getLogger(__name__)

MANIFEST_FORMAT = "monai_locor run 1"
MANIFEST_NAME = "run.json"
HASH_CHUNK_BYTES = 2**20
INPUT_IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask")
INPUT_NAMES = (*INPUT_IMAGES, "initial", "initial_velocity", "initial_basis")
TRANSFORM_NAMES = ("initial", "transform", "inverse")  # arguments that are transforms; the last two of a check
RECORDED_VALUES = ("seed", "device", "devices", "channel_weights", "landmarks")
CODE_ARGUMENTS = ("predict", "similarity")  # code: only the name is recorded, so the user must give it again


def described_grid(grid: Grid) -> dict[str, Any]:
    """Return a grid as plain values for JSON: shape, and affine in three dimensions."""
    return {"shape": list(grid.shape), "affine": grid.full_affine.tolist()}


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect the results; ITK is optional."""
    found = {"monai_locor": __version__, **{name: _version(name) for name in ("monai", "torch", "numpy")}}
    with contextlib.suppress(PackageNotFoundError):
        found["itk"] = version("itk-core")  # also installed by `itk`
    return {**found, "python": platform.python_version()}


def _version(name: str) -> str:
    """Return the version of a package, from its metadata if possible, otherwise from the module."""
    try:
        return version(name)
    except PackageNotFoundError:
        return str(import_module(name).__version__)


def sha256(path: str | PathLike[str], transform: bool = False) -> str:
    """Return the hash of a file, or of the names and contents of all files in a folder (a DICOM series), hexadecimal.

    Args:
        transform: hash only the transform in an output folder of ``register``.

    Raises:
        FileNotFoundError: if the path does not exist.
    """
    root = expanded(path)
    digest = hashlib.sha256()
    files = list(stored_files(root, transform))
    if not files and not root.is_dir():
        raise FileNotFoundError(root)
    for file in files:
        if root.is_dir():
            digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def read_run(path: str | PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Read the record of a registration or of a check.

    Args:
        path: ``run.json``, its folder, or the file that ``monai-locor check -o`` wrote.

    Returns:
        path of the file, and its content, see :func:`monai_locor.schemas.run_schema`.

    Raises:
        InputError: if it is missing, not JSON, or not of this format.
    """
    file = expanded(path)
    file = file / MANIFEST_NAME if file.is_dir() else file
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; name the {MANIFEST_NAME} of a registration, or its folder.") from error
    except (ValueError, OSError) as error:
        reason = one_line(error)
        raise InputError(f"{file}: cannot be read as JSON ({reason}); name the {MANIFEST_NAME} of a registration.") from error
    found = content.get("format") if isinstance(content, dict) else None
    wanted = ("arguments",) if found == MANIFEST_FORMAT and content.get("kind") == "check" else ("arguments", "settings")
    if found != MANIFEST_FORMAT or not all(isinstance(content.get(key), dict) for key in wanted):
        raise InputError(
            f"{file}: is not the {MANIFEST_NAME} of a registration (format {found!r}, this version reads {MANIFEST_FORMAT!r})."
        )
    return file, content


@contextlib.contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Convert errors about missing and malformed values of a record into an InputError that names the file."""
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path}: is damaged ({reason}); repeat the registration.") from error


@dataclass(frozen=True)
class RunManifest:
    """The content of a ``run.json``.

    Example::

        register(**RunManifest.load("out/run.json").arguments())

    Attributes:
        path: path of the file.
        content: parsed content.
    """

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> RunManifest:
        """Read the ``run.json`` written by :meth:`monai_locor.RegistrationResult.save`.

        Args:
            path: the file or its folder.

        Raises:
            InputError: if it is missing, not JSON, not of this format, or the record of a check.
        """
        file, content = read_run(path)
        if content.get("kind") == "check":
            raise InputError(f"{file}: records a check; name the {MANIFEST_NAME} of a registration.")
        return cls(file, content)

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments for :func:`monai_locor.register` to repeat it. All files are checked against their hashes.

        Args:
            changes: replacements of arguments. Inputs that were in memory must be given again.

        Raises:
            InputError: if a file is missing or has changed, or an input was in memory and is not given.
        """
        with well_formed(self.path):
            return self._arguments(changes)

    def _arguments(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        recorded = self.content["arguments"]
        out: dict[str, Any] = {"preset": self.content["settings"]}
        for name in (*INPUT_NAMES, *CODE_ARGUMENTS):
            if name in changes or name not in recorded:
                continue
            out[name] = self.input(name)
        if recorded.get("labels") is not None and "labels" not in changes:
            out["labels"] = (self.labels("fixed"), self.labels("moving"), recorded["labels"]["weights"])
        if recorded.get("surfaces") is not None and "surfaces" not in changes:
            out["surfaces"] = [
                (*(self._checked(f"{role} surface", pair[role]) for role in ROLES), pair["weight"])
                for pair in recorded["surfaces"]
            ]
        out.update({name: recorded[name] for name in RECORDED_VALUES if recorded.get(name) is not None})
        if "device" in changes or "devices" in changes:  # mutually exclusive
            out = {name: value for name, value in out.items() if name not in ("device", "devices")}
        was, now = self.content.get("versions", {}), versions()
        other = [f"{name} {was[name]} then, {now[name]} now" for name in now if name in was and was[name] != now[name]]
        if other:
            logger.warning("%s: other versions may give slightly other numbers: %s", self.path, "; ".join(other))
        return {**out, **changes}

    def input(self, name: str) -> Any:
        """Return a recorded argument; its files are checked against their hashes.

        Raises:
            InputError: if a file is missing or has changed, or if the argument was in memory.
        """
        with well_formed(self.path):
            return self._checked(name, self.content["arguments"][name])

    def first_entry(self, role: str) -> Mapping[str, Any]:
        """Return the record of the first or only image of a side; empty if there is none."""
        entry: Mapping[str, Any] = self.content["arguments"].get(role, {})
        return entry["list"][0] if entry.get("list") else entry

    def labels(self, role: str) -> Any:
        """Return the labels of the ``"fixed"`` or ``"moving"`` image that drove the registration, as :meth:`input`."""
        with well_formed(self.path):
            return self._checked(f"{role} labels", self.content["arguments"]["labels"][role])

    def _checked(self, name: str, entry: Mapping[str, Any]) -> Any:
        if "list" in entry:
            return [self._checked(name, item) for item in entry["list"]]
        if "matrix" in entry:
            return np.array(entry["matrix"], dtype=np.float64)
        if "path" not in entry:
            what = entry.get("code") or entry.get("name") or "an object"
            raise InputError(f"{self.path}: {name} was {what} in memory, and must be given again to repeat the registration.")
        path, transform = Path(entry["path"]), name in TRANSFORM_NAMES
        if not stored_place(path).is_dir() and not list(stored_files(stored_place(path), transform)):
            raise InputError(f"{self.path}: {name} was {path}, which is not there any more; give it again.")
        if sha256(stored_place(path), transform) != entry.get("sha256"):
            raise InputError(f"{path}: has changed since {self.path} was written; give {name} again to use it all the same.")
        if "channel" in entry:
            return FileChannel(str(path), int(entry["channel"]))
        return f"[{path},1]" if entry.get("inverse") else str(path)
