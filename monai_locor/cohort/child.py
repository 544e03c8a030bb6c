# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``python -m monai_locor.cohort.child``: run command lines from stdin, one JSON line each, in one process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

MAX_LOG_CHARACTERS = 4000  # of stderr, from its end


def answer(words: Sequence[str]) -> dict[str, Any]:
    """Run a command of the command line with ``--json``.

    Returns:
        its exit ``"code"``, its JSON object as ``"values"``, and the end of its ``"log"`` on stderr.
    """
    from ..cli import main

    out, log = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
        code = main([*words, "--json"])
    return {"code": code, "values": json.loads(out.getvalue()), "log": log.getvalue()[-MAX_LOG_CHARACTERS:]}


def main() -> int:
    """Answer until stdin is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output goes to stderr and cannot mix with the answers
    from ..child_process import READY_LINE, questions

    asked = questions()
    from ..registration import register  # noqa: F401 (torch and MONAI are not part of the time limit of the first question)

    print(READY_LINE, file=answers, flush=True)
    for question in asked:
        print(json.dumps(answer(question["words"])), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
