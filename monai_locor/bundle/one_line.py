# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Bad input ends a bundle's run with one line on stderr instead of MONAI's chain of tracebacks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import InputError

__all__ = ["causes", "one_line_errors"]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an :class:`InputError`, however deep MONAI has wrapped it, into an exit with code 2 and one line on stderr."""
    try:
        yield
    except Exception as error:
        found = next((link for link in causes(error) if isinstance(link, InputError)), None)
        if found is None:
            raise
        stop = SystemExit("error: " + " ".join(str(found).split()))
        sys.stderr.write(f"{stop}\n")  # Python prints the message of a SystemExit only if its code is that message
        stop.code = 2
        raise stop from error


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it, the first cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
