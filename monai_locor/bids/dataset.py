# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The files at the top of a derivative dataset: its description, what the standard does not know, and an explanation."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ..errors import InputError
from ..io.paths import atomic_path, expanded, read_json, write_json
from .names import BidsImage

__all__ = ["DerivativeDataset", "metadata_of"]

NAME = "monai_locor"
BIDS_VERSION = "1.10.0"
DESCRIPTION, IGNORE, README = "dataset_description.json", ".bidsignore", "README.md"
IGNORED = "*_mode-image_*"
README_TEXT = """\
# Registered images

Made by `monai-locor` from the datasets that `DatasetLinks` in `dataset_description.json` names.

- `*_space-X_desc-registered_*.nii.gz`: the image of this name, resampled to the grid of the image in `SpatialReference`.
- `*_from-A_to-B_mode-image_xfm.*`: the transform that resamples images in the space A to the space B. It maps points of B to
  points of A. `.h5` and `.nii.gz` are read by ITK, ANTs and 3D Slicer, `.x5` by nitransforms. The sidecar has the verdict, the
  measures and the settings.
- `*_mode-image_report.html`, `*_jacobian.nii.gz`, `*_error.nii.gz`, `*_missing.nii.gz`: the report of the registration, and
  maps that describe the transform of this name.

BIDS does not define names of transforms yet, so `.bidsignore` lists them.
"""
# metadata that a resampled image does not share with its source: what counts voxels or slices, and what is about files
CHANGED = (
    *("SliceTiming", "SliceEncodingDirection", "PhaseEncodingDirection", "IntendedFor", "B0FieldIdentifier", "B0FieldSource"),
    *("Sources", "RawSources", "SpatialReference", "Description", "Resolution", "Density", "ChunkTransformationMatrix"),
)


class DerivativeDataset:
    """A derivative dataset of this package, new or existing.

    Args:
        root: its folder, which need not exist.

    Attributes:
        root: absolute path.
        description: content of ``dataset_description.json``, with what has been added.

    Raises:
        InputError: if the folder is another dataset, or cannot be one.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = expanded(root, f"BIDS derivatives {os.fspath(root)}").absolute()
        self._stored = _description(self.root)
        self.description: dict[str, Any] = copy.deepcopy(self._stored) or {
            "Name": "Registered images",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
        }
        names = [each.get("Name") for each in self.description.get("GeneratedBy", ()) if isinstance(each, dict)]
        if self._stored and NAME not in names:
            found = self._stored.get("Name", "without a name")
            raise InputError(f"BIDS derivatives {self.root}: holds another dataset ({found}); name a folder of its own")
        if not self._stored and self.root.is_dir() and any(not path.name.startswith(".") for path in self.root.iterdir()):
            raise InputError(f"BIDS derivatives {self.root}: is not empty and has no {DESCRIPTION}; name an empty folder")

    def uri(self, image: BidsImage | PurePosixPath) -> str:
        """The BIDS URI of an image, whose dataset is added to the description, or of a file of this dataset.

        Raises:
            InputError: if this dataset would be written into that of the image.
        """
        if isinstance(image, PurePosixPath):
            return f"bids::{quote(str(image), safe='/+')}"
        if image.root == self.root:
            return self.uri(image.path)
        return f"bids:{self._link(image)}:{quote(str(image.path), safe='/+')}"

    def _link(self, image: BidsImage) -> str:
        inside = self.root.relative_to(image.root).parts if self.root.is_relative_to(image.root) else ("derivatives",)
        if inside[0] != "derivatives" and not image.template:
            where = image.root / "derivatives" / NAME
            raise InputError(f"BIDS derivatives {self.root}: is among the images of the dataset {image.root}; use {where}")
        links: dict[str, str] = self.description.setdefault("DatasetLinks", {})
        target = _link_target(image.root, self.root)
        for name, known in links.items():
            if known == target:
                return name
        source = _description(image.root)
        raw = source.get("DatasetType", "raw") == "raw"
        base = "template" if image.template else "raw" if raw else re.sub("[^0-9A-Za-z]", "", image.root.name) or "source"
        name = next(name for name in (base, *(f"{base}{n}" for n in range(2, len(links) + 3))) if name not in links)
        links[name] = target
        doi = source.get("DatasetDOI")
        entry = {"DOI": doi} if isinstance(doi, str) else {"URL": image.root.as_uri()}
        self.description.setdefault("SourceDatasets", []).append(entry)
        return name

    def generated_by(self, version: str) -> None:
        """Note a version of this package that made files."""
        entry = {"Name": NAME, "Version": version}
        makers: list[Any] = self.description.setdefault("GeneratedBy", [])
        if entry not in makers:
            makers.append(entry)

    def write(self) -> None:
        """Write what is missing or has changed. The dataset is valid afterwards, also without images."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self.description != self._stored:
            write_json(self.root / DESCRIPTION, self.description)
            self._stored = copy.deepcopy(self.description)
        if not any(self.root.glob("README*")):
            _write(self.root / README, README_TEXT)
        ignore = self.root / IGNORE
        lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
        if IGNORED not in lines:
            _write(ignore, "\n".join([*lines, IGNORED, ""]))


def metadata_of(image: BidsImage) -> dict[str, Any]:
    """The metadata of an image that hold after resampling, from its sidecar and from those that it inherits.

    Sidecars in the folders above apply if their entities are among those of the image and their suffix is the same.
    """
    found: dict[str, Any] = {}
    for folder in _folders(image):
        sidecars = (path for path in folder.glob(f"*{image.suffix}.json") if _applies(path, image))
        for path in sorted(sidecars, key=lambda path: path.name.count("_")):
            with contextlib.suppress(OSError, ValueError):
                values = read_json(path)
                found.update(values if isinstance(values, dict) else {})
    return {key: value for key, value in found.items() if key not in CHANGED}


def _folders(image: BidsImage) -> Iterable[Path]:
    """The folders from the root of the dataset to that of an image."""
    place = image.root / image.path.parent
    return [*reversed([above for above in place.parents if above.is_relative_to(image.root)]), place]


def _applies(sidecar: Path, image: BidsImage) -> bool:
    *entities, suffix = sidecar.stem.split("_")
    return suffix == image.suffix and {*entities} <= {f"{key}-{value}" for key, value in image.entities.items()}


def _description(root: Path) -> dict[str, Any]:
    """The description of a dataset; empty if it has none.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        content = read_json(root / DESCRIPTION)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{root / DESCRIPTION}: cannot be read ({error}); repair it") from error
    if not isinstance(content, dict):
        raise InputError(f"{root / DESCRIPTION}: is not an object; repair it")
    return content


def _link_target(root: Path, start: Path) -> str:
    """Path of a dataset relative to another one; a URI if there is none, as between drives of Windows."""
    try:
        return quote(Path(os.path.relpath(root, start)).as_posix(), safe="/+~")
    except ValueError:
        return root.as_uri()


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
