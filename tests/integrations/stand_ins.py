# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The modules of an integration, imported beside a stand-in of the program that it is for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


@contextmanager
def imported(
    monkeypatch: pytest.MonkeyPatch, folder: Path, names: Sequence[str], stand_in: Mapping[str, ModuleType]
) -> Iterator[dict[str, ModuleType]]:
    """Import modules of a folder while the modules of a stand-in are in place; afterwards they are forgotten."""
    monkeypatch.syspath_prepend(str(folder))
    for name, module in stand_in.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]
