# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Outputs are checked before the work."""

from __future__ import annotations

import os

import pytest

from monai_locor.cli.output_files import check_outputs, stem_of
from monai_locor.errors import InputError


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        check_outputs(*arguments, **options)
    return str(caught.value)


def test_folders_are_made_and_files_are_not(tmp_path):
    path = tmp_path / "new" / "deep" / "a.nii"
    assert check_outputs([path], False) == [path]
    assert path.parent.is_dir() and not path.exists()


def test_nothing_is_lost(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "folder").mkdir()
    assert "a.nii: already exists; name another, or add --force" in refusal([tmp_path / "a.nii"], False)
    check_outputs([tmp_path / "a.nii"], True)
    assert "is also an input" in refusal([tmp_path / "folder" / ".." / "a.nii"], True, [tmp_path / "a.nii", None])
    os.symlink(tmp_path / "a.nii", tmp_path / "link.nii")
    assert "is also an input" in refusal([tmp_path / "link.nii"], True, [tmp_path / "a.nii"])
    assert "two outputs" in refusal([tmp_path / "b", tmp_path / "b"], True)
    assert "is a folder" in refusal([tmp_path / "folder"], True)
    assert "in the way" in refusal([tmp_path / "a.nii" / "b.nii"], False)


def test_bare_file_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_outputs(["a.nii"], False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written to" in refusal([tmp_path / "a"], False)


def test_stems():
    assert [stem_of(n) for n in ("a.b.nii.gz", "dir/c.csv", "d", "e.mrk.json")] == ["a.b", "c", "d", "e"]
