# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Data sets of the Learn2Reg challenge, all tasks: pairs, masks, label maps and points as a ``dataset.json`` lists them.

The layout of the releases since 2022 (https://learn2reg.grand-challenge.org): ``NAME_dataset.json`` beside ``imagesTr``,
``labelsTr``, ``masksTr``, ``keypointsTr``, ``landmarksTr``; images are called ``NAME_0001_0000.nii.gz``, subject and modality.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_locor.data.annotations import read_label
from monai_locor.data.study_case import StudyCase
from monai_locor.errors import InputError, one_line
from monai_locor.geometry import Grid, apply_affine
from monai_locor.io import read_image, read_mask

from .study import Study

__all__ = ["Learn2Reg", "Learn2RegPair"]

SPLIT_KEYS = {  # split: keys of dataset.json, the first non-empty one is used
    "train": ("training_paired_images",),
    "val": ("registration_val",),
    "test": ("registration_test", "test_paired_images"),
}
ANNOTATIONS = {"label": "labels", "mask": "masks"}  # key in an image's entry: replacement of "images" in the folder name
POINT_KINDS = ("landmarks", "keypoints")
IMAGE_NAME = re.compile(r"_(\d{4})_(\d{4})\.nii(\.gz)?$")


@dataclass(frozen=True)
class Learn2RegPair:
    """Two images of a data set with their annotations; paths are absolute or relative to the data set's folder.

    Args:
        fixed, moving: images.
        fixed_files, moving_files: other files of the images by kind: ``"label"``, ``"mask"``, ``"landmarks"``, ``"keypoints"``.
    """

    fixed: Path
    moving: Path
    fixed_files: Mapping[str, Path] = field(default_factory=dict)
    moving_files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, str, str, str]:
        """Subject and modality of the fixed, then of the moving image, four digits each."""
        fixed, moving = IMAGE_NAME.search(self.fixed.name), IMAGE_NAME.search(self.moving.name)
        if fixed is None or moving is None:
            raise InputError(f"images {self.fixed.name} and {self.moving.name}: Learn2Reg names end in _0001_0000.nii.gz")
        return fixed[1], fixed[2], moving[1], moving[2]

    @property
    def name(self) -> str:
        """Subject and modality of the fixed and of the moving image, as in the challenge's results."""
        fixed, of_fixed, moving, of_moving = self.ids
        return f"{fixed}_{of_fixed}_from_{moving}_{of_moving}"

    @property
    def displacement(self) -> str:
        """File name of the displacement in a submission, in short form if the challenge allows it."""
        fixed, of_fixed, moving, of_moving = self.ids
        if of_fixed == of_moving or (of_fixed, of_moving) == ("0000", "0001"):
            return f"disp_{fixed}_{moving}.nii.gz"
        return f"disp_{fixed}_{of_fixed}_{moving}_{of_moving}.nii.gz"


class Learn2Reg(Study):
    """A task of the challenge.

    Splits, as far as the data set lists pairs of them: ``"train"``, ``"val"``, ``"test"``.

    Args:
        path: of the ``dataset.json``, or of the folder that it is in.

    Raises:
        InputError: if it does not exist, or is not a data set of Learn2Reg.
    """

    name = "learn2reg"
    source = "the data sets are at https://learn2reg.grand-challenge.org/Datasets/; unpack one as a whole"
    measures = ("dice", "hd95", "tre_landmarks_mm", "tre_keypoints_mm", "sdlogj", "folding_voxels", "ndv_percent")

    def __init__(self, path: str | PathLike[str]) -> None:
        file = _dataset_file(Path(path).expanduser())
        super().__init__(file.parent)
        content = _content(file)
        self.task = str(content.get("name", file.stem))
        self.labels = _labels(content.get("labels"))
        files = {_inside(entry["image"]): entry for entry in _entries(content)}
        self._pairs = {split: tuple(self._listed(content, keys, files, file)) for split, keys in SPLIT_KEYS.items()}
        self._by_name = {pair.name: pair for pairs in self._pairs.values() for pair in pairs}
        self.splits = {split: tuple(pair.name for pair in pairs) for split, pairs in self._pairs.items() if pairs}
        if not self.splits:
            keys = ", ".join(key for group in SPLIT_KEYS.values() for key in group)
            raise InputError(f"data set {file}: lists no pairs under {keys}; is it a dataset.json of Learn2Reg?")

    def pairs(self, split: str = "val") -> tuple[Learn2RegPair, ...]:
        """Pairs of a split.

        Raises:
            InputError: for an unknown split.
        """
        self.names(split)
        return self._pairs[split]

    def pair(self, name: str) -> Learn2RegPair:
        """The pair of a name.

        Raises:
            InputError: for an unknown name.
        """
        self._check_name(name)
        return self._by_name[name]

    def files(self, name: str) -> dict[str, Path]:
        """Images of a pair and their annotations, listed or at their default paths."""
        pair = self.pair(name)
        sides = (("fixed", pair.fixed, pair.fixed_files), ("moving", pair.moving, pair.moving_files))
        return {
            f"{side}{kind}": path
            for side, image, others in sides
            for kind, path in (("", image), *((f"_{kind}", path) for kind, path in others.items()))
        }

    def _load(self, name: str, files: Mapping[str, Path]) -> StudyCase:
        volumes: dict[str, Any] = {}
        for side in ("fixed", "moving"):
            volumes[side] = read_image(files[side], side)[0]
            for kind, part, read in (("label", "labels", read_label), ("mask", "mask", read_mask)):
                if f"{side}_{kind}" in files:
                    volumes[f"{side}_{part}"] = read(files[f"{side}_{kind}"], side)
        grids = [Grid.of(volumes[side]) for side in ("fixed", "moving")]
        points = {
            kind: (_points(files[f"fixed_{kind}"], grids[0]), _points(files[f"moving_{kind}"], grids[1]))
            for kind in POINT_KINDS
            if f"fixed_{kind}" in files and f"moving_{kind}" in files
        }
        told = {"task": self.task, "labels": {str(n): label for n, label in self.labels.items()}}
        told["displacement"] = self.pair(name).displacement
        return StudyCase(study=self.name, name=name, points=points, about=told, **volumes)

    def _listed(
        self, content: Mapping[str, Any], keys: Sequence[str], entries: Mapping[str, Mapping[str, Any]], file: Path
    ) -> Iterator[Learn2RegPair]:
        """Pairs of the first non-empty key."""
        for item in next((content[key] for key in keys if content.get(key)), []):
            if not isinstance(item, Mapping) or not {"fixed", "moving"} <= set(item):
                raise InputError(f"data set {file}: a pair is {str(item)[:60]}, not fixed and moving; repair the file")
            images = {side: _inside(str(item[side])) for side in ("fixed", "moving")}
            modalities = [str(match.group(2)) for match in map(IMAGE_NAME.search, images.values()) if match]
            others = [self._others(image, entries.get(image, {}), sorted(modalities)) for image in images.values()]
            paths = {side: self.folder / image for side, image in images.items()}
            yield Learn2RegPair(paths["fixed"], paths["moving"], *others)

    def _others(self, image: str, entry: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Path]:
        """Annotation files of an image, listed or at their default paths."""
        found = {kind: self.folder / _inside(str(entry[kind])) for kind in ANNOTATIONS if entry.get(kind)}
        for kind, folder in ANNOTATIONS.items():
            path = self.folder / image.replace("images", folder, 1)
            if kind not in found and folder not in image and path.is_file():
                found[kind] = path
        # with several modalities, each two of them have their own keypoints: keypoints01Tr, keypoints02Tr
        ending = "".join(str(int(modality)) for modality in modalities)
        for kind in POINT_KINDS:
            for folder in (kind + ending, kind):
                path = (self.folder / image.replace("images", folder, 1)).with_suffix("").with_suffix(".csv")
                if kind not in found and path.is_file():
                    found[kind] = path
        return found


def _dataset_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*dataset.json"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        wanted = f"folder {path}: needs one file that ends in dataset.json, has {names}"
        raise InputError(f"{wanted}; name the file; {Learn2Reg.source}")
    return found[0]


def _content(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"data set {file}: cannot be read ({error.strerror}); {Learn2Reg.source}") from error
    except ValueError as error:
        raise InputError(f"data set {file}: is not valid JSON ({one_line(error)}); unpack the archive again") from error
    if not isinstance(content, Mapping):
        raise InputError(f"data set {file}: is not a JSON object; give a dataset.json of Learn2Reg")
    return content


def _entries(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Entries of the training images, in one list or in one list per modality.

    Files of test images may be withheld.
    """
    listed = content.get("training") or []
    for group in listed.values() if isinstance(listed, Mapping) else [listed]:
        yield from (entry for entry in group if isinstance(entry, Mapping) and "image" in entry)


def _inside(path: str) -> str:
    """A path in a data set without its leading ./."""
    return path.removeprefix("./")


def _labels(listed: Any) -> dict[int, str]:
    """Names of the labels of the first modality, without the background; empty if none are listed."""
    if isinstance(listed, Mapping) and listed and all(isinstance(value, Mapping) for value in listed.values()):
        listed = next(iter(listed.values()))
    if isinstance(listed, Sequence) and not isinstance(listed, str):
        listed = dict(enumerate(listed))
    pairs = listed.items() if isinstance(listed, Mapping) else ()
    return {int(number): str(name) for number, name in pairs if str(number).isdigit() and int(number) > 0}


def _points(path: Path, grid: Grid) -> torch.Tensor:
    """A CSV file of voxel positions without a header, as ``(N, D)`` float64, RAS mm."""
    try:
        points = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"points {path}: cannot be read ({one_line(error)}); a line is x,y,z in voxels") from error
    if points.shape[1] != grid.dims or not np.isfinite(points).all():
        raise InputError(f"points {path}: has {points.shape[1]} columns; needed are {grid.dims} finite voxel positions a line")
    return torch.from_numpy(apply_affine(grid.affine, points))
