# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""The MONAI Label app: with a stand-in of MONAI Label, and with MONAI Label itself where it is installed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_locor import InputError
from monai_locor.geometry import Grid
from monai_locor.quality import Verdict

from ..io.dicom_pairs import CENTER, SHIFT, blob
from . import label_sdk
from .stand_ins import imported

APP = Path(__file__).resolve().parents[2] / "integrations" / "monai_label"
OWN = ("label_carrying", "label_propagation", "main")
INSTALLED = importlib.util.find_spec("monailabel") is not None
AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])  # of the voxels of `blob`, RAS mm

SERVER = """
import json, sys
from fastapi.testclient import TestClient
from monailabel.app import app
with TestClient(app, raise_server_exceptions=False) as client:
    for source in ("", "nowhere"):
        params = json.dumps({"source": source, "transform": "rigid", "save_label": True})
        answer = client.post("/infer/propagate", params={"image": "new", "output": "json"}, data={"params": params})
        print("ANSWER", answer.status_code, answer.text.replace(chr(10), " "))
    print("ANSWER", 0, client.get("/info/").text)
"""


@pytest.fixture
def own(monkeypatch):
    """The modules of the app, imported beside the stand-in."""
    with imported(monkeypatch, APP, OWN, label_sdk.modules()) as modules:
        yield modules


@pytest.fixture
def studies(tmp_path):
    """A new image, and a labeled one whose blob and label 7 lie SHIFT farther."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    for name, center in (("new", CENTER), ("old", CENTER + SHIFT)):
        nib.save(nib.Nifti1Image(blob(center).astype(np.float32), AFFINE), folder / f"{name}.nii.gz")
    regions = 7 * (blob(CENTER + SHIFT) > 300).astype(np.uint8)
    nib.save(nib.Nifti1Image(regions, AFFINE), folder / "labels" / "final" / "old.nii.gz")
    return folder


def task_of(own, store, status="WARN", **options):
    """The task, and what its registrations were asked for; they end with a verdict of this status."""
    asked = []

    def carried(image, source, preset, transform, device):
        asked.append((image, source.name, preset, transform, device))
        labels = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
        labels[0, 0, 0, :2] = torch.tensor([7, 9])
        return own["label_carrying"].Carried(labels, Grid((4, 4, 4), np.eye(4)), Verdict(status, ()))

    module = own["label_propagation"]
    module.carried_labels = carried
    module.nearest = lambda image, candidates, device: asked.append([each.name for each in candidates]) or candidates[0]
    return module.LabelPropagation(label_sdk.Datastore(store), {"organ": 7}, **options), asked


def test_task(own):
    store = {f"s{k}": (f"/data/s{k}.nii.gz", f"/labels/s{k}.nii.gz", k) for k in range(5)}
    task, asked = task_of(own, store, preset="fast", candidates="3")
    file, answer = task({"image": "/data/s4.nii.gz", "device": "cuda", "transform": "affine"})
    # not of itself; the last labeled first
    assert asked == [["s3", "s2", "s1"], ("/data/s4.nii.gz", "s3", "fast", "affine", "cpu")]
    assert answer["label_names"] == {"organ": 7, "label 9": 9} and answer["source"] == "s3"
    assert answer["verdict"]["status"] == "WARN" and json.dumps(answer) and task.is_valid() and task.labels == {"organ": 7}
    stored = nib.load(file)
    assert stored.get_data_dtype() == np.uint8 and sorted(np.unique(stored.dataobj)) == [0, 7, 9]
    Path(file).unlink()
    Path(task({"image": "/data/s4.nii.gz", "source": "s0"})[0]).unlink()
    assert asked[-1][1] == "s0"
    with pytest.raises(label_sdk.HTTPException, match="source s9: has no final labels; choose among s0, s1") as caught:
        task({"image": "/data/s4.nii.gz", "source": "s9"})
    assert caught.value.status_code == 422


def test_labels_of_a_failed_registration_are_not_returned(own):
    task, _ = task_of(own, {"s0": ("/data/s0.nii.gz", "/labels/s0.nii.gz", 0)}, status="FAIL")
    with pytest.raises(label_sdk.HTTPException, match=r"the registration of s0 failed, no labels are returned. FAIL:"):
        task({"image": "/data/new.nii.gz"})


def test_app(own):
    app = own["main"].RegistrationLabelApp("app", "studies", {"labels": '{"organ": 7}', "preset": "fast", "other": "x"})
    task = app.infers["propagate"]
    assert task.labels == app.labels == {"organ": 7} and task.type == "segmentation" and task.dimension == 3
    assert task.config() == {"preset": "fast", "transform": "deformable", "candidates": 5, "source": ""}


def test_nearest(own, monkeypatch):
    module = own["label_carrying"]
    shared = {"a": 1.1, "b": 1.3, "c": None, "d": InputError("no")}

    def register(image, moving, **options):
        assert options == {"preset": "draft", "transform": "affine", "device": "cpu", "progress": False}
        if isinstance(shared[moving], Exception):
            raise shared[moving]
        return types.SimpleNamespace(verdict=Verdict("WARN", (), {"nmi_after": shared[moving]}))

    monkeypatch.setattr(module, "register", register)
    candidates = [module.Labeled(name, name, "") for name in shared]
    assert module.nearest("new", candidates, "cpu").name == "b"
    assert module.nearest("new", candidates[3:], "cpu").name == "d"
    with pytest.raises(InputError, match="none of the 2 labeled images can be registered"):
        module.nearest("new", [candidates[3]] * 2, "cpu")
    with pytest.raises(InputError, match="there is no other labeled image"):
        module.nearest("new", [], "cpu")


@pytest.mark.slow
def test_labels_follow_the_image(own, studies, tmp_path):
    module = own["label_carrying"]
    label = str(studies / "labels" / "final" / "old.nii.gz")
    source = module.Labeled("old", str(studies / "old.nii.gz"), label)
    carried = module.carried_labels(str(studies / "new.nii.gz"), source, "draft", "rigid", "cpu")
    assert carried.values == [7] and carried.grid.shape == (24, 24, 24)
    expected = blob(CENTER) > 300
    found = carried.labels[0].numpy() == 7
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.95
    half = nib.load(label).slicer[:12]
    nib.save(half, tmp_path / "half.nii.gz")
    with pytest.raises(InputError, match="is not on the grid of its image"):
        module.carried_labels("new", dataclasses.replace(source, labels=str(tmp_path / "half.nii.gz")))


@pytest.mark.skipif(not INSTALLED, reason="needs monailabel")
def test_stand_in_is_like_monai_label():
    for skipped, kind in ((1, "parameters"), (0, "functions")):
        for path, parameters in label_sdk.API[kind].items():
            assert list(inspect.signature(_found(path)).parameters)[skipped:] == parameters, path
    for path, members in label_sdk.API["members"].items():
        assert set(members) <= set(dir(_found(path))), path


def _found(path):
    parts = path.split(".")
    last = next(k for k, part in enumerate(parts) if part[0].isupper() or k == len(parts) - 1)
    found = importlib.import_module(".".join(parts[:last]))
    for part in parts[last:]:
        found = getattr(found, part)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs monailabel")
def test_in_the_server(studies):
    conf = {"preset": "draft", "labels": '{"organ": 7}'}
    environment = {
        "MONAI_LABEL_APP_DIR": str(APP),
        "MONAI_LABEL_STUDIES": str(studies),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
    }
    words = [sys.executable, "-c", SERVER]
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    answers = [line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert [int(code) for code, _ in answers] == [200, 422, 0], done.stderr
    result, refused, about = (json.loads(text) for _, text in answers)
    assert result["source"] == "old" and result["verdict"]["status"] in ("PASS", "WARN")
    assert result["label_names"] == {"organ": 7}
    (label,) = (studies / "labels" / "original").iterdir()
    assert label.name == "new.nii.gz" and sorted(np.unique(nib.load(label).dataobj)) == [0, 7]
    stored = json.loads((studies / "datastore_v2.json").read_text(encoding="utf-8"))["objects"]["new"]["labels"]["original"]
    assert stored["info"]["params"]["verdict"] == result["verdict"]
    assert "choose among old" in refused["detail"] and about["models"]["propagate"]["labels"] == {"organ": 7}
