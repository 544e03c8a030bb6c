# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``python -m MODULE`` and ``python FILE.py`` in processes that are forked from one which has imported torch and MONAI.

A fresh interpreter takes ten seconds of a processor for these imports, more than all that most tests then do.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAIN = Path(__file__).with_name("forked_main.py")
IMPORTED = ["torch", "torch._dynamo", "scipy.ndimage", "nibabel", "ignite.engine", "monai.bundle", "monai_locor.bundle"]
IMPORTED += ["monai_locor.cli.main", "monai_locor.inferers", "monai_locor.registration.api", "monai_locor.report"]


def forkserver() -> Any:
    """A context of multiprocessing whose processes begin with everything imported. All tests share one server."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)  # no effect once the server runs
    return context


class Forked:
    """A process that runs a module as the interpreter does with ``-m``, or a script.

    Args:
        module: name of the module, or path of the script.
        words: of its command line.
        cwd: where it runs.
        env: its environment; by default that of this process.
    """

    def __init__(self, module: str, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self.words, self.folder = [module, *words], Path(tempfile.mkdtemp(prefix="forked-"))
        told = {"module": module, "words": list(words), "cwd": str(cwd), "folder": str(self.folder)}
        told["env"] = dict(os.environ if env is None else env)
        self.process = forkserver().Process(target=runpy.run_path, args=(str(MAIN), {"TOLD": told}, "__main__"))
        self.process.start()

    def told(self) -> str:
        """What it has written to its standard error so far."""
        path = self.folder / "err"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def done(self, seconds: float = 900) -> subprocess.CompletedProcess[str]:
        """Wait for its end.

        Raises:
            TimeoutError: when it takes longer; it is killed.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{self.words} took more than {seconds:g} s")
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        shutil.rmtree(self.folder)
        return subprocess.CompletedProcess(self.words, self.process.exitcode, out, err)


def run_forked(
    module: str, words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run([sys.executable, "-m", module, *words], ...)`` with captured text gives."""
    if sys.platform == "win32":
        command = [sys.executable, *([] if module.endswith(".py") else ["-m"]), module, *words]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False)
    return Forked(module, words, cwd, env).done()


def ranks(module: str, words: Sequence[str], cwd: Path, number: int) -> list[subprocess.CompletedProcess[str]]:
    """The module in so many processes, with the environment that ``torchrun`` gives to each."""
    from torch.distributed.elastic.utils.distributed import get_free_port

    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
    common |= {f"{name}WORLD_SIZE": str(number) for name in ("", "LOCAL_")}
    each = ({f"{name}RANK": str(rank) for name in ("", "LOCAL_")} for rank in range(number))
    started = [Forked(module, words, cwd, {**common, **own}) for own in each]
    return [process.done() for process in started]
