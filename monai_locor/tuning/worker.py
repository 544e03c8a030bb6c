# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``python -m monai_locor.tuning.worker``: reads jobs from stdin and writes runs to stdout, one JSON line each."""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Run jobs until stdin is closed, which ends the job that runs as well."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output goes to stderr and cannot mix with the answers
    from ..child_process import READY_LINE, questions

    asked = questions()
    import torch

    from .runs import Job, execute

    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    print(READY_LINE, file=answers, flush=True)
    for question in asked:
        print(json.dumps(execute(Job(**question)).to_dict()), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
