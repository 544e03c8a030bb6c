# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Learn2Reg abdomen MR-CT as in the paper: eight patients with an MR and a CT, four organs.

The data are the paired training cases of the first task of Learn2Reg 2021 (https://learn2reg.grand-challenge.org): MR and CT
of The Cancer Imaging Archive, 192 x 160 x 192 voxels, MR fixed, CT moving. Two layouts of the same images are read:

- as published in 2021, ``Train/img0012_tcia_MR.nii.gz`` with ``seg0012_tcia_MR.nii.gz``, and, of the archive of masks,
  ``L2R_Task1_MRCT/Train/mask0012_tcia_MR.nii.gz``;
- as released since, ``imagesTr/AbdomenMRCT_0006_0000.nii.gz`` (MR; the CT has ``_0001``) with ``labelsTr`` and ``masksTr``,
  case numbers halved; its masks are assumed to be the regions of interest of 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from monai.data.meta_tensor import MetaTensor

from monai_locor.data.annotations import read_label
from monai_locor.data.study_case import StudyCase
from monai_locor.errors import InputError
from monai_locor.geometry import Grid, same_grid, warp
from monai_locor.io import read_image, read_mask

from .masks import foreground_mask
from .study import Study

__all__ = ["MASK_CHOICES", "AbdomenMRCT"]

MASK_CHOICES = ("foreground", "roi", "none")
FOREGROUND_THRESHOLD = {"MR": 0.0, "CT": -1024.0}  # lower limit of measured voxels
CASE_THRESHOLDS = {("0010", "CT"): -1023.0}
CASE_EROSIONS = {("0010", "MR"): 3, ("0014", "MR"): 4}  # others: one, to remove the margin left by interpolation
CHANNELS = {"MR": 0, "CT": 1}


class AbdomenMRCT(Study):
    """Learn2Reg abdomen MR-CT.

    Splits: ``"validation"`` 0012, 0014, 0016; ``"test"`` 0002, 0004, 0008, 0010; ``"dropped"`` 0006, which is in the paper's
    code but not in its tables.

    Args:
        folder: with the data in one of the layouts above.
        masks: for the registration: ``"foreground"``, ``"roi"`` (foreground in the region of interest) or ``"none"``.
        fixed: modality of the fixed image, ``"MR"`` as in the paper, or ``"CT"``.

    Raises:
        InputError: if the folder does not exist, or for unknown masks or an unknown modality.
    """

    name = "abdomen"
    source = "the data are those of Learn2Reg 2021, task 1, https://learn2reg.grand-challenge.org/Datasets/ (AbdomenMRCT)"
    splits = {
        "validation": ("0012", "0014", "0016"),
        "test": ("0002", "0004", "0008", "0010"),
        "dropped": ("0006",),
    }
    measures = ("dice", "hd95", "ndv_percent", "det_std")

    def __init__(self, folder: str | PathLike[str], masks: str = "foreground", fixed: str = "MR") -> None:
        super().__init__(folder)
        if masks not in MASK_CHOICES:
            raise InputError(f"{self.name}: has no masks {masks!r}; choose from {', '.join(MASK_CHOICES)}")
        if fixed not in CHANNELS:
            raise InputError(f"{self.name}: has no modality {fixed!r}; choose from {', '.join(CHANNELS)}")
        self.masks = masks
        self.modalities = {"fixed": fixed, "moving": next(other for other in CHANNELS if other != fixed)}

    def files(self, name: str) -> dict[str, Path]:
        """Images and label maps of a case, and its regions of interest if they are used."""
        return {
            part + ending: self._first(_places(name, kind, modality))
            for part, modality in self.modalities.items()
            for ending, kind in (("", "img"), ("_labels", "seg"), ("_roi", "mask"))
            if kind != "mask" or self.masks == "roi"
        }

    def _load(self, name: str, files: Mapping[str, Path]) -> StudyCase:
        images = {part: read_image(files[part], part)[0] for part in self.modalities}
        labels = {part: read_label(files[f"{part}_labels"], part) for part in self.modalities}
        foreground = {part: _foreground(images[part], name, modality) for part, modality in self.modalities.items()}
        masks: dict[str, MetaTensor | None] = dict.fromkeys(self.modalities)
        for part in self.modalities if self.masks != "none" else ():
            roi = read_mask(files[f"{part}_roi"], part) if self.masks == "roi" else None
            masks[part] = foreground[part] if roi is None else _both(foreground[part], roi, files[f"{part}_roi"])
        _check_same_grid(images["fixed"], labels["fixed"], files["fixed_labels"])
        return StudyCase(
            study=self.name,
            name=name,
            fixed=images["fixed"],
            moving=images["moving"],
            fixed_mask=masks["fixed"],
            moving_mask=masks["moving"],
            evaluation_mask=foreground["fixed"],
            fixed_labels=labels["fixed"],
            moving_labels=labels["moving"],
            about={"masks": self.masks},
        )


def _places(name: str, kind: str, modality: str) -> list[str]:
    """Candidate paths of a file of a case, below the folder."""
    old = f"{kind}{name}_tcia_{modality}.nii.gz"
    new = f"AbdomenMRCT_{int(name) // 2:04d}_{CHANNELS[modality]:04d}.nii.gz" if name.isdigit() else ""
    folder = {"img": "imagesTr", "seg": "labelsTr", "mask": "masksTr"}[kind]
    homes = ("L2R_Task1_MRCT/Train", "Train", "") if kind == "mask" else ("Train", "L2R_Task1_MRCT/Train", "")
    return [*(f"{home}/{old}".lstrip("/") for home in homes), *(f"{home}{folder}/{new}" for home in ("", "AbdomenMRCT/"))]


def _foreground(image: MetaTensor, name: str, modality: str) -> MetaTensor:
    threshold = CASE_THRESHOLDS.get((name, modality), FOREGROUND_THRESHOLD[modality])
    return foreground_mask(image, threshold, CASE_EROSIONS.get((name, modality), 1))


def _both(mask: MetaTensor, roi: MetaTensor, path: Path) -> MetaTensor:
    """A mask restricted to a region of interest, on the grid of the mask."""
    grid = Grid.of(mask)
    inside = warp(roi, Grid.of(roi), None, grid, mode="nearest") > 0
    both = mask.as_tensor() * inside.to(mask.dtype)
    if not both.any():
        raise InputError(f"region of interest {path}: does not overlap the foreground of its image; check the files")
    return MetaTensor(both, affine=mask.affine.clone())


def _check_same_grid(image: MetaTensor, labels: MetaTensor, path: Path) -> None:
    if not same_grid(Grid.of(image), Grid.of(labels)):
        raise InputError(f"labels {path}: do not lie on the grid of their image, {tuple(image.shape[1:])}; check the file")
