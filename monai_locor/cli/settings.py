# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Registration settings from the command line: preset, file, measure, single values."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..differences import differences
from ..errors import InputError

if TYPE_CHECKING:
    from ..registration import RegistrationConfig

__all__ = ["add_settings", "read_object", "settings_of"]

logger = logging.getLogger(__name__)


def add_settings(parser: argparse._ActionsContainer) -> None:
    """``--preset``, ``--config``, ``--similarity``, ``--transform``, ``--restrict-deformation``, ``--missing`` and others."""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="default, fast, draft, intersubject, paper (default: default); intersubject is for images of two subjects, paper "
        "is close to the published method and slow",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON file of settings; it may name a preset to modify")
    parser.add_argument(
        "--similarity",
        metavar="NAME",
        help="measure: locor, mutual_information, normalized_mutual_information, correlation_ratio, local_parzen_cr, srwcr, "
        "local_ncc, mind_ssc (default: locor)",
    )
    parser.add_argument(
        "--transform",
        dest="kind",
        metavar="KIND",
        help="transform model: rigid, similarity (rigid and one scale), affine, deformable (default: deformable)",
    )
    parser.add_argument(
        "--restrict-deformation",
        metavar="AXES",
        help="axes of the fixed image that the deformation moves along: 1x1x0 for the first two only; the affine part is not "
        "restricted (default: all)",
    )
    parser.add_argument(
        "--missing",
        metavar="WORD",
        help="tissue that only one image shows (resection, lesion, metal): never; map, write its probability; or auto, also "
        "leave it out of the registration (default: never)",
    )
    parser.add_argument(
        "--memory",
        metavar="AMOUNT",
        help="memory that a registration may take, such as 4GiB; over it, slabs become smaller, then the finest level coarser, "
        "with a warning (default: the free memory of the device)",
    )
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a single setting, such as bending_weight=50, affine=false, stages.5.iterations=10; can be repeated",
    )


def settings_of(args: argparse.Namespace, base: Mapping[str, Any] | None = None) -> RegistrationConfig:
    """Combine preset, file, other options and single values; the later ones override the earlier ones.

    Args:
        args: arguments of :func:`add_settings`.
        base: settings used instead of the default preset if neither preset nor file is given. These replace all of it,
            because it does not tell which of its values were chosen; a warning lists the values that are lost.

    Raises:
        InputError: for unknown names and values; it lists the known ones.
    """
    from ..registration import RegistrationConfig

    replaces = args.config is not None or args.preset is not None
    values: dict[str, Any] = {} if replaces else dict(base or {})
    if args.config is not None:
        values = read_object(args.config.expanduser(), "--config")
    if args.preset is not None:
        values["preset"] = args.preset
    try:
        config = RegistrationConfig.of(values)
    except InputError as error:
        raise InputError(str(error) if args.config is None else f"--config {args.config}: {error}") from error
    began = config
    if args.similarity is not None:
        config = config.with_similarity(args.similarity)
    config = config.with_transform(args.kind)
    names = ("restrict_deformation", "missing", "memory")
    own = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if own:
        config = RegistrationConfig.of({**config.to_dict(), **own})
    if args.changes:
        config = RegistrationConfig.of({**config.to_dict(), **_changes(args.changes)})
    if base is not None and replaces:
        _warn_of_lost(args, base, began.to_dict(), config.to_dict())
    return config


def _warn_of_lost(
    args: argparse.Namespace, base: Mapping[str, Any], began: Mapping[str, Any], final: Mapping[str, Any]
) -> None:
    """Warn of the settings of an earlier run that a preset or a file replaces; not of those that an option names."""
    kept = [name for name in final if final[name] == began[name]]
    lost = list(differences(*({name: values[name] for name in kept} for values in (base, final))))
    if lost:
        option = f"--config {args.config}" if args.preset is None else f"--preset {args.preset}"
        text = "%s: replaces all settings of the earlier run: %s; name those to keep, with --set or their options"
        logger.warning(text, option, "; ".join(lost))


def read_object(path: Path, option: str) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InputError: if the file is missing or does not contain a JSON object; the message starts with the option.
    """
    from ..io.paths import read_json

    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise InputError(f"{option} {path}: no such file; check its path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{option} {path}: not a JSON file ({error}); give a JSON object of names and values") from error
    if not isinstance(content, dict):
        raise InputError(f"{option} {path}: contains a {type(content).__name__}; give a JSON object of names and values")
    return content


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` arguments."""
    found = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise InputError(f"--set {word}: give KEY=VALUE, as in bending_weight=50")
        if key == "preset":
            raise InputError(f"--set {word}: a preset is not a single setting; give --preset {text}")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # strings need no quotes
