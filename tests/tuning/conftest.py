# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Studies that need not survive a power cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def fast_studies() -> Iterator[None]:
    """SQLite does not wait for the disk."""
    try:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine
    except ImportError:  # Optuna is missing as well
        yield
        return

    def relax(connection: Any, _: Any) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)
