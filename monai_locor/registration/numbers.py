# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Valid ranges of numeric settings, and the seed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

__all__ = ["COUNT", "NOT_NEGATIVE", "POSITIVE", "POSITIVE_OR_NONE", "SHARE", "STEPS", "Numbers", "whole_seed"]


@dataclass(frozen=True)
class Numbers:
    """The valid values of a setting.

    Attributes:
        described: description used in the message.
        holds: returns whether a number is valid.
        whole: True if the value must be an integer.
        optional: True if None is also valid.
    """

    described: str
    holds: Callable[[float], bool]
    whole: bool = False
    optional: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise InputError with the name of the setting unless the value is valid."""
        if value is None and self.optional:
            return
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.holds(value):
            raise InputError(f"{name} must be {self.described}, got {value!r}.")


POSITIVE = Numbers("a positive number", lambda x: 0 < x < math.inf)
POSITIVE_OR_NONE = Numbers("a positive number", lambda x: 0 < x < math.inf, optional=True)
NOT_NEGATIVE = Numbers("a finite number, 0 or more", lambda x: 0 <= x < math.inf)
STEPS = Numbers("a whole number, 0 or more", lambda x: x >= 0, whole=True)
COUNT = Numbers("a whole number, 1 or more", lambda x: x >= 1, whole=True)
SHARE = Numbers("in [0, 1]", lambda x: 0 <= x <= 1)


def whole_seed(seed: Any) -> int:
    """The random seed as an integer of Python: generators of torch and JSON take no other.

    Args:
        seed: an integer of Python or NumPy.

    Raises:
        InputError: for anything else.
    """
    try:
        return int(operator.index(seed))
    except TypeError as error:
        raise InputError(f"seed must be a whole number, got {seed!r}.") from error
