# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Options of a configuration that have no effect, and the known options closest to them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.config_item import ConfigComponent
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import ID_SEP_KEY, MERGE_KEY
from monai.utils import BundlePropertyConfig

__all__ = ["KnownOptions"]

WORKFLOW_SECTIONS = {"imports", "initialize", "run", "finalize", ConfigParser.meta_key}


class KnownOptions:
    """Known and unknown entries of a parsed configuration.

    An entry is known if a shipped file has it, if some ``@reference`` names it, if it is one of MONAI's bundle properties, or
    if it is a parameter of its ``_target_``.

    Args:
        parser: of the configuration, with all options set.
        files: the shipped files. A file that does not exist (a renamed copy is run) is skipped.
        others: further ids that are known.
    """

    def __init__(self, parser: ConfigParser, files: Iterable[Path] = (), others: Iterable[str] = ()) -> None:
        self.locator = parser.locator
        self.known: list[str] = []
        self.unknown: list[str] = []
        config: Any = parser.config
        properties = (*TrainProperties.values(), *InferProperties.values())
        self.referenced = set(_references(config))
        self.used = WORKFLOW_SECTIONS | {str(p[BundlePropertyConfig.ID]) for p in properties} | set(others) | self.referenced
        self.used |= {id for path in files if path.is_file() for id in _ids(ConfigParser.load_config_file(path))}
        self._section(config, "")

    def message(self) -> str:
        """Name every unknown option and the closest known one; empty if all are known."""
        return "; ".join(f"unknown option {_flag(key)}, the closest known one is {self._closest(key)}" for key in self.unknown)

    def _section(self, config: Mapping[str, Any], prefix: str) -> None:
        """A mapping of entries, each of which must be used, as a whole or in part."""
        for key, value in config.items():
            id = prefix + str(key)
            if not any(u == id or u.startswith(id + ID_SEP_KEY) for u in self.used):
                self.unknown.append(id)
                continue
            self.known.append(id)
            if isinstance(value, Mapping) and id not in self.referenced and not ConfigComponent.is_instantiable(value):
                if key != ConfigParser.meta_key:
                    self._section(value, id + ID_SEP_KEY)
            else:
                self._components(value, id)

    def _components(self, config: Any, id: str) -> None:
        """Components inside an entry: they accept only the arguments of their targets."""
        if ConfigComponent.is_instantiable(config):
            parameters = self._parameters(config, id)
            if parameters is not None:
                self.known += [id + ID_SEP_KEY + name for name in parameters]
                allowed = {*parameters, *ConfigComponent.non_arg_keys}
                self.unknown += [id + ID_SEP_KEY + key for key in config if key not in allowed]
        children = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
        for key, value in children:
            self._components(value, f"{id}{ID_SEP_KEY}{key}")

    def _parameters(self, config: Any, id: str) -> list[str] | None:
        """Parameter names of a target; None if it takes any, or its signature is not available."""
        target = ConfigComponent(config, id, self.locator).resolve_module_name()
        try:
            parameters = inspect.signature(locate(target) if isinstance(target, str) else target).parameters  # type: ignore[arg-type]
        except (TypeError, ValueError, ImportError):
            return None
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return None if takes_any else list(parameters)

    def _closest(self, id: str) -> str:
        parent, name = ReferenceResolver.split_id(id, last=True)

        def similarity(other: str) -> tuple[float, bool, int]:
            other_parent, other_name = ReferenceResolver.split_id(other, last=True)
            return difflib.SequenceMatcher(None, name, other_name).ratio(), parent == other_parent, -len(other)

        return _flag(max(self.known, key=similarity))


def _ids(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Ids of the entries of all mappings in a configuration file."""
    for key, value in config.items():
        id = prefix + ReferenceResolver.normalize_id(key.removeprefix(MERGE_KEY))
        yield id
        if isinstance(value, Mapping):
            yield from _ids(value, id + ID_SEP_KEY)


def _references(config: Any) -> Iterator[str]:
    """Ids that the strings in a configuration refer to."""
    if isinstance(config, str):
        yield from ReferenceResolver.match_refs_pattern(config)
    elif isinstance(config, (Mapping, list)):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _references(value)


def _flag(id: str) -> str:
    return "--" + id.replace(ID_SEP_KEY, "#")
