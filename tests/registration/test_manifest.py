# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``run.json``: it repeats a registration, and refuses what is not the same any more."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from monai_locor import InputError, RegistrationResult, register
from monai_locor.io import write_affine
from monai_locor.losses import LocalNCCLoss
from monai_locor.registration.manifest import RunManifest, sha256, versions

from ..phantoms import PLANE, pair
from .short_runs import NOTHING, TINY, run


def save(path: Path, source: MetaTensor) -> Path:
    affine = source.affine.numpy()
    nib.save(nib.Nifti1Image(source.as_tensor()[0].numpy(), affine), path)
    return path


@pytest.fixture(scope="module")
def images() -> tuple[MetaTensor, MetaTensor]:
    return pair(PLANE, PLANE)[:2]


@pytest.fixture(scope="module")
def original(images, tmp_path_factory) -> tuple[RegistrationResult, Path]:
    """A registration with everything that can be repeated, and its folder of inputs and outputs."""
    folder = tmp_path_factory.mktemp("manifest") / "files"
    folder.mkdir()
    names = [save(folder / f"{name}.nii.gz", values) for name, values in zip(("fixed", "moving"), images, strict=True)]
    write_affine(folder / "start.tfm", np.array([[1, 0.02, 1], [0, 1, -1], [0, 0, 1.0]]))
    mask = save(folder / "mask.nii.gz", MetaTensor(torch.ones(1, *PLANE.shape), affine=nib.load(names[0]).affine))
    result = run(*names, TINY, initial=folder / "start.tfm", fixed_mask=str(mask), seed=5)
    result.save(folder / "out")
    shutil.copytree(folder, folder.with_name("copy"))
    return result, folder


@pytest.fixture
def saved(original) -> tuple[RegistrationResult, Path]:
    """The result and its folder, as they were saved."""
    result, folder = original
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("copy"), folder)
    return result, folder / "out"


@pytest.fixture
def files(saved) -> tuple[Path, Path]:
    """Fixed and moving image of the saved run."""
    folder = saved[1].parent
    return folder / "fixed.nii.gz", folder / "moving.nii.gz"


def edited(folder: Path, **changes) -> Path:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


class TestRepeat:
    def test_it_gives_the_same_bytes(self, saved):
        result, folder = saved
        arguments = RunManifest.load(folder / "run.json").arguments()
        again = register(**arguments, progress=False)
        assert torch.equal(again.forward_mm, result.forward_mm) and again.config == result.config
        assert again.verdict == result.verdict and again.arguments == result.arguments

    def test_the_folder_and_changes(self, saved, files):
        _, folder = saved
        arguments = RunManifest.load(folder).arguments(seed=7, fixed_mask=None, device="cpu")
        assert arguments["seed"] == 7 and arguments["fixed_mask"] is None and arguments["device"] == "cpu"
        assert arguments["fixed"] == str(files[0]) and arguments["initial"].endswith("start.tfm")
        two = RunManifest.load(folder).arguments(devices=["cpu", "cpu"])
        assert "device" not in two  # one excludes the other

    def test_what_is_in_it(self, saved, files):
        result, folder = saved
        content = json.loads((folder / "run.json").read_text())
        assert content["arguments"]["moving"] == {"path": str(files[1]), "sha256": sha256(files[1])}
        assert content["verdict"] == json.loads(json.dumps(result.verdict.to_dict()))
        assert content["versions"] == versions() and content["interrupted"] is False
        assert set(content["timings"]) == {"reading", "optimization", "fields", "verdict", "error"}
        assert all(seconds >= 0 for seconds in content["timings"].values())
        np.testing.assert_allclose(content["initial"], result.initial)

    def test_relative_names_become_absolute(self, files, monkeypatch):
        monkeypatch.chdir(files[0].parent)
        result = run("fixed.nii.gz", "moving.nii.gz", NOTHING)
        assert result.inputs["fixed"] == "fixed.nii.gz" and result.arguments["fixed"]["path"] == str(files[0])

    def test_other_versions_warn(self, saved, caplog):
        _, folder = saved
        edited(folder, versions={**versions(), "torch": "0.1"})
        with caplog.at_level(logging.WARNING):
            RunManifest.load(folder).arguments()
        assert "torch 0.1 then" in caplog.text


class TestRefusals:
    def refusal(self, folder: Path, **changes) -> str:
        with pytest.raises(InputError) as caught:
            RunManifest.load(folder).arguments(**changes)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_changed_image(self, saved, images, files):
        save(files[1], images[0])
        message = self.refusal(saved[1])
        assert str(files[1]) in message and "changed" in message
        assert RunManifest.load(saved[1]).arguments(moving=files[1])["moving"] == files[1]

    @pytest.mark.parametrize("name", ["moving.nii.gz", "mask.nii.gz", "start.tfm"])
    def test_a_missing_file(self, saved, name):
        (saved[1].parent / name).unlink()
        assert name in self.refusal(saved[1]) and "not there" in self.refusal(saved[1])

    def test_something_that_was_in_memory(self, images, tmp_path):
        matrix = np.eye(3)
        matrix[0, 2] = 2.0
        loss = LocalNCCLoss(spatial_dims=2)
        result = run(*images, NOTHING, initial=matrix, similarity=loss)
        result.save(tmp_path)
        assert "fixed" in self.refusal(tmp_path) and "moving" in self.refusal(tmp_path, fixed=images[0])
        given = {"fixed": images[0], "moving": images[1]}
        assert "LocalNCCLoss" in self.refusal(tmp_path, **given)
        arguments = RunManifest.load(tmp_path).arguments(**given, similarity=loss)
        np.testing.assert_array_equal(arguments["initial"], matrix)
        assert torch.equal(register(**arguments, progress=False).forward_mm, result.forward_mm)

    def test_files_that_are_not_manifests_are_refused(self, tmp_path):
        for content, told in ((None, "no such file"), ("{", "JSON"), ("[]", "not the run.json"), ("{}", "not the run.json")):
            if content is not None:
                (tmp_path / "run.json").write_text(content)
            with pytest.raises(InputError, match=told):
                RunManifest.load(tmp_path)


class TestHashes:
    def test_arrays_differ_by_values_and_place(self, images):
        moved = MetaTensor(images[0].as_tensor(), affine=images[0].affine + torch.eye(4) * 0.1)
        changed = images[0] * 1.001
        told = [run(i, images[1], NOTHING).arguments["fixed"] for i in (images[0], moved, changed, images[0].clone())]
        assert len({entry["sha256"] for entry in told}) == 3 and told[0] == told[3]
        assert told[0]["shape"] == [1, *PLANE.shape]

    def test_folders_by_names_and_contents(self, tmp_path):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "1").write_text("one")
        (tmp_path / "a" / "b" / "2").write_text("two")
        first = sha256(tmp_path / "a")
        (tmp_path / "a" / "b" / "2").rename(tmp_path / "a" / "b" / "3")
        second = sha256(tmp_path / "a")
        (tmp_path / "a" / "b" / "3").write_text("three")
        assert len({first, second, sha256(tmp_path / "a")}) == 3

    def test_headers_take_their_voxels_along(self, tmp_path):
        (tmp_path / "a.mhd").write_text("header")
        (tmp_path / "a.raw").write_bytes(b"1")
        first = sha256(tmp_path / "a.mhd")
        (tmp_path / "a.raw").write_bytes(b"2")
        assert sha256(tmp_path / "a.mhd") != first
