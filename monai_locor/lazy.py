# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Packages whose modules are imported when a name of theirs is asked for.

torch takes two seconds to import and MONAI five. The command line answers without them where it can.
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
        modules: which names each of its modules has. No name may be that of a module.

    >>> getattr_, dir_ = lazy("monai_locor", {"errors": ["InputError"]})
    >>> getattr_("InputError").__name__, dir_()
    ('InputError', ['InputError'])
    """
    home = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home[name]}", package), name)
        setattr(sys.modules[package], name, value)  # the next time it is found without this function
        return value

    def names() -> list[str]:
        return sorted(home)

    return get, names
