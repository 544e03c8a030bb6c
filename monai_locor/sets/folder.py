# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The output folder of a template or a series: names of its files, and whether a run may write them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..cohort.folder import CohortFolder, is_free, is_of_kind, stored_object
from ..data.datalist import refuse

__all__ = [
    "RECORD_FILE",
    "TEMPLATE_FILE",
    "TEMPLATE_FORMAT",
    "TEMPLATE_RECORD",
    "check_set_folder",
    "image_name",
    "round_folder",
]

RECORD_FILE = "average.json"  # of a round
TEMPLATE_FILE = "template.nii.gz"  # of the reference contrast
TEMPLATE_RECORD = "template.json"
TEMPLATE_KIND = "monai_locor template"
TEMPLATE_FORMAT = f"{TEMPLATE_KIND} 1"


def image_name(contrast: str, reference: str) -> str:
    """File name of the template of a contrast.

    >>> image_name("T1", "T1"), image_name("FLAIR", "T1")
    ('template.nii.gz', 'template_FLAIR.nii.gz')
    """
    return TEMPLATE_FILE if contrast == reference else f"template_{contrast}.nii.gz"


def round_folder(root: Path, number: int) -> Path:
    """Folder of a round; 0 is the start."""
    return root / "rounds" / str(number)


def check_set_folder(root: Path, names: Iterable[str], files: Iterable[str], rounds: int, thresholds: bool) -> None:
    """Check before the first round that a run would overwrite nothing but what an earlier one has written.

    Args:
        root: output folder, which need not exist.
        names: ids of the images.
        files: names of the files in ``root`` that only a set has; those of a cohort are checked as well.
        rounds: number of rounds after the start.
        thresholds: whether thresholds are given.

    Raises:
        InputError: if there is a file of such a name or the folder of a round, but no run has been here.
    """
    CohortFolder(root).check_replaceable(names, thresholds)
    folders = [round_folder(root, number) for number in range(rounds + 1)]
    foreign = [f"{folder} is not that of a round" for folder in folders if not (is_free(folder) or _is_round(folder))]
    finished = is_of_kind(stored_object(root / TEMPLATE_RECORD), TEMPLATE_KIND)
    if not (finished or any(_is_round(folder) for folder in folders)):
        paths = [root / name for name in files]
        foreign += [f"{path} is not that of an earlier run" for path in paths if os.path.lexists(path)]
    refuse(foreign, f"output folder {root}", "name another output folder, or move it away")


def _is_round(folder: Path) -> bool:
    """Whether a run has begun a round here."""
    return CohortFolder(folder).is_own or "affines" in stored_object(folder / RECORD_FILE)
