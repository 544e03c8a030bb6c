# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Names of files that are unusual or impossible, and disks that are full."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

NAMES = ("two words.nii.gz", "Schädel größer.nii.gz", "-a.nii.gz", "a'b\"c$(x);&.nii.gz", "頭部.nii.gz")


@pytest.mark.parametrize("name", NAMES)
def test_names_with_blanks_umlauts_and_many_characters(run, folder, name):
    """Also in a folder whose path has more than 260 characters."""
    deep = folder.joinpath(*["very long name of a folder with blanks and ümlauts"] * 6)
    assert len(str(deep)) > 260
    deep.mkdir(parents=True)
    image, output = deep / name, deep / f"out {name}"
    shutil.copy(folder / "fixed.nii.gz", image)
    answer = run("apply", image, "-t", folder / "field.nii.gz", "-r", image, "-o", output)
    assert answer.code == 0 and output.is_file(), answer
    answer = run("info", output, "--json")
    assert answer.code == 0 and Path(answer.json["files"][0]["file"]) == output


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_name_that_is_not_text(folder, run, monkeypatch):
    """The bytes of a name need not be UTF-8; the terminal shows them as escapes."""
    image = os.fsdecode(os.fsencode(folder) + b"/a\xff.nii.gz")
    shutil.copy(folder / "fixed.nii.gz", image)
    with open(folder / "terminal", "w", encoding="utf-8") as terminal:  # strict, as stdout is
        monkeypatch.setattr(sys, "stdout", terminal)
        code = run("info", image).code
    assert code == 0 and "a\\udcff.nii.gz" in (folder / "terminal").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", ["info @", "apply fixed.nii.gz -t @ -r fixed.nii.gz -o x.nii", "info fixed.nii.gz --csv @"])
@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.nii", "a" * 300 + ".nii"])
def test_names_that_no_file_can_have(refused, folder, monkeypatch, words, name):
    monkeypatch.chdir(folder)
    line = refused(*(name if word == "@" else word for word in words.split()))
    assert name in line or name[:50] in line


LOOPS = ["apply @/a.nii.gz -t field.nii.gz -o x.nii", "apply fixed.nii.gz -t @ -o x.nii", "info @", "check @ @ @"]
LOOPS += [f"{words} -o @/a.nii" for words in ("apply fixed.nii.gz -t field.nii.gz", "jacobian field.nii.gz")]
LOOPS += ["convert field.nii.gz -o @/a.h5", "register fixed.nii.gz moving.nii.gz -o @"]


@pytest.mark.parametrize("words", LOOPS)
@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_in_a_circle(refused, folder, monkeypatch, words):
    monkeypatch.chdir(folder)
    for name in ("loop", "loop.nii"):
        os.symlink(name, name)
    line = refused(*(word.replace("@", "loop.nii" if word == "@" else "loop") for word in words.split()))
    assert "loop" in line


@pytest.mark.parametrize(
    "words",
    [
        "apply fixed.nii.gz -t field.nii.gz -r fixed.nii.gz -o out/a.nii.gz",
        "apply fixed_labels.nii.gz -t field.nii.gz -r fixed.nii.gz --labels -o out/a.nrrd",
        "convert field.nii.gz -o out/a.h5",
        "convert fixed.csv -o out/a.fcsv",
        "jacobian field.nii.gz -o out/a.nii",
        "check fixed.nii.gz moving.nii.gz field.nii.gz -o out/a.json",
    ],
)
@pytest.mark.usefixtures("no_rivals")
def test_a_full_disk(run, folder, monkeypatch, words):
    """One line that says so, and neither a part of the file nor an empty folder."""
    monkeypatch.chdir(folder)

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", full)
    answer = run(*words.split())
    assert answer.code == 2 and answer.err.startswith("error: ") and "No space left" in answer.err, answer
    assert answer.err.count("\n") == 1 and not (folder / "out").exists()
