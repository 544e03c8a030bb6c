# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The settings of a registration from a command line: preset, file, measure, single values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..registration import RegistrationConfig

__all__ = ["add_settings", "read_object", "settings_of"]


def add_settings(parser: argparse._ActionsContainer) -> None:
    """``--preset``, ``--config``, ``--similarity``, ``--transform``, ``--set``."""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="default, fast, intersubject, paper (default: default); intersubject is for images of two people, paper is close "
        "to the published method and slow",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON file of settings; it may name a preset that it changes"
    )
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
        help="what may be found: rigid, similarity (with one scale), affine, deformable (default: deformable)",
    )
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a single setting, as in bending_weight=50, affine=false, stages.5.iterations=10; may be given several times",
    )


def settings_of(args: argparse.Namespace, base: Mapping[str, Any] | None = None) -> RegistrationConfig:
    """Preset, then file, then measure and kind of transform, then single values, the later ones on top.

    Args:
        args: what :func:`add_settings` asked for.
        base: settings instead of the default preset's, where neither preset nor file is named.

    Raises:
        InputError: for unknown names and values; it lists the known ones.
    """
    from ..registration import RegistrationConfig

    values: dict[str, Any] = dict(base or {}) if args.config is None and args.preset is None else {}
    if args.config is not None:
        values = read_object(args.config.expanduser(), "--config")
    if args.preset is not None:
        values["preset"] = args.preset
    try:
        config = RegistrationConfig.of(values)
    except InputError as error:
        raise InputError(str(error) if args.config is None else f"--config {args.config}: {error}") from error
    if args.similarity is not None:
        config = config.with_similarity(args.similarity)
    config = config.with_transform(args.kind)
    return RegistrationConfig.of({**config.to_dict(), **_changes(args.changes)}) if args.changes else config


def read_object(path: Path, option: str) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        InputError: when it is missing or something else; the message begins with the option that named it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{option} {path}: no such file; check its path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{option} {path}: not a JSON file ({error}); give a JSON object of names and values") from error
    if not isinstance(content, dict):
        raise InputError(f"{option} {path}: holds a {type(content).__name__}; give a JSON object of names and values")
    return content


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """Names and values of ``KEY=VALUE``."""
    found = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise InputError(f"--set {word}: give KEY=VALUE, as in bending_weight=50")
        if key == "preset":
            raise InputError(f"--set {word}: a preset is no single setting; give --preset {text}")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # a word needs no quotes
