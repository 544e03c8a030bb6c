# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The number that a search makes small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from .cases import Case

__all__ = ["SCORES", "Score", "choose_score"]


@dataclass(frozen=True)
class Score:
    """What the search makes small.

    Args:
        name: of the score.
        what: in words, with its unit.
        short: for axes and columns.
    """

    name: str
    what: str
    short: str

    def value(self, found: Mapping[str, float], before: Mapping[str, float]) -> float:
        """Of one run.

        Args:
            found: what the result measures.
            before: what no displacement measures.
        """
        if self.name == "relative":
            key = "tre" if "tre" in found else "dice"
            now, start = (x["tre"] if key == "tre" else 1 - x["dice"] for x in (found, before))
            return now / max(start, 1e-9)
        return 1 - found["dice"] if self.name == "dice" else found[self.name]


SCORES = {
    "study": Score("study", "the score of the study, mean over cases", "score"),
    "tre": Score("tre", "target registration error, mm: mean over the points of a case and over cases", "TRE, mm"),
    "dice": Score("dice", "one minus Dice: mean over the labels of a case and over cases", "1 - Dice"),
    "relative": Score(
        "relative",
        "target registration error, or one minus Dice, of that without registration: mean over cases",
        "relative error",
    ),
}


def choose_score(cases: Sequence[Case], name: str = "auto") -> Score:
    """What to minimize.

    Args:
        cases: to tune on.
        name: of :data:`SCORES`, or ``"auto"``: the study's where all cases are of one; the error where all know it; else Dice
            where all have labels; else relative numbers, the only ones that can be averaged.

    Raises:
        InputError: for another name, or one that a case does not know.
    """
    if name not in ("auto", *SCORES):
        raise InputError(f"score {name!r} is unknown; choose from auto, {', '.join(SCORES)}")
    able = {
        "study": len({case.study for case in cases}) == 1,
        **dict.fromkeys(("tre", "dice"), True),
    }
    lacking = {key: [c.name for c in cases if key not in c.scores or not good] for key, good in able.items()}
    lacking["relative"] = [c.name for c in cases if not {"tre", "dice"} & set(c.scores)]
    if name == "auto":
        name = next((key for key in SCORES if not lacking[key]), "")
        if not name:
            raise InputError("the cases cannot be scored by the same measure; tune on those of one study, or on the others")
    if lacking[name]:
        raise InputError(f"score {name!r}: {', '.join(lacking[name])} cannot be measured so; choose another, or leave them out")
    return SCORES[name]
