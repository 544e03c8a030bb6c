# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Per-frame headers of DICOM files, read with pydicom, or with ITK's GDCM if pydicom is not installed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..itk_library import load_itk
from . import tags

__all__ = ["BrokenFileError", "Header", "is_dicom", "load_pydicom", "needed_pydicom", "read_headers"]

SUFFIXES = (".dcm", ".ima", ".dicom")
MIN_FRAME_BYTES = 8  # of a file for each of its frames, also of compressed ones
VRS = {b"UI", b"UL", b"CS", b"SH", b"OB", b"LO", b"DA"}  # VRs of the first element of a file without preamble


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its preamble, its suffix or, without either, its first element."""
    if not path.is_file():
        return False
    return path.name.lower().endswith(SUFFIXES) or has_dicom_content(path)


def has_dicom_content(path: Path) -> bool:
    """Whether a file starts like DICOM: with a 128-byte preamble, or with an element of group 2 or 8."""
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:  # reported when the file is read as an image
        return False
    if len(head) < 132 or head[128:] == b"DICM":
        return len(head) == 132
    group, element = (int.from_bytes(head[k : k + 2], "little") for k in (0, 2))
    if (group, element) == (0x0800, 0x0500) or (group, element >> 8) == (0x0800, 0):  # big endian
        return head[4:6] in VRS
    length = int.from_bytes(head[4:8], "little")
    return group in (2, 8) and element < 0x100 and (head[4:6] in VRS or 0 < length <= 64)


class BrokenFileError(InputError):
    """A DICOM file that cannot be read."""


class Header:
    """The header elements of one frame.

    Args:
        layers: mappings from a tag such as ``0x00200032`` to a pydicom element or to GDCM's text, in order of precedence:
            per-frame elements, elements shared by all frames, elements of the file.
    """

    def __init__(self, *layers: Mapping[Any, Any]) -> None:
        self.layers = layers

    def _value(self, tag: int) -> Any:
        for layer in self.layers:
            try:
                if tag in layer:
                    found = layer[tag]
                    return getattr(found, "value", found)
            except Exception:  # noqa: S112 -- pydicom raises various types for malformed values, which count as absent
                continue
        return None

    def text(self, *choices: int) -> str:
        r"""Value of the first of these tags that has one; multiple values are joined by ``\``; empty if none has."""
        for tag in choices:
            value = self._value(tag)
            if isinstance(value, bytes):
                value = value.decode("ascii", "replace").strip("\0 ")
                value = value if value.isprintable() and "\ufffd" not in value else ""
            if isinstance(value, Sequence) and not isinstance(value, str):
                value = "\\".join(str(part) for part in value)
            if value is not None and str(value).strip():
                return str(value).strip("\0 ")
        return ""

    def numbers(self, *choices: int) -> tuple[float, ...]:
        """:meth:`text` as numbers; empty if it is not numeric."""
        try:
            return tuple(float(part) for part in self.text(*choices).split("\\"))
        except ValueError:
            return ()

    def number(self, *choices: int) -> float | None:
        """The first of :meth:`numbers`, or None."""
        return next(iter(self.numbers(*choices)), None)

    def data(self, tag: int) -> bytes:
        """A binary value; GDCM returns it in base64."""
        value = self._value(tag)
        if isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except binascii.Error:
                return b""
        return value if isinstance(value, bytes) else b""

    def table(self, sequence: int, key: int, value: int) -> dict[str, str]:
        """Map one element of a sequence's items to another, such as segment numbers to labels; empty with GDCM."""
        items = [Header(item) for item in self._value(sequence) or () if not isinstance(item, str)]
        return {item.text(key): item.text(value) for item in items}


def load_pydicom() -> Any | None:
    """The module, or None if it is not installed."""
    try:
        import pydicom
    except ImportError:
        return None
    return pydicom


def needed_pydicom(name: str, purpose: str) -> Any:
    """The module.

    Args:
        name: name of the input for messages.
        purpose: what needs it, such as ``"SEG objects are read"``.

    Raises:
        InputError: if it is not installed.
    """
    pydicom = load_pydicom()
    if pydicom is None:
        raise InputError(f"{name}: {purpose} with pydicom: pip install 'monai-locor[formats]'")
    return pydicom


def read_headers(path: Path, name: str) -> list[Header]:
    """One header for each frame of a file; empty if it has no pixels.

    Raises:
        InputError: if the file is broken, or has per-frame headers and pydicom is not installed.
    """
    pydicom = load_pydicom()
    headers = _through_gdcm(path, name) if pydicom is None else _through_pydicom(path, pydicom, name)
    return headers if headers and headers[0].number(tags.ROWS) and headers[0].number(tags.COLUMNS) else []


def _through_pydicom(path: Path, pydicom: Any, name: str) -> list[Header]:
    try:
        return _by_frame(pydicom.dcmread(path, stop_before_pixels=True, force=True), path.stat().st_size // MIN_FRAME_BYTES)
    except Exception as error:  # pydicom raises various types for broken files
        raise BrokenFileError(f"{name}: {path.name} is a broken DICOM file; copy or export it again") from error


def _by_frame(dataset: Any, most: int) -> list[Header]:
    """One header for each frame, of at most so many.

    Raises:
        ValueError: if the file states more frames.
    """
    count = int(Header(dataset).number(tags.NUMBER_OF_FRAMES) or 1)
    if count > most:
        raise ValueError(f"{count} frames in a file that has room for {most}")
    shared = _flat(
        *(dataset[tags.SHARED_FUNCTIONAL_GROUPS_SEQUENCE].value if tags.SHARED_FUNCTIONAL_GROUPS_SEQUENCE in dataset else ())
    )
    own = (
        list(dataset[tags.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE].value)
        if tags.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE in dataset
        else []
    )
    detector = (
        _flat(*dataset[tags.DETECTOR_INFORMATION_SEQUENCE].value[:1]) if tags.DETECTOR_INFORMATION_SEQUENCE in dataset else {}
    )
    if len(own) != count:
        return [Header(shared, detector, dataset)] * count
    return [Header(_flat(item), shared, dataset) for item in own]


def _flat(*items: Any) -> dict[int, Any]:
    """The elements nested in functional groups, without references to other images and private sequences."""
    out: dict[int, Any] = {}
    for item in items:
        for tag in item:
            element = tag if hasattr(tag, "value") else item[tag]
            if element.VR != "SQ":
                out[int(element.tag)] = element
            elif element.value and element.tag.group != 8 and not element.tag.is_private:
                out.update(_flat(element.value[0]))
    return out


def _through_gdcm(path: Path, name: str) -> list[Header]:
    itk = load_itk(name)
    header = itk.GDCMImageIO.New(FileName=str(path))
    header.LoadPrivateTagsOn()
    try:
        header.ReadImageInformation()
    except RuntimeError:  # a report, a plan, or broken
        return []
    found = header.GetMetaDataDictionary()
    flat = {int(key.replace("|", ""), 16): str(found[key]) for key in found.GetKeys() if len(key) == 9 and key[4] == "|"}
    out = Header(flat)
    count = int(out.number(tags.NUMBER_OF_FRAMES) or 1)
    if (out.text(tags.NUMBER_OF_FRAMES) and not out.text(tags.IMAGE_POSITION_PATIENT)) or (
        count > 1 and not out.text(tags.GRID_FRAME_OFFSET_VECTOR)
    ):
        raise InputError(f'{name}: {path.name} is made of frames, which need pydicom; run pip install "monai-locor[formats]"')
    if count > path.stat().st_size // MIN_FRAME_BYTES:
        raise BrokenFileError(f"{name}: {path.name} states {count} frames, more than it has room for; copy or export it again")
    return [out] * count
