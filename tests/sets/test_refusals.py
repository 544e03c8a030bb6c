# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""What templates, midpoints and series refuse before the first registration."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest

import monai_locor
from monai_locor import InputError, RegistrationConfig
from monai_locor.cohort.folder import RECORD_FORMAT, CohortFolder
from monai_locor.io.paths import WORK_FOLDER
from monai_locor.registration.manifest import MANIFEST_FORMAT, sha256
from monai_locor.sets import rounds as rounds_module
from monai_locor.sets.folder import check_set_folder
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


OF_A_COHORT = ["settings.json", "summary.csv", "summary.html", "failed/0001.json"]
OF_A_SET = ["template.nii.gz", "template.json", "rounds/0/template.nii.gz", "rounds/1/settings.json"]
OF_A_SERIES = ["corrected.nii.gz", "mean.nii.gz", "motion.csv"]
USER_FILES = [
    *((kind, name) for kind in ("template", "longitudinal") for name in [*OF_A_COHORT, *OF_A_SET]),
    *(("series", name) for name in [*OF_A_COHORT, *OF_A_SET, *OF_A_SERIES]),
]


@pytest.mark.parametrize(("kind", "name"), USER_FILES)
def test_a_file_of_the_user_is_refused_each_time(build, tmp_path, kind, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("of the user")
    named = path.parent if name.startswith("rounds") else path
    for force in (False, True, True):
        with pytest.raises(InputError, match=rf"{re.escape(str(named))} is not that of .*; name another output folder"):
            build(kind, force=force)
    assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == [path] and path.read_text() == "of the user"


@pytest.mark.parametrize("name", ["template_B.nii.gz", "template_C.nii.gz"])
def test_only_files_of_names_that_are_written_are_refused(tmp_path, name):
    (tmp_path / name).write_text("of the user")
    if name == "template_C.nii.gz":
        check_set_folder(tmp_path, ["a"], ["template.nii.gz", "template_B.nii.gz"], 1, False)
        return
    with pytest.raises(InputError, match=r"template_B\.nii\.gz is not that of an earlier run"):
        check_set_folder(tmp_path, ["a"], ["template.nii.gz", "template_B.nii.gz"], 1, False)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("rounds/0/average.json", '{"affines": {}}'),
        ("rounds/0/summary.csv", "id,state,verdict,attempts\na,done,PASS,1\n"),
        (f"rounds/1/{WORK_FOLDER}/x", ""),
        ("template.json", '{"format": "monai_locor template 1"}'),
    ],
    ids=["average", "registrations", "killed", "without its rounds"],
)
def test_what_an_earlier_run_wrote_is_known(tmp_path, path, text):
    for name in {"template.nii.gz", "template.json"} - {path}:
        (tmp_path / name).write_text("{}")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    check_set_folder(tmp_path, ["a"], ["template.nii.gz", "template.json"], 2, False)


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
