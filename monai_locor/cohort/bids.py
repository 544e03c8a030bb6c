# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Pairs of images in a BIDS folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bids.names import name_parts
from ..data.datalist import refuse
from ..errors import InputError
from ..roles import ROLES
from .pairs import CohortPair

__all__ = ["bids_pairs"]

logger = logging.getLogger(__name__)

MAX_NAMED_SESSIONS = 5  # in the warning about missing images


@dataclass(frozen=True)
class _Wanted:
    """An image to look for: ``acq-mprage_T1w`` is the suffix ``T1w`` with the entity ``acq-mprage``."""

    text: str

    def matches(self, parts: Sequence[str]) -> bool:
        *entities, suffix = self.text.split("_")
        return parts[-1] == suffix and set(entities) <= {*parts[:-1]}


def bids_pairs(root: Path, fixed: str | None, moving: str | None) -> list[CohortPair]:
    """One pair for each session of each subject that has both images; others are skipped with a warning.

    Args:
        root: folder with ``sub-*`` folders.
        fixed, moving: names of the images, see :func:`.lists.read_pairs`.

    Returns:
        pairs with ids such as ``sub-01_ses-2``, sorted.

    Raises:
        InputError: if a name is missing or matches several images of a session, or no session has both images.
    """
    if not fixed or not moving:
        raise InputError(f"{root}: is a folder; for BIDS, name the fixed and the moving image, for example T1w and FLAIR")
    wanted = {"fixed": _Wanted(fixed), "moving": _Wanted(moving)}
    pairs, faults, incomplete = [], [], []
    for session in _sessions(root):
        name = "_".join(session.relative_to(root).parts)
        images = [(path, name_parts(path)) for path in sorted(session.glob("*/*.nii*")) if name_parts(path)]
        found = {role: [path for path, parts in images if each.matches(parts)] for role, each in wanted.items()}
        for role, paths in found.items():
            if len(paths) > 1:
                several = ", ".join(path.name for path in paths)
                faults.append(f"{name}: {wanted[role].text} is {len(paths)} images ({several})")
        if all(found.values()):
            pairs.append(CohortPair(name, *(str(found[role][0].absolute()) for role in ROLES)))
        else:
            incomplete.append(name)
    refuse(faults, str(root), "add an entity to the name, as in run-1_T1w")
    if not pairs:
        raise InputError(f"{root}: no session has both {fixed} and {moving}; check the names, and that it has sub-* folders")
    if incomplete:
        some = ", ".join(incomplete[:MAX_NAMED_SESSIONS]) + (", ..." if len(incomplete) > MAX_NAMED_SESSIONS else "")
        logger.warning("%s: %d sessions without %s or %s are skipped: %s", root, len(incomplete), fixed, moving, some)
    return pairs


def _sessions(root: Path) -> Iterator[Path]:
    """The folders of the sessions, or of the subject where there are none."""
    for subject in sorted(path for path in root.glob("sub-*") if path.is_dir()):
        sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir())
        yield from sessions or [subject]
