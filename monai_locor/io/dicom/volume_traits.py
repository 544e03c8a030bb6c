# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Header values that distinguish the volumes of a series, and volume names made from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from . import tags
from .frames import Frame
from .headers import Header

__all__ = ["Slices", "told_apart"]

#: frames by slice number
Slices = dict[int, list[Frame]]

_COMPONENTS = {
    "magnitude": {"M", "MAGNITUDE", "M_FFE", "M_SE", "M_IR", "M_TSE"},
    "phase": {"P", "PHASE", "PHASE MAP", "PHASE_MAP", "P_FFE", "P_SE"},
    "real": {"R", "REAL", "R_FFE", "R_SE", "R_IR"},
    "imaginary": {"I", "IMAGINARY", "I_FFE", "I_SE", "I_IR"},
    "water": {"W", "WATER", "W_FFE"},
    "fat": {"F", "FAT", "F_FFE"},
    "field map": {"FIELD_MAP", "B0", "B0 MAP"},
}
_GE_COMPONENTS = {"0": "MAGNITUDE", "1": "PHASE", "2": "REAL", "3": "IMAGINARY"}
_PRIVATE_B = {"SIEMENS": tags.SIEMENS_B_VALUE, "PHILIPS": tags.PHILIPS_B_VALUE, "GE": tags.GE_B_VALUE}


@dataclass(frozen=True)
class Trait:
    """A header value that may distinguish the volumes of a series.

    Attributes:
        noun, unit: noun and unit for volume names, such as "echo time" and " ms".
        value: function that returns the value for a frame's header, of any sortable type; None if missing.
        names: names of the values, if these are indices.
        ranked: whether values that vary between slices are compared by their rank at each slice, as times are.
    """

    noun: str
    value: Callable[[Header], Any]
    unit: str = ""
    names: tuple[str, ...] = ()
    ranked: bool = False

    def label(self, value: Any) -> str:
        """Name of the volume with this value."""
        if value is None:
            return f"no {self.noun or 'type'}"
        if self.names:
            return self.names[value]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{self.noun} {text}{self.unit}".strip()


def _number(*choices: int) -> Callable[[Header], float | None]:
    def value(header: Header) -> float | None:
        found = header.number(*choices)
        return None if found is None else float(f"{found:.6g}")

    return value


def _text(*choices: int) -> Callable[[Header], str | None]:
    return lambda header: header.text(*choices) or None


def _image_type(header: Header) -> tuple[str, ...]:
    return tuple((header.text(tags.FRAME_TYPE) or header.text(tags.IMAGE_TYPE)).upper().split("\\"))


def _component(header: Header) -> int | None:
    """Index in _COMPONENTS: magnitude, phase, and the other parts of a complex or Dixon image."""
    stated = [*_image_type(header)[2:], header.text(tags.COMPLEX_IMAGE_COMPONENT).upper()]
    if header.text(tags.MANUFACTURER).upper().startswith("GE"):
        stated.append(_GE_COMPONENTS.get(header.text(tags.GE_IMAGE_COMPONENT), ""))
    return next((k for word in stated for k, words in enumerate(_COMPONENTS.values()) if word in words), None)


def _b_value(header: Header) -> float | None:
    vendor = header.text(tags.MANUFACTURER).upper()
    private = [tag for name, tag in _PRIVATE_B.items() if vendor.startswith(name)]
    value = header.number(tags.DIFFUSION_B_VALUE, *private)
    return None if value is None else value % 1e9  # GE adds 1e9 if directions are given


def _direction(header: Header) -> tuple[float, ...] | None:
    siemens = header.text(tags.MANUFACTURER).upper().startswith("SIEMENS")
    found = header.numbers(tags.DIFFUSION_GRADIENT_ORIENTATION, *([tags.SIEMENS_GRADIENT_DIRECTION] if siemens else []))
    return tuple(round(x, 3) + 0.0 for x in found) or None


def _segment(header: Header) -> str | None:
    number = header.text(tags.REFERENCED_SEGMENT_NUMBER)
    label = header.table(tags.SEGMENT_SEQUENCE, tags.SEGMENT_NUMBER, tags.SEGMENT_LABEL).get(number, "")
    return f"{number} ({label})" if label else number or None


def _dimension(index: int) -> Callable[[Header], float | None]:
    def value(header: Header) -> float | None:
        found = header.numbers(tags.DIMENSION_INDEX_VALUES)
        return found[index] if index < len(found) else None

    return value


TRAITS = (
    Trait("segment", _segment),
    Trait("", _component, names=tuple(_COMPONENTS)),
    Trait("b-value", _b_value),
    Trait("direction", _direction),
    Trait("echo time", _number(tags.ECHO_TIME, tags.EFFECTIVE_ECHO_TIME), " ms"),
    Trait("echo", _number(tags.ECHO_NUMBERS)),
    Trait("inversion time", _number(tags.INVERSION_TIME, tags.INVERSION_TIMES), " ms"),
    Trait("flip angle", _number(tags.FLIP_ANGLE), "°"),
    Trait("repetition time", _number(tags.REPETITION_TIME), " ms"),
    Trait("type", _image_type),
    Trait("voltage", _number(tags.KVP), " kV"),
    Trait("kernel", _text(tags.CONVOLUTION_KERNEL)),
    Trait("stack", _text(tags.STACK_ID)),
    Trait("time", _number(tags.TEMPORAL_POSITION_IDENTIFIER, tags.TEMPORAL_POSITION_INDEX), ranked=True),
    Trait("trigger time", _number(tags.TRIGGER_TIME, tags.NOMINAL_CARDIAC_TRIGGER_DELAY_TIME), " ms", ranked=True),
    Trait("frame time", _number(tags.FRAME_REFERENCE_TIME), " ms", ranked=True),
    *(Trait(f"dimension {index + 1}:", _dimension(index)) for index in range(6)),
    Trait("time", _number(tags.ACQUISITION_NUMBER), ranked=True),
    Trait("time", _text(tags.ACQUISITION_DATE_TIME, tags.FRAME_ACQUISITION_DATE_TIME), ranked=True),
    Trait("time", _text(tags.ACQUISITION_TIME), ranked=True),
    Trait("time", _text(tags.CONTENT_TIME), ranked=True),
)


def told_apart(slices: Slices) -> list[tuple[str, Slices]]:
    """Separate the volumes among frames that share slice positions.

    A trait distinguishes volumes if every slice has the same set of values. If none does, volumes are formed by the order of
    times at each slice or, as a last resort, of instance numbers.

    Returns:
        name and slices of each volume, sorted by the distinguishing values; volumes may lack some slices.
    """
    groups: list[tuple[tuple[str, ...], Slices]] = [((), slices)]
    for trait in TRAITS:
        parts: list[tuple[tuple[str, ...], Slices]] = []
        for names, group in groups:
            split = _split(group, trait)
            parts += [((*names, label), part) for label, part in split] if split else [(names, group)]
        groups = parts
    out = []
    for names, group in groups:
        if _most(group) == 1:
            out.append((names, group))
        else:
            out += [((*names, f"repeat {k + 1}"), part) for k, part in enumerate(_by_rank(group, _order))]
    return [(", ".join(names), group) for names, group in out]


def _most(slices: Slices) -> int:
    return max(len(frames) for frames in slices.values())


def _split(slices: Slices, trait: Trait) -> list[tuple[str, Slices]] | None:
    """Names and volumes split by a trait; None if it does not distinguish volumes."""
    most = _most(slices)
    if most == 1:
        return None
    values = {id(frame): trait.value(frame.header) for frames in slices.values() for frame in frames}
    full = [sorted((values[id(f)] for f in frames), key=_sortable) for frames in slices.values() if len(frames) == most]
    if len(set(map(tuple, full))) == 1 and len(set(full[0])) > 1:
        found = sorted(set(values.values()), key=_sortable)
        labels = [f"time {k + 1}" for k in range(len(found))] if trait.noun == "time" else _labels(trait, found)
        return [(label, _where(slices, values, value)) for label, value in zip(labels, found)]
    if trait.ranked and all(len(set(row)) == most and None not in row for row in full):
        ranked = _by_rank(slices, lambda frame: _sortable(values[id(frame)]))
        return [(f"time {k + 1}", part) for k, part in enumerate(ranked)]
    return None


def _sortable(value: Any) -> tuple[bool, Any]:
    return value is not None, value


def _labels(trait: Trait, values: Sequence[Any]) -> list[str]:
    if trait.value is not _image_type:
        return [trait.label(value) for value in values]
    common = set.intersection(*map(set, values))
    return [trait.label("/".join(word for word in words if word not in common) or "other") for words in values]


def _where(slices: Slices, values: dict[int, Hashable], value: Hashable) -> Slices:
    found = {k: [frame for frame in frames if values[id(frame)] == value] for k, frames in slices.items()}
    return {k: frames for k, frames in found.items() if frames}


def _by_rank(slices: Slices, key: Callable[[Frame], Any]) -> list[Slices]:
    """Volumes of the first frame of every slice, of the second, and so on."""
    out: dict[int, Slices] = defaultdict(dict)
    for k, frames in slices.items():
        for rank, frame in enumerate(sorted(frames, key=key)):
            out[rank][k] = [frame]
    return [out[rank] for rank in sorted(out)]


def _order(frame: Frame) -> tuple[Any, ...]:
    return frame.header.number(tags.INSTANCE_NUMBER) or 0.0, frame.file.name, frame.index
