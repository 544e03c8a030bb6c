# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What :mod:`tests.forked` runs in a new process, with ``TOLD`` among the globals."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any


def become(told: dict[str, Any]) -> None:
    """Run what was told, with the outputs, environment, folder and signals of a command of its own."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(told["folder"]) / name, os.O_WRONLY | os.O_CREAT), number)
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    os.environ.clear()
    os.environ.update(told["env"])
    os.chdir(told["cwd"])
    sys.argv = [told["module"], *told["words"]]
    if told["module"].endswith(".py"):
        sys.path.insert(0, str(Path(told["module"]).parent))
        runpy.run_path(told["module"], run_name="__main__")
    else:
        runpy.run_module(told["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    become(globals()["TOLD"])
