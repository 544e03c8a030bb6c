# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Vertices and triangles of legacy VTK, OBJ, PLY and STL files, as stored.

ITK also reads .vtk and .obj, but takes seconds to import, and reads files that end too early, and vertices that are not
numbers, without an error. All functions raise ValueError for a damaged file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

__all__ = ["MESH_READERS"]

Mesh = tuple[np.ndarray, np.ndarray]

VTK_TYPES = {
    **{"char": "i1", "unsigned_char": "u1", "short": "i2", "unsigned_short": "u2", "int": "i4", "unsigned_int": "u4"},
    **{"long": "i8", "unsigned_long": "u8", "float": "f4", "double": "f8", "vtktypeint64": "i8", "vtktypeint32": "i4"},
}
PLY_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4"},
    **{"float64": "f8"},
}
PLY_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
STL_HEADER = 84  # bytes


class _Content:
    """A file that is read from its begin to its end.

    Args:
        data: its bytes.
        order: byte order of binary numbers, ``"<"`` or ``">"``; empty for numbers as text.
    """

    def __init__(self, data: bytes, order: str = "") -> None:
        self.data, self.order, self.place = data, order, 0

    def line(self) -> str:
        """The next line that is not blank; empty at the end."""
        while self.place < len(self.data):
            end = self.data.find(b"\n", self.place) + 1 or len(self.data)
            text, self.place = self.data[self.place : end].decode("latin-1").strip(), end
            if text:
                return text
        return ""

    def skip_block(self) -> None:
        """Skip lines up to a blank one."""
        end = self.data.find(b"\n\n", self.place)
        self.place = len(self.data) if end < 0 else end + 2

    def records(self, count: int, dtype: np.dtype) -> np.ndarray:
        """The next binary records."""
        if self.place + count * dtype.itemsize > len(self.data):
            raise ValueError("ends too early")
        found = np.frombuffer(self.data, dtype, count, self.place)
        self.place += count * dtype.itemsize
        return found

    def numbers(self, count: int, kind: str) -> np.ndarray:
        """The next numbers, float64 or int64."""
        wide = np.float64 if kind[0] == "f" else np.int64
        if not 0 <= count <= len(self.data):
            raise ValueError(f"states {count} numbers, more than it can hold")
        if self.order:
            return self.records(count, np.dtype(self.order + kind)).astype(wide)
        words = self.data[self.place :].split(None, count)
        if len(words) < count:
            raise ValueError("ends too early")
        self.place = len(self.data) - (len(words[count]) if len(words) > count else 0)
        return np.array(words[:count], dtype=bytes).astype(wide)


def _fans(polygons: Iterable[list[int]]) -> np.ndarray:
    """Triangles of polygons, ``(M, 3)``."""
    found = [[own[0], *own[k : k + 2]] for own in polygons for k in range(1, len(own) - 1)]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _strips(strips: Iterable[list[int]]) -> np.ndarray:
    """Triangles of triangle strips, ``(M, 3)``."""
    found = [own[k : k + 3] for own in strips for k in range(len(own) - 2)]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _parts(flat: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    """Divide a list of indices."""
    starts = [0, *ends.tolist()]
    if starts[-1] != len(flat) or (np.diff(starts) < 0).any():
        raise ValueError("the numbers of its cells contradict each other")
    values = flat.tolist()
    return [values[a:b] for a, b in pairwise(starts)]


def _counted(values: np.ndarray) -> list[list[int]]:
    """Divide a list of cells, each with its number of indices first."""
    found, flat, place = [], values.tolist(), 0
    while place < len(flat):
        end = place + 1 + flat[place]
        if not place < end <= len(flat):
            raise ValueError("the numbers of its cells contradict each other")
        found.append(flat[place + 1 : end])
        place = end
    return found


def read_vtk(data: bytes) -> Mesh:
    """A legacy VTK file with polygonal data, versions 1 to 5, text or binary."""
    content = _Content(data.replace(b"\r\n", b"\n") if b"BINARY" not in data[:512] else data)
    first, _, kind, dataset = (content.line() for _ in range(4))
    if not first.lower().startswith("# vtk datafile") or dataset.upper().split() != ["DATASET", "POLYDATA"]:
        raise ValueError("is not a legacy VTK file with polygonal data (DATASET POLYDATA)")
    content.order = ">" if kind.upper() == "BINARY" else ""
    offsets = float(first.split()[-1]) >= 5
    vertices, faces = np.zeros((0, 3)), [np.zeros((0, 3), np.int64)]
    while words := content.line().split():
        name = words[0].upper()
        if name in ("POINT_DATA", "CELL_DATA"):  # after all cells
            break
        if name == "POINTS":
            vertices = content.numbers(3 * int(words[1]), VTK_TYPES[words[2].lower()]).reshape(-1, 3)
        elif name == "METADATA":
            content.skip_block()
        elif name == "FIELD":
            _skip_field(content, int(words[2]))
        elif name in ("VERTICES", "LINES", "POLYGONS", "TRIANGLE_STRIPS"):
            cells = _vtk_cells(content, int(words[1]), int(words[2]), offsets)
            if name in ("POLYGONS", "TRIANGLE_STRIPS"):
                faces.append((_fans if name == "POLYGONS" else _strips)(cells))
        else:
            raise ValueError(f"has a section {words[0][:40]!r}, which is not known")
    return vertices, np.concatenate(faces)


def _skip_field(content: _Content, count: int) -> None:
    for _ in range(count):
        line = content.line()
        if line.upper() == "METADATA":  # of the array before
            content.skip_block()
            line = content.line()
        _, width, length, kind = line.split()
        content.numbers(int(width) * int(length), VTK_TYPES[kind.lower()])


def _vtk_cells(content: _Content, count: int, size: int, offsets: bool) -> list[list[int]]:
    if not offsets:
        cells = _counted(content.numbers(size, "i4"))
        if len(cells) != count:
            raise ValueError("the numbers of its cells contradict each other")
        return cells
    ends = content.numbers(count, VTK_TYPES[content.line().split()[-1].lower()])
    flat = content.numbers(size, VTK_TYPES[content.line().split()[-1].lower()])
    return _parts(flat, ends[1:])


def read_obj(data: bytes) -> Mesh:
    """A Wavefront OBJ file; lines, textures and normals are left out."""
    vertices: list[list[float]] = []
    polygons: list[list[int]] = []
    for line in data.decode("latin-1").replace("\\\n", " ").splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(word) for word in words[1:4]])
        elif words[0] == "f":
            indices = [int(word.partition("/")[0]) for word in words[1:]]
            polygons.append([index - 1 if index > 0 else len(vertices) + index for index in indices])
    return np.array(vertices, dtype=np.float64).reshape(-1, 3), _fans(polygons)


def read_ply(data: bytes) -> Mesh:
    """A PLY file, text or binary."""
    content = _Content(data)
    elements: list[tuple[str, int, list[list[str]]]] = []
    if content.line() != "ply":
        raise ValueError("is not a PLY file")
    while (words := content.line().split()) and words != ["end_header"]:
        if words[0] == "format":
            content.order = PLY_FORMATS[words[1]]
        elif words[0] == "element":
            elements.append((words[1], int(words[2]), []))
        elif words[0] == "property":
            elements[-1][2].append(words[1:])
    vertices, faces = np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    for name, count, properties in elements:
        columns = _ply_columns(content, count, properties)
        if name == "vertex":
            vertices = np.stack([columns[axis] for axis in "xyz"], 1).astype(np.float64)
        elif name == "face":
            lists = columns.get("vertex_indices", columns.get("vertex_index"))
            faces = _fans([[int(index) for index in own] for own in lists or []])
    return vertices, faces


def _ply_columns(content: _Content, count: int, properties: list[list[str]]) -> dict[str, list]:
    """The values of each property, numbers or lists."""
    found: dict[str, list] = {words[-1]: [] for words in properties}
    if not 0 <= count <= len(content.data):
        raise ValueError(f"states {count} elements, more than it can hold")
    kinds = [(words[-1], [PLY_TYPES[word] for word in words[:-1] if word != "list"]) for words in properties]
    if all(len(kind) == 1 for _, kind in kinds) and kinds:  # in one piece
        return _ply_table(content, count, kinds)
    if not content.order:
        for _ in range(count):
            own, place = content.line().split(), 0
            for name, kind in kinds:
                n, place = (int(own[place]), place + 1) if len(kind) == 2 else (1, place)
                found[name].append([float(word) for word in own[place : place + n]])
                if len(found[name][-1]) < n:
                    raise ValueError("ends too early")
                place += n
        return found
    for _ in range(count):
        for name, kind in kinds:
            n = int(content.numbers(1, kind[0])[0]) if len(kind) == 2 else 1
            found[name].append(content.numbers(n, kind[-1]).tolist())
    return found


def _ply_table(content: _Content, count: int, kinds: list[tuple[str, list[str]]]) -> dict[str, list]:
    """The values of properties that are single numbers."""
    if not content.order:
        rows = content.numbers(count * len(kinds), "f8").reshape(count, -1)
        return {name: rows[:, k].tolist() for k, (name, _) in enumerate(kinds)}
    dtype = np.dtype([(name, content.order + kind[0]) for name, kind in kinds])
    table = content.records(count, dtype)
    return {name: table[name].tolist() for name, _ in kinds}


def read_stl(data: bytes) -> Mesh:
    """An STL file, text or binary; corners at the same place become one vertex."""
    count = int.from_bytes(data[STL_HEADER - 4 : STL_HEADER], "little")
    binary = len(data) >= STL_HEADER + STL_RECORD.itemsize * count
    if binary and not (data.lstrip().startswith(b"solid") and b"endsolid" in data):
        corners = np.frombuffer(data, STL_RECORD, count, STL_HEADER)["corners"].reshape(-1, 3)
    else:
        corners = _stl_text(data)
    vertices, numbers = np.unique(corners, axis=0, return_inverse=True)
    return vertices.astype(np.float64), numbers.reshape(-1, 3)


def _stl_text(data: bytes) -> np.ndarray:
    """Corners of the triangles, ``(3 M, 3)``."""
    if not data.lstrip().startswith(b"solid") or b"endsolid" not in data:
        raise ValueError("is an incomplete STL file, or none")
    facets = re.split(rb"\bendfacet\b", data)[:-1]
    corners = [re.findall(rb"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", facet) for facet in facets]
    if {len(own) for own in corners} - {3}:
        raise ValueError("has a facet that does not have three corners")
    return np.array(corners, dtype=bytes).astype(np.float64).reshape(-1, 3)


#: by suffix
MESH_READERS: dict[str, Callable[[bytes], Mesh]] = {".vtk": read_vtk, ".obj": read_obj, ".ply": read_ply, ".stl": read_stl}
