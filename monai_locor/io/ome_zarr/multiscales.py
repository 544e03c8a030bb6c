# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Metadata of an OME-Zarr image: its levels, axes, units and transformations, checked. Does not import zarr."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...errors import InputError

__all__ = ["LENGTH_UNITS", "OWN_KEY", "Axis", "Level", "find_level", "read_json"]

VERSIONS = ("0.4", "0.5")
MAX_METADATA_BYTES = 2**24
MAX_LEVELS = 64
MAX_PARENT_FOLDERS = 2  # from an array to the group of its image
OWN_KEY = "monai_locor"  # our attributes: what the format cannot express

# UDUNITS-2 names of lengths in mm
LENGTH_UNITS = {
    "angstrom": 1e-7,
    "picometer": 1e-9,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "micron": 1e-3,
    "um": 1e-3,
    "µm": 1e-3,
    "nm": 1e-6,
    "millimeter": 1.0,
    "mm": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1e3,
    "inch": 25.4,
    "foot": 304.8,
}


@dataclass(frozen=True)
class Axis:
    """An axis of an array.

    Attributes:
        name: such as ``"x"``.
        kind: ``"space"``, ``"channel"`` or ``"time"``.
        unit: name of the unit; empty if not given.
        scale: distance of neighbors, in the unit.
        offset: position of the first one, in the unit.
        orientation: anatomical orientation, such as ``"left-to-right"``; empty if not given.
    """

    name: str
    kind: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    orientation: str = ""


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Attributes:
        folder: folder of its array.
        axes: axes in the order of the array.
        channels: names of the channels; empty if not given.
        first: whether it is the first level.
        own: attributes written by this package.
    """

    folder: Path
    axes: tuple[Axis, ...]
    channels: tuple[str, ...] = ()
    first: bool = True
    own: Mapping[str, Any] = field(default_factory=dict)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of metadata.

    Raises:
        InputError: if it is too large or not a JSON object.
    """
    size = path.stat().st_size
    if size > MAX_METADATA_BYTES:
        raise InputError(f"{name}: {path.name} has {size} bytes, more than {MAX_METADATA_BYTES}; it is not an OME-Zarr image")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: {path.name} is not valid JSON; check the file") from error
    if not isinstance(found, dict):
        raise InputError(f"{name}: {path.name} holds no JSON object; check the file")
    return found


def find_level(path: Path, name: str) -> Level:
    """The level of an image that a path names: a folder of an image, whose first level it is, or the folder of one level.

    Raises:
        InputError: if there is no image of a known version, or its metadata are invalid.
    """
    for group in (path, *list(path.parents)[:MAX_PARENT_FOLDERS]):
        attributes = _attributes(group, name)
        if attributes is not None and "multiscales" in attributes:
            return _level(attributes, group, path, name)
        if attributes is not None and "bioformats2raw.layout" in attributes and group == path:
            raise InputError(f"{name}: is a collection of images; name one of them, such as {path / '0'}")
    raise InputError(f"{name}: has no OME-Zarr metadata (multiscales); give the folder of an OME-Zarr image")


def _attributes(group: Path, name: str) -> dict[str, Any] | None:
    """The OME attributes of a group, of either version of Zarr; None if the folder is not a group with attributes."""
    if (group / "zarr.json").is_file():
        content = read_json(group / "zarr.json", name)
        found = content.get("attributes") if content.get("node_type") == "group" else None
        if not isinstance(found, dict) or not isinstance(found.get("ome"), dict):
            return None
        return {**found["ome"], OWN_KEY: found.get(OWN_KEY)}
    if (group / ".zattrs").is_file():
        return read_json(group / ".zattrs", name)
    return None


def _level(attributes: Mapping[str, Any], group: Path, path: Path, name: str) -> Level:
    multiscale = _item(attributes["multiscales"], 0, dict, f"{name}: multiscales")
    version = multiscale.get("version", attributes.get("version", ""))
    if version not in VERSIONS:
        raise InputError(f"{name}: is OME-Zarr {version or 'of an unknown version'}; convert it to {' or '.join(VERSIONS)}")
    datasets = multiscale.get("datasets")
    if not isinstance(datasets, list) or not 1 <= len(datasets) <= MAX_LEVELS:
        raise InputError(f"{name}: lists no datasets, or more than {MAX_LEVELS}; check its metadata")
    folders = [_inside(group, _item(datasets, k, dict, f"{name}: datasets"), name) for k in range(len(datasets))]
    number = 0 if path == group else next((k for k, folder in enumerate(folders) if folder == path), None)
    if number is None:
        raise InputError(f"{name}: is not a level of the image {group}; name one of {', '.join(f.name for f in folders)}")
    axes = _axes(multiscale, datasets[number], name)
    own = attributes.get(OWN_KEY)
    return Level(folders[number], axes, _labels(attributes), number == 0, own if isinstance(own, dict) else {})


def _item(values: Any, index: int, kind: type, name: str) -> Any:
    if not isinstance(values, list) or not index < len(values) or not isinstance(values[index], kind):
        raise InputError(f"{name} in its metadata is not a list of objects; check it")
    return values[index]


def _inside(group: Path, dataset: Mapping[str, Any], name: str) -> Path:
    """The folder of a dataset, which must be in its group."""
    given = dataset.get("path")
    if not isinstance(given, str) or not given or "\\" in given or "\0" in given:
        raise InputError(f"{name}: a dataset has the path {given!r}; check its metadata")
    relative = PurePosixPath(given)
    folder = group / relative
    outside = relative.is_absolute() or ".." in relative.parts or not folder.resolve().is_relative_to(group.resolve())
    if outside or ":" in given:
        raise InputError(f"{name}: the dataset {given!r} is outside of the image; check its metadata")
    return folder


def _axes(multiscale: Mapping[str, Any], dataset: Mapping[str, Any], name: str) -> tuple[Axis, ...]:
    given = multiscale.get("axes")
    if not isinstance(given, list) or not 2 <= len(given) <= 5:
        raise InputError(f"{name}: its metadata list no axes, or not two to five; check them")
    axes = [_axis(axis, name) for axis in given]
    spatial = [axis for axis in axes if axis.kind == "space"]
    kinds = [axis.kind for axis in axes if axis.kind != "space"]
    if not 2 <= len(spatial) <= 3 or len(set(kinds)) != len(kinds):
        names = ", ".join(f"{axis.name} ({axis.kind})" for axis in axes)
        raise InputError(f"{name}: has the axes {names}; an image has two or three of space, one of channels, one of time")
    scale, offset = np.ones(len(axes)), np.zeros(len(axes))
    for transformations in (dataset.get("coordinateTransformations"), multiscale.get("coordinateTransformations")):
        own_scale, own_offset = _scale_and_translation(transformations, len(axes), name)
        scale, offset = own_scale * scale, own_scale * offset + own_offset
    return tuple(
        Axis(a.name, a.kind, a.unit, float(s), float(t), a.orientation) for a, s, t in zip(axes, scale, offset, strict=True)
    )


def _axis(given: Any, name: str) -> Axis:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise InputError(f"{name}: an axis of its metadata has no name; check them")
    by_name = {"c": "channel", "t": "time"}.get(given["name"].lower(), "space")
    kind, unit = given.get("type", by_name), given.get("unit") or ""
    if kind not in ("space", "channel", "time"):
        raise InputError(f"{name}: the axis {given['name']} is of type {kind!r}; only space, channel and time are read")
    if not isinstance(unit, str):
        raise InputError(f"{name}: the axis {given['name']} has the unit {unit!r}; check its metadata")
    orientation = given.get("orientation")
    value = orientation.get("value") if isinstance(orientation, dict) else orientation
    return Axis(given["name"], kind, unit.lower(), orientation=value if isinstance(value, str) else "")


def _scale_and_translation(given: Any, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale and translation of a list of transformations, identity if there is none."""
    scale, offset = np.ones(count), np.zeros(count)
    for item in given if isinstance(given, list) else []:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "identity":
            continue
        values: Any = item[kind] if kind in ("scale", "translation") and kind in item else None
        if not _are_numbers(values, count) or (kind == "scale" and min(values) <= 0):
            raise InputError(
                f"{name}: has the transformation {str(item)[:80]}; only a positive scale and a translation with {count} "
                "finite numbers are read"
            )
        if kind == "scale":
            scale, offset = scale * values, offset * values
        else:
            offset = offset + values
    return scale, offset


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    )


def _labels(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels, of the rendering metadata; empty if there are none."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not all(isinstance(c, dict) for c in channels):
        return ()
    return tuple(str(c.get("label", k))[:80] for k, c in enumerate(channels))
