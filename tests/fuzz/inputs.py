# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Hypothesis strategies of what is handed to the package, and the call that hands it over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from monai_locor.child_process import ChildError, ChildProcess, ChildTimeoutError

from .edits import binary_edits, edited_file, edited_json, edited_text, json_edits, text_edits
from .specs import AFFINES, DTYPES, VALUES

MAX_SECONDS = 60.0  # for an answer; the process is then killed
MAX_CPU_SECONDS = 5.0
MAX_GROWTH_BYTES = 2**30  # of the peak memory; the HDF5 library takes hundreds of MiB for some damaged files
TEXT_SUFFIXES = (".tfm", ".txt", ".lta", ".xfm", ".1D", ".csv", ".fcsv", ".json", ".mhd", ".nhdr", ".obj")
#: formats of files that do not have its name
FORMAT_OF_FILE = {"elastix_affine": "elastix", "affine": "itk", "voxels": "lta", "rigid": "dicom", "deformed": "dicom"}
#: share of each kind of input
SHARES = {
    "image": 0.36,
    "transform": 0.26,
    "points": 0.06,
    "surface": 0.04,
    "settings": 0.07,
    "pairs": 0.06,
    "run": 0.05,
    "basis": 0.03,
    "array": 0.04,
    "command": 0.03,
}

#: target, arguments, and content of a file by name; drawn without knowing the folder
Question = tuple[str, dict[str, Any], dict[str, bytes]]


def fault_of(child: ChildProcess, folder: Path, question: Question) -> str:
    """Hand one input to the child process.

    Returns:
        the fault; empty if the input was read, or refused with a message of its own.
    """
    target, arguments, files = question
    for name, content in files.items():
        (folder / name).write_bytes(content)
    places = {key: _placed(value, folder) for key, value in arguments.items()}
    try:
        found = child.ask({"target": target, "arguments": places}, MAX_SECONDS)
    except ChildTimeoutError as error:
        return f"hangs: {error}"
    except ChildError as error:
        return f"crash: {error}"
    if found["end"] == "fault":
        return str(found["message"])
    if found["seconds"] > MAX_CPU_SECONDS:
        return f"slow: {found['seconds']:.1f} s"
    return f"memory: {found['growth'] / 2**20:.0f} MiB" if found["growth"] > MAX_GROWTH_BYTES else ""


def _placed(value: Any, folder: Path) -> Any:
    """Put the folder in front of names, which begin with ``@``."""
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    return str(folder / value[1:]) if isinstance(value, str) and value.startswith("@") else value


def questions(target: str, seeds: Path) -> st.SearchStrategy[Question]:
    """Inputs of one target, made of the valid files in a folder."""
    makers: dict[str, Callable[[Path], st.SearchStrategy[Question]]] = {
        "array": lambda _: specs().map(lambda spec: ("array", {"spec": spec}, {})),
        "command": _commands,
        "run": _runs,
        "basis": _bases,
        "transform": lambda folder: st.one_of([_transform(path) for path in _files(folder / "transform")]),
    }
    if target in makers:
        return makers[target](seeds)
    return st.one_of(
        [_edited(path).map(lambda made: (target, {"path": f"@{made[0]}"}, dict([made]))) for path in _files(seeds / target)]
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("fuzz.") and path.suffix != ".raw")


def _edited(path: Path) -> st.SearchStrategy[tuple[str, bytes]]:
    """Name and content of edited copies of a file."""
    name, content = f"{path.parent.name}/fuzz.{path.name}", path.read_bytes()
    if path.suffix == ".json":
        known = st.one_of(json_edits(), json_edits(), text_edits())
        return known.map(lambda edits: (name, (edited_text if _is_text(edits) else edited_json)(content, edits)))
    if path.suffix in TEXT_SUFFIXES:
        return text_edits().map(lambda edits: (name, edited_text(content, edits)))
    drawn = st.tuples(binary_edits(), st.booleans())
    return drawn.map(lambda made: (name, edited_file(name, content, *made)))


def _is_text(edits: list[Any]) -> bool:
    return edits[0][0] in ("word", "delete", "double", "insert", "cut")


def _transform(path: Path) -> st.SearchStrategy[Question]:
    name = path.name.split(".")[0]
    formats = st.sampled_from((None, FORMAT_OF_FILE.get(name, name)))
    return st.tuples(_edited(path), formats).map(
        lambda drawn: ("transform", {"path": f"@{drawn[0][0]}", "format": drawn[1]}, dict([drawn[0]]))
    )


def _runs(seeds: Path) -> st.SearchStrategy[Question]:
    content = (seeds / "run" / "valid.json").read_bytes()
    edited = st.one_of(
        json_edits().map(lambda edits: edited_json(content, edits)), text_edits().map(lambda edits: edited_text(content, edits))
    )
    return edited.map(lambda made: ("run", {"path": "@run"}, {"run/run.json": made}))


def _bases(seeds: Path) -> st.SearchStrategy[Question]:
    pair = [path for path in _files(seeds / "basis") if path.suffix in (".json", ".safetensors")]
    whole = {f"basis/fuzz.{path.name}": path.read_bytes() for path in pair}
    return st.one_of([_edited(path) for path in pair]).map(
        lambda made: ("basis", {"path": "@basis/fuzz.a.safetensors"}, {**whole, **dict([made])})
    )


def _commands(seeds: Path) -> st.SearchStrategy[Question]:
    images, maps = _files(seeds / "image"), _files(seeds / "transform")
    good, affine = "@image/float.nii", "@transform/itk.tfm"
    lines = [
        *((images, line) for line in (["info", "@"], ["apply", "@", "-t", affine, "-r", good, "-o", "@out/a.nii.gz"])),
        *((maps, line) for line in (["info", "@"], ["apply", good, "-t", "@", "-r", good, "-o", "@out/a.nii.gz"])),
        *((maps, line) for line in (["convert", "@", "-o", "@out/a.tfm"], ["jacobian", "@", "-o", "@out/a.nii.gz"])),
    ]
    return st.one_of(
        [
            st.one_of([_edited(path) for path in files]).map(lambda made, words=words: _command(made, words))
            for files, words in lines
        ]
    )


def _command(made: tuple[str, bytes], words: list[str]) -> Question:
    named = [f"@{made[0]}" if word == "@" else word for word in words]
    return "command", {"words": named, "output": "@out"}, dict([made])


def specs() -> st.SearchStrategy[dict[str, Any]]:
    """Images of :mod:`.specs`, with 1 to 40 voxels along each of two or three axes."""
    size = st.one_of(st.integers(1, 8), st.integers(1, 40))
    return st.fixed_dictionaries(
        {
            "shape": st.one_of(st.tuples(size, size, size), st.tuples(size, size)).map(list),
            "values": st.sampled_from(VALUES),
            "dtype": st.sampled_from(DTYPES),
            "affine": st.sampled_from(AFFINES),
            "seed": st.integers(0, 3),
        }
    )


def registrations() -> st.SearchStrategy[Question]:
    """Short registrations of two images of the same number of axes."""

    def alike(drawn: tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]) -> Question:
        fixed, moving, mask, options = drawn
        moving = {**moving, "shape": (moving["shape"] * 2)[: len(fixed["shape"])]}
        return "registration", {"fixed": fixed, "moving": moving, "mask": mask, "options": options}, {}

    options = st.sampled_from(({}, {}, {"initial": "centers"}, {"initial": "moments"}))
    return st.tuples(specs(), specs(), st.sampled_from(("", "mask", "zero", "nan")), options).map(alike)
