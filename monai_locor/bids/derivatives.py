# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Results of registrations as files of a BIDS derivative dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..cohort.folder import CohortFolder
from ..data.datalist import refuse
from ..errors import InputError
from ..io.paths import expanded, locked_folder
from .dataset import DerivativeDataset
from .files import DerivedFile, check_ending, sidecar_of
from .names import PairNames
from .pair import DerivedPair

__all__ = ["Derivatives", "check_pair_names", "result_folders", "write_derivatives"]


@dataclass(frozen=True)
class Derivatives:
    """What :func:`write_derivatives` has done.

    Attributes:
        folder: the derivative dataset.
        written: files that were written, with their sidecars.
        kept: number of files that were there already, of the same registrations.
        left_out: folders of pairs that are not in the last list of their cohort, or not done in it.
    """

    folder: Path
    written: list[Path]
    kept: int
    left_out: list[Path] = field(default_factory=list)


def write_derivatives(
    results: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    xfm: str = ".h5",
    force: bool = False,
) -> Derivatives:
    """Write results of registrations of BIDS images as a BIDS derivative dataset, or add them to one.

    For each pair: the warped images, the transform and its inverse, the maps of the transform and the report, as far as they
    are among the outputs of the registration, each with a JSON sidecar. ``dataset_description.json``, ``README.md`` and
    ``.bidsignore`` are written if they are missing. Every file appears when it is complete, the sidecar last. A repeated call
    writes nothing.

    Args:
        results: output folders of ``register``, or of a cohort for the pairs of its last list that are done.
        output: folder of the derivative dataset, for example ``derivatives/monai_locor`` in the dataset of the images.
        xfm: ending of the transforms: ``".h5"`` (ITK), ``".x5"`` or ``".nii.gz"`` (ITK displacement field).
        force: replace files of other registrations of the same images, instead of refusing.

    Raises:
        InputError: before the first file is written, if a result is missing or incomplete, its images have no names of BIDS,
            two results would have the same names, the folder is another dataset, or files of another registration are there.
    """
    check_ending(xfm)
    several = [results] if isinstance(results, (str, os.PathLike)) else list(results)
    found = [result_folders(each) for each in several]
    folders, left_out = ([folder for each in found for folder in each[kind]] for kind in (0, 1))
    with locked_folder(expanded(output, f"BIDS derivatives {os.fspath(output)}")):
        dataset = DerivativeDataset(output)
        pairs = [DerivedPair(folder, dataset, xfm) for folder in folders]
        check_pair_names((str(pair.folder), pair.names) for pair in pairs)
        missing, outdated = _compared(pairs, dataset.root)
        if outdated and not force:
            first, more = min(outdated).relative_to(dataset.root), f" (and {len(outdated) - 1} more)" if outdated[1:] else ""
            raise InputError(
                f"BIDS derivatives {dataset.root}: {first} is of another registration{more}; name another folder, or add "
                "--force (force=True) to replace them"
            )
        dataset.write()
        for file in missing:
            file.write(dataset.root)
        planned = {dataset.root / file.path for pair in pairs for file in pair.files}
        sidecars = {sidecar_of(path) for path in planned}
        for path in {*outdated} - planned:  # outputs that the new registration does not have
            for each in {path, sidecar_of(path)} - sidecars:
                each.unlink(missing_ok=True)
    count = sum(len(pair.files) for pair in pairs)
    return Derivatives(dataset.root, [dataset.root / file.path for file in missing], count - len(missing), left_out)


def _compared(pairs: Iterable[DerivedPair], root: Path) -> tuple[list[DerivedFile], list[Path]]:
    """The files to write, and existing files of other registrations of the same images."""
    missing: list[DerivedFile] = []
    outdated: list[Path] = []
    for pair in pairs:
        missing += [file for file in pair.files if not file.is_written(root)]
        outdated += [root / path for path in pair.possible if (root / path).exists() and not pair.made(root / path)]
    return missing, outdated


def result_folders(path: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """The output folders of ``register`` in a folder: itself, or those of the pairs of a cohort.

    Returns:
        the folders to use; and those of pairs that are not in the last list of the cohort, or not done in it, which have
        results of an earlier run.

    Raises:
        InputError: if there is none to use.
    """
    folder = expanded(path, f"results {os.fspath(path)}").absolute()
    if (folder / "run.json").is_file():
        return [folder], []
    pairs = sorted(each.parent for each in folder.glob("pairs/*/run.json"))
    states = CohortFolder(folder).states()
    done: list[Path] = []
    left_out: list[Path] = []
    for pair in pairs:
        (done if not states or states.get(pair.name) == "done" else left_out).append(pair)
    if not done:
        raise InputError(
            f"results {folder}: has no run.json and no pairs/*/run.json of pairs that are done; name an output folder of "
            "register or cohort"
        )
    return done, left_out


def check_pair_names(named: Iterable[tuple[str, PairNames]]) -> None:
    """Check that no two pairs have the same names of files.

    Args:
        named: pairs with their names for messages.

    Raises:
        InputError: if two have.
    """
    seen: dict[str, str] = {}
    faults = []
    for what, names in named:
        paths = [*(names.transform("xfm", "", back) for back in (False, True)), *names.warped]
        for path in (str(each) for each in paths):
            if seen.setdefault(path.casefold(), what) != what:
                faults.append(f"{what} and {seen[path.casefold()]} would both have {path}")
                break
    refuse(faults, "BIDS derivatives", "give the images names that differ, or write them to different folders")
