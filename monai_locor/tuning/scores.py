# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Scores that a search can minimize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from .cases import Case

__all__ = ["SCORES", "Score", "choose_score"]


@dataclass(frozen=True)
class Score:
    """A score to minimize.

    Args:
        name: name of the score.
        what: description, with the unit.
        short: label for axes and table columns.
    """

    name: str
    what: str
    short: str

    def value(self, found: Mapping[str, float], before: Mapping[str, float]) -> float:
        """Score of one run.

        Args:
            found: measures of the result.
            before: measures of zero displacement.
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
        "target registration error, or one minus Dice, divided by its value without registration: mean over cases",
        "relative error",
    ),
}


def choose_score(cases: Sequence[Case], name: str = "auto") -> Score:
    """Choose the score to minimize.

    Args:
        cases: cases to tune on.
        name: a key of :data:`SCORES`, or ``"auto"``: the study's score if all cases belong to one study; else the target
            registration error if all cases have it; else Dice if all cases have labels; else the relative score, the only one
            that can be averaged over different references.

    Raises:
        InputError: for an unknown name, or if a case does not have the score.
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
            raise InputError("the cases have no score in common; tune on the cases of one study, or on the others")
    if lacking[name]:
        raise InputError(
            f"score {name!r}: not available for {', '.join(lacking[name])}; choose another, or exclude these cases"
        )
    return SCORES[name]
