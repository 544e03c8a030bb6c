# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``python -m tests.fuzz.child``: hand inputs to the package, one JSON line each, and tell how each call ended.

A crash of a library ends this process only. Its memory is limited. An answer has the keys ``end`` ("read", "refused" or
"fault"), ``message``, ``seconds`` of this process and ``growth``, the bytes by which its peak memory has grown.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

MAX_MORE_BYTES = 2**31  # of address space, on top of that of the process with all libraries
CRASHES = ("report this message", "report it")  # the package calls an unexpected exception so


def peak_bytes() -> int:
    """Peak memory of this process; 0 where it is unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def limit_memory() -> None:
    """Allocations beyond ``MAX_MORE_BYTES`` fail from now on; on Linux only."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Run one target."""
    from monai_locor.errors import InputError

    from .targets import TARGETS

    before, start = peak_bytes(), time.process_time()
    end, message = "read", ""
    try:
        message = TARGETS[question["target"]](**question.get("arguments", {})) or ""
        end = "refused" if message else "read"
    except InputError as error:
        end, message = "refused", str(error)
    except BaseException as error:
        place = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]]
        end, message = "fault", f"{type(error).__name__}: {str(error)[:300]} ({' '.join(place)})"
    if end == "refused" and ("\n" in message or any(words in message for words in CRASHES)):
        end = "fault"
    return {"end": end, "message": message, "seconds": time.process_time() - start, "growth": peak_bytes() - before}


def main() -> int:
    """Answer until stdin is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output goes to stderr and cannot mix with the answers
    faulthandler.enable()
    import torch

    from monai_locor.child_process import READY_LINE

    from . import targets

    torch.set_num_threads(1)
    targets.warm_up()
    limit_memory()
    print(READY_LINE, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
