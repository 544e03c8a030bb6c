# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What templates, midpoints and series refuse before the first registration."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

import monai_locor
from monai_locor import InputError, RegistrationConfig
from monai_locor.cohort.folder import RECORD_FORMAT, CohortFolder
from monai_locor.registration.manifest import MANIFEST_FORMAT, sha256
from monai_locor.sets import rounds as rounds_module
from monai_locor.sets.rounds import Rounds, Space
from monai_locor.sets.subjects import Subject

from ..cohort.small import save_image
from .serial import serial  # noqa: F401 (a fixture)

pytest.importorskip("distributed")


@pytest.fixture
def build(serial, tmp_path):  # noqa: F811
    """Build a set of a kind in ``tmp_path/out``; nothing may be registered."""
    images = {name: save_image(tmp_path / f"{name}.nii") for name in ("0000", "0001")}
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.diag([3.0, 3, 3, 1])), tmp_path / "series.nii")
    subjects = [{"id": name, "image": str(path)} for name, path in images.items()]
    given = {"template": subjects, "longitudinal": list(images.values()), "series": tmp_path / "series.nii"}

    def call(kind, **options):
        return getattr(monai_locor, kind)(given[kind], tmp_path / "out", progress=False, **options)

    yield call
    assert serial.asked == []


each_kind = pytest.mark.parametrize("kind", ["template", "longitudinal", "series"])


@each_kind
def test_a_folder_that_no_run_wrote_is_not_replaced(build, tmp_path, kind):
    path = save_image(tmp_path / "out" / "pairs" / "0001" / "image.nii")
    with pytest.raises(InputError, match=r"pairs.0001 is not that of a pair"):
        build(kind, force=True)
    assert path.exists()


@each_kind
@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_numbers_of_workers_that_cannot_be(build, tmp_path, kind, workers):
    with pytest.raises(InputError, match="workers must be a whole number, 1 or more"):
        build(kind, workers=workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["template", "longitudinal"])
@pytest.mark.parametrize("voxel_size", [0, -1.0, float("nan"), float("inf"), True, "2"])
def test_voxel_sizes_that_cannot_be(build, tmp_path, kind, voxel_size):
    with pytest.raises(InputError, match=f"voxel_size must be a positive number, got {voxel_size!r}"):
        build(kind, voxel_size=voxel_size)
    assert not (tmp_path / "out").exists()


class TestTheLastTemplate:
    """It is copied to the output folder only if no registration there is to another template."""

    @pytest.fixture
    def final(self, tmp_path, monkeypatch):
        """Copy a template of two contrasts and register an image to it; the latter is refused if asked to."""
        root, folder = tmp_path / "out", tmp_path / "out" / "rounds" / "3"
        folder.mkdir(parents=True)
        for name in ("template.nii.gz", "template_B.nii.gz"):
            (folder / name).write_text(f"new {name}")

        def call(refused=False, **options):
            def run_cohort(*args, **kwargs):
                if refused:
                    raise InputError("settings have changed")

            monkeypatch.setattr(rounds_module, "run_cohort", run_cohort)
            subjects = [Subject("a", "a.nii", "A"), Subject("b", "b.nii", "B")]
            rounds = Rounds(root, subjects, "A", RegistrationConfig(), options=options)
            rounds.final(Space(folder, {"gains": {"A": 0, "B": 0}}), None)

        return call

    def finished(self, root, template, name="a"):
        """A registration to a template, as far as it is looked at."""
        place = CohortFolder(root).pair(name)
        place.mkdir(parents=True)
        (place / "pair.json").write_text(json.dumps({"format": RECORD_FORMAT}))
        fixed = {"path": str(template), "sha256": sha256(template)}
        (place / "run.json").write_text(
            json.dumps({"format": MANIFEST_FORMAT, "arguments": {"fixed": fixed}, "settings": {}}), encoding="utf-8"
        )

    def templates(self, root):
        return {path.name: path.read_text()[:3] for path in root.glob("template*")}

    @pytest.mark.parametrize("deleted", [False, True])
    def test_another_one_replaces_nothing(self, final, tmp_path, deleted):
        root, old = tmp_path / "out", tmp_path / "out" / "template.nii.gz"
        old.write_text("old")
        self.finished(root, old)
        kept = {} if deleted else {"template.nii.gz": "old"}
        if deleted:
            old.unlink()
        with pytest.raises(InputError, match=r"pair a is finished with another template; .*--force"):
            final()
        assert self.templates(root) == kept
        final(force=True)
        assert self.templates(root) == {"template.nii.gz": "new", "template_B.nii.gz": "new"}

    def test_the_same_one_is_no_change(self, final, tmp_path):
        self.finished(tmp_path / "out", tmp_path / "out" / "rounds" / "3" / "template.nii.gz")
        final()
        assert self.templates(tmp_path / "out") == {"template.nii.gz": "new", "template_B.nii.gz": "new"}

    def test_refused_settings_replace_nothing(self, final, tmp_path):
        root = tmp_path / "out"
        self.finished(root, root / "rounds" / "3" / "template.nii.gz")
        (root / "template_B.nii.gz").write_text("old")
        with pytest.raises(InputError, match="settings have changed"):
            final(refused=True)
        assert self.templates(root)["template_B.nii.gz"] == "old"
