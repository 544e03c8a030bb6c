# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Output files, checked before a long computation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError

__all__ = ["check_earlier", "check_names", "check_outputs", "stem_of", "suffix_of"]

DOUBLE_SUFFIXES = (".nii.gz", ".mrk.json", ".brik.gz")


def check_outputs(paths: Iterable[Path], force: bool, inputs: Iterable[str | Path | None] = ()) -> list[Path]:
    """Check that outputs can be written without overwriting other files; create their folders.

    Args:
        paths: the outputs.
        force: whether existing files may be overwritten.
        inputs: files that will be read; an output must not be one of them.

    Raises:
        InputError: if an output exists, is an input, another output or a folder, or cannot be written.
    """
    from ..io.paths import check_output_dir

    wanted = [Path(p).expanduser() for p in paths]
    # not Path.resolve, which raises exceptions of several types for links in a circle
    read = {os.path.realpath(Path(i).expanduser()) for i in inputs if i is not None}
    seen: set[str] = set()
    for path in wanted:
        place = os.path.realpath(path)
        if place in seen:
            raise InputError(f"output file {path}: two outputs have this name; give them different names")
        if place in read:
            raise InputError(f"output file {path}: is also an input; name another")
        if path.is_dir():
            raise InputError(f"output file {path}: is a folder; name a file in it")
        if path.exists() and not force:
            raise InputError(f"output file {path}: already exists; name another, or add --force to overwrite it")
        seen.add(place)
    for folder in dict.fromkeys(path.parent for path in wanted):
        check_output_dir(folder)
    return wanted


def check_names(paths: Sequence[Path], sources: Sequence[str]) -> None:
    """Check that outputs that are named after their inputs differ.

    Args:
        paths: the outputs.
        sources: the input of each output.

    Raises:
        InputError: if two outputs have the same name; it names both inputs.
    """
    named: dict[Path, str] = {}
    for path, source in zip(paths, sources, strict=True):
        if path in named:
            first = named[path]
            remedy = f"give {source} once" if first == source else f"rename one of the inputs {first} and {source}"
            raise InputError(f"output file {path}: two outputs have this name; {remedy}")
        named[path] = source


def check_earlier(folder: Path, files: Iterable[Path], force: bool, inputs: Iterable[str | Path | None]) -> list[Path]:
    """Check that the outputs of an earlier registration can be removed, which would be mixed with the new ones.

    Args:
        folder: output folder of ``register``.
        files: the new outputs.
        force: whether outputs may be removed.
        inputs: files that will be read.

    Returns:
        the outputs to remove just before the first new one is written.

    Raises:
        InputError: if there are any without ``force``, one is an input, or files of these names are not those of a run.
    """
    from ..io.earlier_outputs import check_no_inputs, earlier_outputs

    found = earlier_outputs(folder, files)
    check_no_inputs(found, inputs)
    if found and not force:
        raise InputError(
            f"output file {found[0]}: already exists and would be mixed with the new outputs; name another folder, or add "
            "--force to remove it"
        )
    return found


def suffix_of(path: str | Path) -> str:
    """The suffix of a file name, in lower case.

    >>> suffix_of("a.b.nii.gz"), suffix_of("points.CSV"), suffix_of("folder/x.mrk.json")
    ('.nii.gz', '.csv', '.mrk.json')
    """
    name = Path(path).name.lower()
    return next((s for s in DOUBLE_SUFFIXES if name.endswith(s)), Path(name).suffix)


def stem_of(path: str | Path) -> str:
    """A file's name without its suffix; the whole name of a folder or a DICOM series, whose dots start no suffix.

    >>> stem_of("folder/t1.brain.nii.gz")
    't1.brain'
    """
    from ..io.dicom import is_series

    name = Path(path).name
    if is_series(Path(path).expanduser()):
        return name
    suffix = suffix_of(path)
    return name[: len(name) - len(suffix)] if suffix else name
