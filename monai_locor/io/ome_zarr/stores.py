# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Zarr arrays in local folders: their metadata, checked before ``zarr`` opens or allocates anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, one_line
from .multiscales import read_json

__all__ = ["ArrayHeader", "array_header", "open_array"]

MAX_AXIS_LENGTH = 2**31
MAX_CHUNK_BYTES = 2**29  # held in memory as a whole
# what only unpacks and orders bytes: others may run code (pickle) or belong to other packages
COMPRESSORS = ("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma")  # version 2
CODECS = ("bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed")  # version 3
INTEGERS = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
DATA_TYPES = ("bool", *INTEGERS, "float16", "float32", "float64")


@dataclass(frozen=True)
class ArrayHeader:
    """Shape, chunk shape and type of an array; ``format`` is the version of Zarr, 2 or 3."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    format: int


def array_header(folder: Path, name: str) -> ArrayHeader:
    """Read and check the metadata of an array.

    Raises:
        InputError: if they are missing, invalid, or name a codec or a type that is not read.
    """
    if (folder / "zarr.json").is_file():
        header = _version_3(read_json(folder / "zarr.json", name), name)
    elif (folder / ".zarray").is_file():
        header = _version_2(read_json(folder / ".zarray", name), name)
    else:
        raise InputError(f"{name}: the folder {folder.name} holds no Zarr array; is the file complete?")
    size = math.prod(header.chunks) * header.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise InputError(
            f"{name}: a chunk of {'x'.join(map(str, header.chunks))} voxels has {size / 2**20:.0f} MiB, more than "
            f"{MAX_CHUNK_BYTES // 2**20}; store it in smaller chunks, about 64 voxels along each axis"
        )
    return header


def _version_2(found: Mapping[str, Any], name: str) -> ArrayHeader:
    compressor, filters, kind = found.get("compressor"), found.get("filters"), found.get("dtype")
    used = compressor.get("id") if isinstance(compressor, dict) else None
    if filters or (compressor is not None and used not in COMPRESSORS):
        text = str(filters or compressor)[:80]
        raise InputError(f"{name}: uses {text}; only {', '.join(COMPRESSORS)} without filters are read")
    dtype = None
    if isinstance(kind, str):
        try:
            dtype = np.dtype(kind)
        except TypeError:
            dtype = None
    if dtype is None or dtype.kind not in "biuf":
        raise InputError(f"{name}: its values are of type {str(kind)[:40]!r}; only integers and real numbers are read")
    shape = _sizes(found.get("shape"), "shape", name)
    return ArrayHeader(shape, _sizes(found.get("chunks"), "chunks", name, len(shape)), dtype, 2)


def _version_3(found: Mapping[str, Any], name: str) -> ArrayHeader:
    kind = found.get("data_type")
    if found.get("node_type") != "array" or kind not in DATA_TYPES:
        raise InputError(f"{name}: its values are of type {str(kind)[:40]!r}; only integers and real numbers are read")
    grid = found.get("chunk_grid")
    regular = isinstance(grid, dict) and grid.get("name") == "regular" and isinstance(grid.get("configuration"), dict)
    if not regular or found.get("storage_transformers"):
        raise InputError(f"{name}: its chunks are not regular, or transformed; store it in chunks of one size")
    shape = _sizes(found.get("shape"), "shape", name)
    assert isinstance(grid, dict)
    chunks = _sizes(grid["configuration"].get("chunk_shape"), "chunk shape", name, len(shape))
    return ArrayHeader(shape, _check_codecs(found.get("codecs"), chunks, name), np.dtype(kind), 3)


def _check_codecs(codecs: Any, chunks: tuple[int, ...], name: str, depth: int = 0) -> tuple[int, ...]:
    """Check a list of codecs; return the shape that they decode at once: a chunk or, in a shard, one of its inner chunks."""
    given: list[Any] = codecs if isinstance(codecs, list) else [None]
    for codec in given:
        used = codec.get("name") if isinstance(codec, dict) else codec
        if used not in CODECS or depth > 1:
            raise InputError(f"{name}: uses the codec {str(used)[:40]!r}; only {', '.join(CODECS)} are read")
        if used == "sharding_indexed":
            inner = codec.get("configuration")
            inner = inner if isinstance(inner, dict) else {}
            _check_codecs(inner.get("index_codecs"), chunks, name, depth + 1)
            shape = _sizes(inner.get("chunk_shape"), "chunk shape", name, len(chunks))
            return _check_codecs(inner.get("codecs"), shape, name, depth + 1)
    return chunks


def _sizes(given: Any, what: str, name: str, count: int | None = None) -> tuple[int, ...]:
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or (len(given) != count if count is not None else not 1 <= len(given) <= 5)
        or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= MAX_AXIS_LENGTH for n in given)
    ):
        raise InputError(f"{name}: its metadata give the {what} {str(given)[:80]}; it takes one positive number per axis")
    return tuple(given)


def open_array(folder: Path, name: str, mode: str = "r") -> Any:
    """Open an array of a folder whose metadata were checked, to read (``"r"``) or write (``"r+"``) parts of it.

    Raises:
        InputError: if it cannot be opened.
        ImportError: if ``zarr`` is not installed; the message names the extra.
    """
    if find_spec("zarr") is None:
        raise ImportError(f"{name}: OME-Zarr needs the package zarr: pip install 'monai-locor[formats]'")
    zarr: Any = import_module("zarr")
    if (folder / "zarr.json").is_file() and int(zarr.__version__.split(".")[0]) < 3:
        raise InputError(f"{name}: is of Zarr version 3, which zarr {zarr.__version__} does not read; use Python 3.11 or newer")
    try:
        return zarr.open_array(str(folder), mode=mode)
    except Exception as error:  # zarr and its codecs raise various types
        raise InputError(f"{name}: cannot be opened ({one_line(error)}); check its metadata") from error
