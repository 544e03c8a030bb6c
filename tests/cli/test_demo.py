# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``demo``: its options and its findings."""

from __future__ import annotations

import pytest

from monai_locor.cli import demonstration


@pytest.fixture
def shown(monkeypatch):
    """A demonstration that only tells what it was asked for."""
    seen = {}

    def demonstrate(args, tell, picture, report, **options):
        seen.update(vars(args), **options)
        tell("target registration error")
        return {"seconds": 1.0}

    monkeypatch.setattr(demonstration, "demonstrate", demonstrate)
    return seen


def test_options_and_findings(run, shown, tmp_path):
    answer = run("demo", "-o", tmp_path, "--preset", "fast", "--seed", "3", "--spacing", "4")
    assert answer.code == 0 and answer.out == "target registration error\n"
    assert (shown["output_dir"], shown["preset"], shown["seed"], shown["spacing"]) == (tmp_path, "fast", 3, 4.0)
    assert shown["progress"] is False
    assert run("demo", "--json").json["seconds"] == 1.0


def test_files_of_others_are_not_overwritten(refused, folder):
    pytest.importorskip("matplotlib")
    images = ["--fixed", folder / "fixed.nii.gz", "--moving", folder / "moving.nii.gz"]
    assert "fixed.nii.gz: is also an input" in refused("demo", *images, "-o", folder, "--force")
    (folder / "other").mkdir()
    (folder / "other" / "warped.nii.gz").touch()
    assert "warped.nii.gz: already exists" in refused("demo", *images, "-o", folder / "other")


def test_an_earlier_demonstration_may_be_replaced(run, folder):
    pytest.importorskip("matplotlib")
    pytest.importorskip("nilearn")
    words = ["demo", "-o", folder, "--spacing", "100"]  # which is refused after the outputs have been checked
    assert "fixed.nii.gz: already exists" in run(*words).err
    (folder / "before_after.png").touch()
    assert "spacing_mm must be between" in run(*words).err
