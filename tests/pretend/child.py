# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What runs in the child process that has the pretended device; ``conftest.py`` is the other end."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .guard import load

__all__ = ["NAME", "Server", "main", "serve", "work"]

NAME = "pretended-cuda"  # of the plugin by which such a process is known


class Server:
    """Plugin of pytest that runs the tests that it is told, one by one, and sends their reports."""

    def __init__(self, connection: Connection, library: Path) -> None:
        self.__name__ = NAME  # pytest registers it by this
        self.connection, self.library = connection, library
        self.reports: list[dict[str, Any]] = []

    def pytest_runtestloop(self, session: Any) -> bool:
        """Instead of pytest's own: receives the names of a test and of the one after it, until None comes."""
        items = {item.nodeid: item for item in session.items}
        self.config = session.config
        while (names := self.connection.recv()) is not None:
            self.reports = []
            item, following = items[names[0]], items.get(names[1])
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.connection.send(self.reports)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reports.append(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))


def serve(connection: Connection, library: Path, arguments: list[str]) -> None:
    """Run pytest with ``arguments`` on the pretended device."""
    load(library)
    import pytest

    pytest.main(arguments, plugins=[Server(connection, library)])


def main() -> None:
    """:func:`serve` with the file descriptor of the connection, the library and the arguments of the command line."""
    descriptor, library, *arguments = sys.argv[1:]
    serve(Connection(int(descriptor)), Path(library), arguments)


def work(library: Path, packed: bytes, launches: Path) -> None:
    """Call ``target(*arguments)``, which ``torch.save`` has packed, on the pretended device of one more process.

    Args:
        launches: file for the number of launches on the device.
    """
    load(library)
    import torch

    from .tensor import PretendedCuda

    target: Callable[..., None]
    target, arguments = torch.load(io.BytesIO(packed), weights_only=False)
    with PretendedCuda() as mode:
        target(*arguments)
    launches.write_text(str(sum(mode.record.launches.values())))
