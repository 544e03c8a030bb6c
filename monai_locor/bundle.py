# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What the bundles' configuration files call: it finds mistyped options, and ends bad input in one line.

MONAI evaluates the expressions of a configuration file without giving them access to what is evaluating them, adds options
that the file does not know without a word, and shows bad input as a traceback of two hundred lines. The functions here look
up the call stack for the parser (or workflow) that is evaluating them, and do better.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pydoc import locate
from typing import Any, TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.config_item import ConfigComponent
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import ID_SEP_KEY, MERGE_KEY
from monai.utils import BundlePropertyConfig

from .data.datalist import registration_pairs
from .data.pairs import check_pairs, pair_collate
from .errors import InputError
from .registration import select_device

__all__ = [
    "caller",
    "check_keys",
    "flag",
    "has_weights",
    "one_line_errors",
    "pair_collate",
    "pairs",
    "root",
    "run",
    "select_device",
]

T = TypeVar("T")
ROOTS = {"imports", "initialize", "run", "finalize", ConfigParser.meta_key}


def root() -> str:
    """Folder of the bundle whose configuration is being evaluated; ``"."`` where no workflow runs it."""
    workflow = caller(ConfigWorkflow)
    if workflow is None:
        return "."
    folder = Path(workflow.config_root_path).absolute()
    return str(folder.parent if folder.name == "configs" else folder)


def check_keys(*config_files: str) -> None:
    """Refuse options that have no effect.

    To be called in ``initialize``. An entry of the configuration is known when a shipped file has it, when some ``@reference``
    names it, when it is one of MONAI's properties, or when it is a parameter of its ``_target_``. Options come from the command
    line, from ``monai.bundle.run(...)`` or from further configuration files alike.

    Args:
        config_files: names of the shipped files, in the folder of the configuration. A file that is not there (a renamed
            copy runs) is passed over; its entries are known by the other rules then.

    Raises:
        SystemExit: with one line that names every unknown option and the closest known one.
    """
    parser, workflow = caller(ConfigParser), caller(ConfigWorkflow)
    if parser is None:
        return
    properties = (*TrainProperties.values(), *InferProperties.values())
    roots = ROOTS | {str(p[BundlePropertyConfig.ID]) for p in properties}
    if workflow is not None:
        roots |= {workflow.init_id, workflow.run_id, workflow.final_id}
        paths = (Path(workflow.config_root_path) / name for name in config_files)
        roots |= {id for path in paths if path.is_file() for id in _ids(ConfigParser.load_config_file(path))}
    keys = _Keys(parser, roots)
    with one_line_errors():
        if keys.unknown:
            said = (f"unknown option {_flag(key)}, the closest known one is {keys.closest(key)}" for key in keys.unknown)
            raise InputError("; ".join(said))


def pairs(preset: Any = "default", **options: Any) -> list[dict[str, str]]:
    """The pairs of :func:`monai_locor.data.datalist.registration_pairs`, their images checked.

    Args:
        preset: settings of the registration.
        options: of :func:`registration_pairs`.

    Returns:
        no pairs when no images are named: tools take a bundle to pieces without data, and :func:`run` refuses to start then.
    """
    if all(options.get(key) is None for key in ("fixed", "moving", "fixed_mask", "moving_mask", "datalist")):
        return []
    found = registration_pairs(**options)
    check_pairs(found, preset)
    return found


def flag(value: Any) -> bool:
    """An option that is on or off, also as a command line spells it.

    Raises:
        InputError: when it is neither.
    """
    said = str(value).strip().lower()
    if said in ("true", "1", "yes", "on"):
        return True
    if said in ("false", "0", "no", "off", "none", "null", ""):
        return False
    raise InputError(f"an option must be true or false, got {value!r}")


def has_weights(path: str, needed: Any) -> bool:
    """Whether the weights of a network that is needed (see :func:`flag`) are there.

    Raises:
        InputError: when they are not.
    """
    needed = flag(needed)
    if needed and not Path(path).is_file():
        raise InputError(
            f"{path}: no such file, and use_network needs trained weights; name them with --ckpt_path, or do without"
        )
    return needed


def run(engine_id: str = "evaluator") -> None:
    """Make and run an engine of the configuration; to be called in ``run``.

    Raises:
        SystemExit: with one line when there is an :class:`InputError`, and, after everything is written, when a registration
            has the verdict FAIL; all other errors pass.
    """
    parser = caller(ConfigParser)
    if parser is None:
        raise RuntimeError("monai_locor.bundle.run is for expressions in a bundle's configuration")
    with one_line_errors():
        engine = parser.get_parsed_content(engine_id)
        if len(engine.data_loader) == 0:
            raise InputError("nothing to register; give --fixed and --moving, or --datalist")
        engine.run()
    rows = getattr(engine.state, "registrations", [])
    failed = [f"{row['pair']} ({row['why']})" for row in rows if row["verdict"] == "FAIL"]
    if failed:
        raise SystemExit(f"verdict FAIL of {len(failed)} of {len(rows)} registrations, which are written: {', '.join(failed)}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an :class:`InputError`, however deep MONAI has wrapped it, into an exit with code 2 and one line on stderr."""
    try:
        yield
    except Exception as error:
        link: BaseException | None = error
        while link is not None and not isinstance(link, InputError):
            link = link.__cause__ or link.__context__
        if link is None:
            raise
        stop = SystemExit("error: " + " ".join(str(link).split()))
        sys.stderr.write(f"{stop}\n")  # Python writes the line only where it then exits with 1, as after a verdict FAIL
        stop.code = 2
        raise stop from error


def caller(kind: type[T]) -> T | None:
    """The nearest object of a class whose method called us, directly or not."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
        frame = frame.f_back
    return None


class _Keys:
    """Known and unknown ids of a parsed configuration."""

    def __init__(self, parser: ConfigParser, roots: set[str]) -> None:
        self.locator = parser.locator
        self.known: list[str] = []
        self.unknown: list[str] = []
        config: Any = parser.config
        self.referred = set(_references(config))
        self.used = roots | self.referred
        self._section(config, "")

    def _section(self, config: Mapping[str, Any], prefix: str) -> None:
        """A mapping of entries, each of which must be used, as a whole or in part."""
        for key, value in config.items():
            id = prefix + str(key)
            if not any(u == id or u.startswith(id + ID_SEP_KEY) for u in self.used):
                self.unknown.append(id)
                continue
            self.known.append(id)
            if isinstance(value, Mapping) and id not in self.referred and not ConfigComponent.is_instantiable(value):
                if key != ConfigParser.meta_key:
                    self._section(value, id + ID_SEP_KEY)
            else:
                self._components(value, id)

    def _components(self, config: Any, id: str) -> None:
        """Whatever is instantiated inside an entry: it takes no arguments that its target does not have."""
        if ConfigComponent.is_instantiable(config):
            parameters = self._parameters(config, id)
            if parameters is not None:
                self.known += [id + ID_SEP_KEY + name for name in parameters]
                self.unknown += [
                    id + ID_SEP_KEY + key for key in config if key not in {*parameters, *ConfigComponent.non_arg_keys}
                ]
        children = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
        for key, value in children:
            self._components(value, f"{id}{ID_SEP_KEY}{key}")

    def _parameters(self, config: Any, id: str) -> list[str] | None:
        """Names that a target takes; None when it takes any, or cannot tell."""
        target = ConfigComponent(config, id, self.locator).resolve_module_name()
        try:
            parameters = inspect.signature(locate(target) if isinstance(target, str) else target).parameters  # type: ignore[arg-type]
        except (TypeError, ValueError, ImportError):
            return None
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return None if takes_any else list(parameters)

    def closest(self, id: str) -> str:
        parent, name = ReferenceResolver.split_id(id, last=True)

        def likeness(other: str) -> tuple[float, bool, int]:
            other_parent, other_name = ReferenceResolver.split_id(other, last=True)
            return difflib.SequenceMatcher(None, name, other_name).ratio(), parent == other_parent, -len(other)

        return _flag(max(self.known, key=likeness))


def _ids(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Ids of all mappings' entries in a configuration file."""
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
