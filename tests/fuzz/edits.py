# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Edits of valid files as Hypothesis draws them: plain tuples, and functions that apply them to bytes."""

from __future__ import annotations

import copy
import gzip
import json
import re
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

HEADER_BYTES = 352  # most edits of binary files go here
#: offset, struct format and number of values of fields of a NIfTI-1 header
NIFTI_FIELDS = (
    *((0, "<i", 1), (40, "<h", 8), (56, "<f", 3), (68, "<h", 1), (70, "<h", 1), (72, "<h", 1), (76, "<f", 8), (108, "<f", 1)),
    *((112, "<f", 1), (116, "<f", 1), (120, "<h", 1), (123, "<B", 1), (136, "<f", 1), (252, "<h", 2), (256, "<f", 6)),
    *((280, "<f", 12), (344, "<i", 1)),
)
NUMBERS = (0, 1, -1, 2, 3, 5, 7, 8, 9, 127, 255, 256, 512, 1007, 1006, 2006, 2007, 32767, -32768, 65535, 2**31 - 1, -(2**31))
REALS = (0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e-45, 1e-20, 1e20, 3e38, -3e38, 1e-6)
WORDS = (
    *(
        "",
        "0",
        "-1",
        "1",
        "2",
        "3",
        "nan",
        "inf",
        "-inf",
        "1e308",
        "1e-320",
        "1e999",
        "99999999999999999999",
        "9" * 5000,
        "0x10",
    ),
    *("1_000", "\u0663", "\ufeff", "\x00", "\xff", '"', "'", "(", ")", "#", ",", ";", "\n", "\r", "\t", " " * 300, "\n" * 300),
    *("true", "null", "~", "~nobody/x", "..", "/", "/dev/null", "a" * 300, "[", "{", "LIST", "gzip", "raw", "%s", "$x", "\\"),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        10**30,
        -(10**30),
        0.5,
        1e308,
        -1e308,
        1e-320,
        float("nan"),
        float("inf"),
        "",
        "a",
        "a" * 300,
    ),
    *(
        "\x00",
        "~",
        "~nobody/x",
        "..",
        "/",
        "\ud800",
        "nan",
        [],
        [None],
        [[[[]]]],
        {},
        {"": 1},
        {"a": {"b": 2}},
        [1, 2, 3],
        ["a"],
    ),
)


def several(one: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """One edit or several; a single one is refused less often and gets further."""
    return st.one_of(one.map(lambda edit: [edit]), st.lists(one, min_size=1, max_size=4))


def binary_edits() -> st.SearchStrategy[list[tuple[str, int, Any]]]:
    """Edits of bytes at positions from 0 to 1, of the header or of the whole file."""
    place = st.integers(0, 2**16 - 1)
    one = st.one_of(
        st.tuples(st.just("head"), place, st.binary(min_size=1, max_size=8)),
        *[st.tuples(st.just("any"), place, st.binary(min_size=1, max_size=8))] * 2,
        *[st.tuples(st.just("field"), place, st.one_of(st.sampled_from(NUMBERS), st.sampled_from(REALS)))] * 3,
        st.tuples(st.just("cut"), place, st.just(b"")),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("word"), place, st.sampled_from(WORDS)),
    )
    return several(one)


def edited_bytes(content: bytes, edits: Sequence[tuple[str, int, Any]]) -> bytes:
    """Apply :func:`binary_edits`."""
    for kind, place, value in edits:
        size = len(content)
        at = place * (min(size, HEADER_BYTES) if kind in ("head", "word") else size) >> 16
        if kind in ("head", "any"):
            content = content[:at] + value + content[at + len(value) :]
        elif kind == "insert":
            content = content[:at] + value + content[at:]
        elif kind == "cut":
            content = content[:at]
        elif kind == "word":
            content = _word(content, place, value, HEADER_BYTES)
        else:
            content = _field(content, place, value)
    return content


def _field(content: bytes, place: int, value: float) -> bytes:
    """Set one value of a NIfTI header."""
    offset, code, count = NIFTI_FIELDS[place % len(NIFTI_FIELDS)]
    offset += struct.calcsize(code) * (place // len(NIFTI_FIELDS) % count)
    try:
        packed = struct.pack(code, value if code == "<f" else int(value))
    except (OverflowError, ValueError, struct.error):
        packed = b"\xff" * struct.calcsize(code)
    return content[:offset] + packed + content[offset + len(packed) :]


def _word(content: bytes, place: int, value: str, limit: int) -> bytes:
    """Replace one word of the text at the start."""
    head, rest = content[:limit], content[limit:]
    words = list(re.finditer(rb"[^\s=,:()\[\]{}\"]+", head))
    if not words:
        return content
    found = words[place % len(words)]
    return head[: found.start()] + value.encode("utf-8", "surrogatepass") + head[found.end() :] + rest


def text_edits() -> st.SearchStrategy[list[tuple[str, int, str]]]:
    """Edits of a text file: words, lines, characters."""
    place = st.integers(0, 2**16 - 1)
    kinds = st.sampled_from(("word", "word", "word", "delete", "double", "insert", "cut"))
    value = st.one_of(st.sampled_from(WORDS), st.text(max_size=4))
    return several(st.tuples(kinds, place, value))


def edited_text(content: bytes, edits: Sequence[tuple[str, int, str]]) -> bytes:
    """Apply :func:`text_edits`."""
    for kind, place, value in edits:
        lines, at = content.split(b"\n"), place * len(content) >> 16
        line = place % len(lines)
        if kind == "word":
            content = _word(content, place, value, len(content))
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + value.encode("utf-8", "surrogatepass") + content[at:]
        else:
            content = b"\n".join(lines[:line] + lines[line : line + 1] * (2 if kind == "double" else 0) + lines[line + 1 :])
    return content


def json_edits() -> st.SearchStrategy[list[tuple[str, int, Any]]]:
    """Edits of a parsed JSON file: values replaced, removed or nested, keys renamed."""
    place = st.integers(0, 2**16 - 1)
    kinds = st.sampled_from(("set", "set", "set", "remove", "rename", "nest"))
    value = st.one_of(st.sampled_from(VALUES), st.integers(), st.floats(), st.text(max_size=4))
    return several(st.tuples(kinds, place, value))


def edited_json(content: bytes, edits: Sequence[tuple[str, int, Any]]) -> bytes:
    """Apply :func:`json_edits`."""
    root = [json.loads(content)]
    for kind, place, value in edits:
        places = list(_places(root))
        holder, key = places[place % len(places)]
        if kind == "set":
            holder[key] = copy.deepcopy(value)  # a list may be edited in turn, and drawn again
        elif kind == "nest":
            holder[key] = [holder[key]]
        elif holder is not root and kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(value)] = holder.pop(key)
    return json.dumps(root[0]).encode()


def _places(holder: Any) -> Any:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
    for key in keys:
        yield holder, key
        yield from _places(holder[key])


def edited_file(name: str, content: bytes, edits: Sequence[tuple[str, int, Any]], inside: bool) -> bytes:
    """Apply binary edits, with ``inside`` to what is compressed."""
    if name.endswith((".gz", ".mgz")) and inside:
        return gzip.compress(edited_bytes(gzip.decompress(content), edits), 1)
    return edited_bytes(content, edits)
