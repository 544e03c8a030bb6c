# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What :mod:`tests.forked` runs in a new process; ``TOLD`` comes from there."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

TOLD: dict[str, Any] = globals()["TOLD"]

for name, number in (("out", 1), ("err", 2)):
    os.dup2(os.open(Path(TOLD["folder"]) / name, os.O_WRONLY | os.O_CREAT), number)
os.setsid()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
os.environ.clear()
os.environ.update(TOLD["env"])
os.chdir(TOLD["cwd"])
sys.argv = [TOLD["module"], *TOLD["words"]]
if TOLD["module"].endswith(".py"):
    sys.path.insert(0, str(Path(TOLD["module"]).parent))
    runpy.run_path(TOLD["module"], run_name="__main__")
else:
    runpy.run_module(TOLD["module"], run_name="__main__", alter_sys=True)
