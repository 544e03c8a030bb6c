# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The gallery: pictures, the page that shows them, and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from .cases import BENCHMARKS, scripts

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
GALLERY = BENCHMARKS.parent / "docs" / "gallery"


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield scripts(monkeypatch, "gallery", "_arena_records", "_peer")


@pytest.fixture
def case(tmp_path, modules, monkeypatch) -> Path:
    """A case of the gallery, and a registration that moves nothing."""
    folder = tmp_path / "cases" / "head_ct_t1"
    folder.mkdir(parents=True)
    image = np.zeros((12, 13, 14), np.float32)
    image[3:9, 3:9, 3:9] = np.arange(6)
    for role in ("fixed", "moving"):
        nib.save(nib.Nifti1Image(image, np.diag([2.0, 2, 2, 1])), folder / f"{role}.nii.gz")

    def attempt(job, out, options):
        run = {"case": job.case.name, "tool": job.tool, "preset": job.preset, "seed": job.seed, "problem": ""}
        if job.tool == "greedy":
            return run | {"problem": "it crashed"}
        modules.peer.write_field(out / "forward_field.nii.gz", np.zeros((*image.shape, 3)), job.case / "fixed.nii.gz")
        return run | {"tre_mm": 1.234, "tre_p95_mm": 2.0}

    monkeypatch.setattr(modules.gallery, "attempt", attempt)
    monkeypatch.setattr(modules.gallery, "nothing", lambda folder: {"tre_mm": 5.0, "tre_p95_mm": 9.0})
    told = {"date": "2030-01-02", "processor": "Some CPU", "monai_locor": "9.8", "commit": "abc1234"}
    monkeypatch.setattr(modules.gallery, "about", lambda options: told)
    return folder


def test_cases_are_registered_drawn_and_listed(modules, case, tmp_path):
    from PIL import Image

    gallery, records = tmp_path / "gallery", tmp_path / "arena.jsonl"
    stored = modules.arena_records.Runs(records, modules.arena_records.hash_of(modules.arena_records.read_settings()))
    stored.add(
        {"case": case.name, "tool": "greedy", "preset": "", "seed": 0, "problem": "", "tre_mm": 3.0, "date": "2029-01-01"}
    )
    stored.add({"case": case.name, "tool": "elastix", "preset": "", "seed": 0, "problem": "no", "date": "2029-01-01"})
    modules.gallery.main(
        [str(case.parent), "--gallery", str(gallery), "--records", str(records), "--methods", "monai_locor fast", "greedy"]
    )
    with Image.open(gallery / "head_ct_t1-monai_locor-fast.webp") as picture:
        assert picture.format == "WEBP" and picture.width == pytest.approx(modules.gallery.PIXELS, abs=2)
    page = (gallery / "index.md").read_text(encoding="utf-8")
    assert page.count("![") == 1 and "](head_ct_t1-monai_locor-fast.webp)" in page
    assert "monai-locor\n9.8 (commit abc1234)" in page and "BSD-2-Clause" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["1.23", "2.00", "2030-01-02 |"],
        ["3.00", "", "2029-01-01 |"],
        ["failed", "failed", "2029-01-01 |"],
        ["5.00", "9.00", " |"],
    ]
    again = modules.gallery.main(["--gallery", str(gallery), "--records", str(records)])
    assert again is None and (gallery / "index.md").read_text(encoding="utf-8") == page


def test_without_runs_the_page_says_so(modules, tmp_path):
    modules.gallery.main(["--gallery", str(tmp_path / "new"), "--records", str(tmp_path / "none.jsonl")])
    assert "No runs yet." in (tmp_path / "new" / "index.md").read_text()


def test_cases_are_those_of_the_arena_and_have_a_license(modules):
    settings = modules.arena_records.read_settings()
    assert {*modules.gallery.CREDITS} <= {*modules.arena_records.cases_of(settings)}
    assert all(any(name in credit for name in ("CC BY", "MIT", "BSD")) for _, credit in modules.gallery.CREDITS.values())


def test_the_page_and_its_pictures_are_current(modules):
    settings = modules.arena_records.read_settings()
    runs, stored = (
        modules.arena_records.Runs(path, modules.arena_records.hash_of(settings))
        for path in (GALLERY / "runs.jsonl", modules.gallery.RECORDS)
    )
    assert (GALLERY / "index.md").read_text(encoding="utf-8") == modules.gallery.page(settings, runs, stored), (
        "benchmarks/gallery.py"
    )
    drawn = {
        modules.gallery.picture(run["case"], (run["tool"], run["preset"]))
        for run in runs
        if not run["problem"] and "(" not in run["tool"]
    }
    files = [*GALLERY.glob("*.webp")]
    assert {path.name for path in files} == drawn and len(drawn) >= 3
    assert sum(path.stat().st_size for path in files) < 1.5e6
