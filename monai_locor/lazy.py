# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Lazy imports for packages: a module is imported when one of its names is first used.

Importing torch takes two seconds and MONAI five. The command line avoids both where it can.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, modules: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        modules: the public names of each module. A name must not equal that of a module.

    >>> getattr_, dir_ = lazy("monai_locor", {"errors": ["InputError"]})
    >>> getattr_("InputError").__name__, dir_()
    ('InputError', ['InputError'])
    """
    home = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home[name]}", package), name)
        setattr(sys.modules[package], name, value)  # later lookups bypass this function
        return value

    def names() -> list[str]:
        return sorted(home)

    return get, names
