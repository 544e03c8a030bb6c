# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The tests of this folder run on a pretended GPU, in a child process, and report as if they ran in pytest's own.

What the pretended device changes in torch cannot be undone. One child serves all tests, or one serves each worker of
pytest-xdist. It runs pytest, so that fixtures, parameters and assertions work as they do elsewhere.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from .child import NAME, main
from .guard import built, why_not

HERE = Path(__file__).parent
# of pytest in the child: it collects this whole folder, is told which tests to run, and writes nothing
OPTIONS = ["-o", "addopts=", "--import-mode=importlib", "--strict-markers", "-p", "no:terminal", "-p", "no:cacheprovider"]


class Child:
    """The child process, started when it is first needed."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        cache = getattr(self.config, "cache", None)  # it can be switched off
        folder = Path(tempfile.mkdtemp() if cache is None else cache.mkdir("pretended-cuda"))
        with FileLock(folder / "lock"):  # only one of several workers compiles
            library = built(folder)
        self.connection, other = multiprocessing.Pipe()
        arguments = [*OPTIONS, f"--rootdir={self.config.rootpath}", "-c", str(self.config.inipath), str(HERE)]
        # no child of multiprocessing: other tests look at these
        words = [sys.executable, "-c", f"from {main.__module__} import main; main()", str(other.fileno()), str(library)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(self.config.rootpath), *filter(None, sys.path)])}
        self.process = subprocess.Popen([*words, *arguments], pass_fds=[other.fileno()], env=environment)
        other.close()

    def reports(self, item: pytest.Item, following: str | None) -> list[pytest.TestReport]:
        """Run one test in the child.

        Args:
            following: name of the test after it, for which the child keeps the fixtures that both use.
        """
        try:
            if self.process is None:
                self.start()
            self.connection.send((item.nodeid, following))
            found = self.connection.recv()
        except (RuntimeError, EOFError, OSError) as error:
            return [_failure(item, self._why(error))]
        return [self.config.hook.pytest_report_from_serializable(config=self.config, data=data) for data in found]

    def _why(self, error: Exception) -> str:
        if self.process is None:
            return str(error)
        code, self.process = self._end(10), None  # the next test starts another one
        return f"the process with the pretended device ended (exit code {code}): see its messages on stderr"

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError):  # where it is gone already
                self.connection.send(None)
            self._end(30)

    def _end(self, seconds: float) -> int | None:
        """The exit code of the process, killed where it does not end by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "failed", text, "call")


CHILD = pytest.StashKey[Child]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    reason = why_not() if ours else None
    for item in ours if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    config = item.config
    if HERE not in item.path.parents or config.pluginmanager.has_plugin(NAME) or item.get_closest_marker("skip"):
        return None
    if CHILD not in config.stash:
        config.stash[CHILD] = Child(config)
    config.hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in config.stash[CHILD].reports(item, nextitem.nodeid if nextitem else None):
        config.hook.pytest_runtest_logreport(report=report)
    config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_unconfigure(config: pytest.Config) -> None:
    if CHILD in config.stash:
        config.stash[CHILD].stop()


@pytest.fixture
def cuda() -> Iterator[object]:
    """The pretended device, switched on; its ``record`` says what was asked of it."""
    from .tensor import PretendedCuda

    with PretendedCuda() as mode:
        yield mode
