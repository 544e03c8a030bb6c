# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""``register``: what it passes on, writes, carries along and says."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

import monai_locor
from monai_locor.geometry import Grid
from monai_locor.io import FileChannel, read_affine, read_displacement_field, read_image, write_affine, write_displacement_field
from monai_locor.io.paths import STATE_FOLDER
from monai_locor.metrics import jacobian_statistics
from monai_locor.quality import ErrorMap, Reason, Thresholds, Verdict
from monai_locor.registration import RegistrationConfig, RegistrationResult
from monai_locor.registration.described import described_arguments
from monai_locor.registration.fields import StationaryVelocity
from monai_locor.registration.manifest import MANIFEST_FORMAT

from ..forked import Forked
from ..run_schema import valid_run
from .files import AFFINE, SHAPE, SHIFT, load, save

USUAL = {*("warped.nii.gz forward_field.nii.gz inverse_field.nii.gz affine.tfm error.nii.gz run.json report.html".split())}
pytest.importorskip("matplotlib")  # of the report


@pytest.fixture
def called(monkeypatch):
    """A registration that takes no time and always finds SHIFT; tells what it was called with."""
    seen: dict = {"changes": {}}

    def register(fixed, moving, **options):
        seen.update(fixed=fixed, moving=moving, **options)
        images = [i if isinstance(i, torch.Tensor) else read_image(i)[0] for i in (fixed, moving)]
        grids = [Grid.of(i) for i in images]
        field, matrix = torch.tensor(SHIFT).reshape(3, 1, 1, 1), np.eye(4)
        matrix[:3, 3] = SHIFT
        result = RegistrationResult(
            affine=matrix,
            forward_mm=field.expand(3, *grids[0].shape).clone(),
            inverse_mm=-field.expand(3, *grids[1].shape).clone(),
            warped_moving=MetaTensor(images[0].clone()),
            warped_fixed=MetaTensor(images[1].clone()),
            fixed_grid=grids[0],
            moving_grid=grids[1],
            history=[],
            jacobian=jacobian_statistics(torch.zeros(3, *grids[0].shape), grids[0]),
            config=options["preset"],
            seed=options["seed"],
            seconds=1.5,
            velocity=StationaryVelocity(torch.zeros_like(field).expand(3, *grids[0].shape), grids[0]),
            fixed_image=MetaTensor(images[0].clone()),
            moving_image=MetaTensor(images[1].clone()),
            error_mm=ErrorMap.of_channels(torch.ones(3, *grids[0].shape), grids[0]),
        )
        return dataclasses.replace(result, **seen["changes"])

    def write_report(path, result, **masks):
        seen["masks"] = masks
        path.write_text("page")
        return path

    monkeypatch.setattr(monai_locor, "register", register)
    monkeypatch.setattr("monai_locor.report.html.write_report", write_report)
    return seen


@pytest.fixture
def pair(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out"]


def names(folder):
    return {p.name for p in folder.iterdir()}


def test_everything_for_real(run, pair, folder):
    short = {"stages": [{"factor": 2, "iterations": 1}, {"factor": 2, "iterations": 2, "spacing": 4}], "multistart": "never"}
    (folder / "short.json").write_text(json.dumps(short))
    words = ["--config", "short.json", "--device", "cpu", "--seed", "3", "--outputs", "warped,forward,inverse,affine,error"]
    answer = run(*pair, *words, "--json")
    assert answer.code in (0, 1) and answer.err.count("\n") == answer.err.count("warning: ")
    found = answer.json
    assert names(folder / "out") == USUAL - {"report.html"}
    field, grid = read_displacement_field(folder / "out" / "forward_field.nii.gz")
    assert grid.shape == SHAPE
    assert found["displacement_mm"]["max"] == pytest.approx(float(torch.linalg.vector_norm(field, dim=0).max()), rel=1e-5)
    content = valid_run(folder / "out" / "run.json")
    assert content["seed"] == 3 and content["verdict"]["status"] == found["verdict"]["status"]
    assert answer.code == int(found["verdict"]["status"] == "FAIL")
    again = run("register", "--from", "out/run.json", "-o", "again", "-q", "--outputs", "warped,forward")
    assert again.code == answer.code and again.out == ""
    for name in ("forward_field.nii.gz", "warped.nii.gz"):
        np.testing.assert_array_equal(load(folder / "again" / name), load(folder / "out" / name))


def test_the_usual_outputs_and_what_is_said(run, pair, called, folder):
    answer = run(*pair)
    assert answer.code == 0 and answer.err == ""
    assert names(folder / "out") >= USUAL
    assert "registering moving.nii.gz to fixed.nii.gz" in answer.out and "1.5 s on cpu" in answer.out
    assert "displacement: mean 4 mm, maximum 4 mm" in answer.out and "folding 0 %" in answer.out
    assert "warped.nii.gz" in answer.out.splitlines()[-1]
    assert called["fixed"] == "fixed.nii.gz" and called["keep_interrupted"] is True and called["progress"] is False
    assert called["preset"] == RegistrationConfig() and called["initial"] is None


def test_options_are_passed_on(run, pair, called, folder):
    (folder / "b.safetensors").touch()
    for name in ("fm.nii", "mm.nii"):
        save(folder / name, np.ones(SHAPE, np.uint8))
    run(
        *[*pair, "--preset", "fast", "--set", "num_basis=3", "--seed", "7", "--device", "cpu", "--similarity", "srwcr"],
        *["--fixed-mask", "fm.nii", "--moving-mask", "mm.nii", "--initial-basis", "b"],
    )
    config = called["preset"]
    assert config.num_basis == 3 and config.similarity == "srwcr" and len(config.stages) == 6
    masks = {"fixed_mask": "fm.nii", "moving_mask": "mm.nii"}
    expected = {**masks, "initial_basis": "b", "seed": 7, "device": "cpu"}
    assert expected.items() <= called.items() and called["masks"].items() >= masks.items()


def test_an_earlier_run_is_repeated_and_changed(run, refused, pair, called, folder):
    settings = RegistrationConfig(num_basis=3, bending_weight=7.0)
    arguments = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz", "seed": 5, "device": "cpu", "initial": np.eye(4)}
    content = {"format": MANIFEST_FORMAT, "arguments": described_arguments(arguments), "settings": settings.to_dict()}
    (folder / "run.json").write_text(json.dumps(content))
    repeat = ["register", "--from", "run.json", "-o"]
    assert run(*repeat, "a").code == 0
    assert called["preset"] == settings and called["seed"] == 5 and called["device"] == "cpu"
    assert called["fixed"] == str(folder / "fixed.nii.gz")
    np.testing.assert_array_equal(called["initial"], np.eye(4))
    words = ["--set", "num_basis=4", "--seed", "0", "--device", "cuda:0,cuda:1", "--initial", "moments"]
    assert run(*repeat, "b", *words).code == 0
    assert called["preset"] == dataclasses.replace(settings, num_basis=4, initialization="moments")
    assert called["seed"] == 0 and called["devices"] == ["cuda:0", "cuda:1"] and called["initial"] is None
    (folder / "moving.nii.gz").write_bytes((folder / "fixed.nii.gz").read_bytes())
    assert "moving.nii.gz: has changed since" in refused(*repeat, "c")
    assert run("register", "fixed.nii.gz", "moving.nii.gz", *repeat[1:], "c").code == 0  # given again
    assert "none.json: no such file" in refused("register", "--from", "none.json", "-o", "d")
    (folder / "settings.json").write_text("{}")
    assert "is not the run.json of a registration" in refused("register", "--from", "settings.json", "-o", "d")


def verdict(status):
    reasons = (Reason("folding", status, "9 % of the voxels fold", "raise bending_weight"), Reason("steps", "PASS", "all well"))
    return {"verdict": Verdict(status, reasons if status != "PASS" else reasons[1:])}


@pytest.mark.parametrize(("status", "code"), [("PASS", 0), ("WARN", 0), ("FAIL", 1)])
def test_the_verdict_is_told(run, pair, called, folder, status, code):
    called["changes"] = verdict(status)
    answer = run(*pair)
    assert answer.code == code and f"verdict: {status}" in answer.out and "all well" not in answer.out
    assert ("  FAIL folding: 9 % of the voxels fold; raise bending_weight" in answer.out) == (status == "FAIL")
    assert names(folder / "out") >= USUAL
    found = run(*pair, "--force", "--json")
    assert found.code == code and found.json["verdict"]["status"] == status
    assert f"verdict: {status}" in run("info", "out").out


def test_thresholds_of_ones_own(run, refused, pair, called, folder, monkeypatch):
    seen = {}

    def judge(result, fixed, moving, thresholds, **masks):
        seen.update(fixed=fixed, thresholds=thresholds, **masks)
        return verdict("WARN")["verdict"]

    monkeypatch.setattr("monai_locor.registration.judging.judge", judge)
    (folder / "t.json").write_text('{"overlap": [0.9, 0.8]}')
    save(folder / "m.nii", np.ones(SHAPE, np.uint8))
    assert "verdict: WARN" in run(*pair, "--thresholds", "t.json", "--fixed-mask", "m.nii").out
    assert seen["thresholds"] == Thresholds(overlap=(0.9, 0.8)) and seen["fixed_mask"] == "m.nii"
    (folder / "t.json").write_text('{"overlap": 1}')
    assert "threshold overlap must be" in refused(*pair, "--thresholds", "t.json", "--force")


def test_two_devices(run, pair, called):
    run(*pair, "--device", "cuda:0,cuda:1")
    assert called["devices"] == ["cuda:0", "cuda:1"] and "device" not in called


def test_where_to_start(run, pair, called, folder):
    for word, meant in (("moments", "moments"), ("center", "centers"), ("world", "world")):
        run(*pair, "--initial", word, "--force")
        assert called["preset"].initialization == meant and called["initial"] is None
    matrix = np.diag([1.1, 1, 1, 1])
    write_affine(folder / "a.tfm", matrix)
    run(*pair, "--initial", "a.tfm", "--force")
    np.testing.assert_allclose(called["initial"].matrix, matrix)
    run(*pair, "--initial", "[a.tfm,1]", "--initial", "a.tfm", "--force")
    np.testing.assert_allclose(called["initial"].matrix, np.eye(4), atol=1e-12)
    written = json.loads((folder / "out" / "run.json").read_text())["arguments"]["initial"]["list"]
    assert [(Path(entry["path"]).name, entry.get("inverse")) for entry in written] == [("a.tfm", True), ("a.tfm", None)]
    half = Grid((7, 6, 5), AFFINE @ np.diag([2.0, 2, 2, 1]))
    write_displacement_field(folder / "coarse.nii.gz", torch.ones(3, *half.shape), half)
    run(*pair, "--initial", "coarse.nii.gz", "--force")
    assert called["initial"].domain.shape == half.shape


def test_a_channel(run, pair, called, folder):
    two = np.stack([load(folder / "fixed.nii.gz"), load(folder / "moving.nii.gz")], -1)
    save(folder / "two.nii.gz", two)
    run("register", "two.nii.gz", "moving.nii.gz", "-o", "out", "--fixed-channel", "1")
    assert called["fixed"] == FileChannel("two.nii.gz", 1)
    np.testing.assert_array_equal(read_image(called["fixed"])[0].numpy()[0], two[..., 1])


def test_outputs_of_choice(run, pair, called, folder):
    assert run(*pair, "--outputs", "warped-fixed,ants, jacobian,composite").code == 0
    files = names(folder / "out") - {"run.json", "report.html"}
    assert {"warped_fixed.nii.gz", "jacobian.nii.gz", "transform.h5", "ants_0GenericAffine.mat", "ants_1Warp.nii.gz"} <= files
    assert "warped.nii.gz" not in files
    assert read_displacement_field(folder / "out" / "ants_1Warp.nii.gz")[0].abs().max() < 1e-4  # all of it is affine
    np.testing.assert_allclose(read_affine(folder / "out" / "ants_0GenericAffine.mat")[:3, 3], SHIFT, atol=1e-6)


def test_outputs_that_cannot_be(run, refused, pair, called, folder, monkeypatch):
    assert "needs similarity locor with basis learned" in refused(*pair, "--outputs", "basis", "--set", "basis=polynomial")
    answer = run(*pair, "--outputs", "all", "--similarity", "mind_ssc")
    assert answer.code == 0 and "basis is not written: it needs similarity locor" in answer.err
    monkeypatch.setattr("monai_locor.cli.registration_outputs.find_spec", lambda name: None)
    assert "--outputs report: it needs matplotlib; pip install matplotlib" in refused(*pair, "--outputs", "report", "--force")
    answer = run(*pair[:4], "plain")
    assert answer.code == 0 and "report.html is not written" in answer.err and "report.html" not in names(folder / "plain")


def test_maps_of_missing_tissue(run, refused, pair, called, folder):
    assert "missing-fixed: it needs a search for missing tissue" in refused(*pair, "--outputs", "missing-fixed")
    called["changes"] = {f"missing_{role}": torch.rand(1, *SHAPE) for role in ("fixed", "moving")}
    assert run(*pair, "--missing", "map").code == 0
    assert called["preset"].missing == "map"
    assert {"missing_fixed.nii.gz", "missing_moving.nii.gz", "warped.nii.gz"} <= names(folder / "out")
    np.testing.assert_allclose(load(folder / "out" / "missing_fixed.nii.gz"), called["changes"]["missing_fixed"][0], atol=1e-6)


def test_a_killed_command_may_write_its_outputs_again(run, refused, pair, called, folder):
    assert run(*pair).code == 0 and "already exists" in refused(*pair, "--resume")  # it was complete
    (folder / "out" / STATE_FOLDER).mkdir()
    assert run(*pair, "--resume").code == 0 and called["resume"] == Path("out", STATE_FOLDER)
    assert not (folder / "out" / STATE_FOLDER).exists()


def test_a_folder_of_the_user_is_no_state(run, refused, pair, called, folder):
    (folder / "out" / "state").mkdir(parents=True)
    (folder / "out" / "state" / "notes.txt").write_text("kept")
    assert run(*pair, "--resume").code == 0 and (folder / "out" / "state" / "notes.txt").read_text() == "kept"
    assert "already exists" in refused(*pair, "--resume")


def test_what_is_carried_along(run, pair, called, folder):
    save(folder / "other.nii.gz", load(folder / "moving.nii.gz") + 1)
    found = run(
        *[*pair, "--json", "--moving-labels", "moving_labels.nii.gz", "--moving-image", "other.nii.gz"],
        *["--fixed-labels", "fixed_labels.nii.gz", "--fixed-points", "fixed.csv", "--moving-points", "moving.csv"],
    ).json
    assert [c["kind"] for c in found["carried"]] == ["image", "labels", "points", "labels", "points"]
    inner = slice(0, SHAPE[0] - 2)
    out = folder / "out"
    np.testing.assert_array_equal(
        load(out / "moving_labels_on_fixed.nii.gz")[inner], load(folder / "fixed_labels.nii.gz")[inner]
    )
    np.testing.assert_allclose(load(out / "other_on_fixed.nii.gz")[inner], 3 - load(folder / "fixed.nii.gz")[inner], atol=1e-5)
    np.testing.assert_array_equal(load(out / "fixed_labels_on_moving.nii.gz")[2:], load(folder / "moving_labels.nii.gz")[2:])
    for name, expected in (("fixed_on_moving.csv", ["12.0", "10.0", "12.0", "a"]), ("moving_on_fixed.csv", ["10.0", "12.0"])):
        assert (out / name).read_text().splitlines()[1].split(",")[: len(expected)] == expected


def test_label_maps_of_both_images_are_compared(run, pair, called, folder):
    labels = ["--moving-labels", "moving_labels.nii.gz", "--fixed-labels", "fixed_labels.nii.gz"]
    answer = run(*pair, *labels)
    assert "mean Dice 0." in answer.out and " 1.000 after: moving_labels.nii.gz and fixed_labels.nii.gz" in answer.out
    assert [len(called["masks"][f"{role}_labels"]) for role in ("fixed", "moving")] == [1, 1]
    (dice,) = run(*pair, *labels, "--json", "--force").json["dice"]
    assert dice["after"]["labels"] == {"-2": 1.0, "300": 1.0} and dice["before"]["mean"] < 0.7
    answer = run(*pair, "--force", "--moving-labels", "fixed_labels.nii.gz", "--fixed-labels", "moving_labels.nii.gz")
    assert "overlap less than before the registration" in answer.err
    assert "dice" not in run(*pair, *labels[:2], "--json", "--force").json
    carried = valid_run(folder / "out" / "run.json")["carried"]
    assert [(c["kind"], c["space"], c["input"]) for c in carried] == [
        ("labels", "moving", str(folder / "moving_labels.nii.gz"))
    ]


def test_series_and_labels_are_carried_as_what_they_are(run, pair, called, folder):
    data = load(folder / "moving_labels.nii.gz")
    series = nib.Nifti1Image(np.random.default_rng(0).random((*SHAPE, 4)).astype(np.float32), AFFINE)
    series.header.set_zooms((2, 2, 3, 1.5))
    series.header.set_xyzt_units("mm", "sec")
    nib.save(series, folder / "bold.nii.gz")
    save(folder / "unnamed.nii.gz", data)
    carried = ["--moving-image", folder / "bold.nii.gz", "--moving-image", folder / "unnamed.nii.gz"]
    answer = run(*pair, *carried, "--moving-labels", folder / "moving_labels.nii.gz", "-n", "nearest", "--json")
    assert [c["kind"] for c in answer.json["carried"]] == ["image", "image", "labels"]
    assert run(*pair, *carried, "--force", "--json").json["carried"][1]["kind"] == "labels"
    found = nib.load(folder / "out" / "bold_on_fixed.nii.gz")
    assert found.shape == (*SHAPE, 4) and found.header.get_zooms()[3] == 1.5 and found.header.get_xyzt_units()[1] == "sec"
    assert set(np.unique(load(folder / "out" / "unnamed_on_fixed.nii.gz"))) <= set(np.unique(data))
    smooth = run(*pair, *carried[2:], "-n", "smooth", "--force", "--json").json["carried"][0]
    assert (smooth["kind"], smooth["interpolation"]) == ("labels", "smooth")


def test_an_interrupted_registration_is_written_and_labeled(run, pair, called, folder):
    called["changes"] = {"interrupted": True}
    answer = run(*pair, "--moving-labels", "moving_labels.nii.gz", "--json")
    assert answer.code == 130 and answer.json["interrupted"] is True
    assert names(folder / "out") >= {*USUAL, "moving_labels_on_fixed.nii.gz"}
    assert valid_run(folder / "out" / "run.json")["interrupted"] is True
    assert "INTERRUPTED" in run(*pair, "--force").out and "INTERRUPTED" in run("info", "out").out


def test_what_is_refused_before_the_work(refused, pair, called, folder):
    (folder / "full").mkdir()
    (folder / "full" / "warped.nii.gz").touch()
    (folder / "twice").mkdir()
    save(folder / "twice" / "moving_labels.nii.gz", np.zeros((2, 3, 4), np.int16))
    for words, message in (
        (["register", "fixed.nii.gz", "-o", "out"], "give FIXED and MOVING"),
        ([*pair[:3]], "-o/--output"),
        ([*pair[:4], "full"], "full/warped.nii.gz: already exists; name another, or add --force"),
        ([*pair[:4], "moving.nii.gz"], "moving.nii.gz: is a file; name a folder"),
        ([*pair, "--outputs", "warped,picture"], "unknown output picture; choose among warped,"),
        ([*pair, "--outputs", ""], "--outputs '': names no output; choose among warped,"),
        ([*pair, "--outputs", ","], "--outputs ,: names no output"),
        ([*pair, "--moving-labels", "none.nii.gz"], "none.nii.gz: no such file"),
        ([*pair, "--moving-labels", "moving.nii.gz"], "labels are whole numbers"),
        ([*pair, "--fixed-points", "none.csv"], "none.csv"),
        ([*pair, "--moving-labels", "moving_labels.nii.gz", "--moving-labels", "twice/moving_labels.nii.gz"], "two outputs"),
        ([*pair, "--initial", "none.tfm"], "none.tfm: no such file"),
        ([*pair, "--preset", "slow"], "preset must be one of"),
        ([*pair, "--set", "stride=0"], "stride"),
        ([*pair, "--thresholds", "none.json"], "--thresholds none.json: no such file"),
        (["register", "--from", "none.json", "-o", "o", "--fixed-channel", "1"], "none.json"),
    ):
        assert message in refused(*words), words
    assert "fixed" not in called and not (folder / "out" / "warped.nii.gz").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.nii.gz", "fixed image none.nii.gz: no such file; check its path"),
        ("constant.nii.gz", "fixed image constant.nii.gz: every voxel is 1"),
        ("bad.nii.gz", "fixed image bad.nii.gz: cannot be read"),
        ("two.nii.gz", "fixed image two.nii.gz: has 2 channels"),
        ("far.nii.gz", "share only 0 %"),
    ],
)
def test_images_that_are_refused(run, pair, folder, name, message):
    save(folder / "constant.nii.gz", np.ones(SHAPE, np.float32))
    (folder / "bad.nii.gz").write_text("nothing")
    save(folder / "two.nii.gz", np.random.default_rng(0).random((*SHAPE, 2)).astype(np.float32))
    far = AFFINE.copy()
    far[0, 3] = 1e4
    save(folder / "far.nii.gz", load(folder / "fixed.nii.gz"), far)
    answer = run("register", name, *pair[2:], "--initial", "world")
    assert answer.code == 2 and answer.err.startswith("error: ") and message in answer.err and answer.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_the_best_so_far(pair, folder, sent, code):
    words = [*pair, "--set", "multistart=never", "--set", "stages.0.iterations=1000000", "-v"]
    process = Forked("monai_locor", words, folder)
    while "starting from" not in process.told():  # the images are not read yet
        assert process.process.is_alive()
        time.sleep(0.1)
    time.sleep(2)  # the stages begin
    os.kill(process.process.pid, sent)
    done = process.done(300)
    assert done.returncode == code, done.stderr
    out, err = done.stdout, done.stderr
    assert "INTERRUPTED" in out and "Traceback" not in err
    assert names(folder / "out") >= USUAL
    assert valid_run(folder / "out" / "run.json")["interrupted"] is True


def test_a_missing_image_leaves_no_new_folder(folder, pair):
    from monai_locor.cli import main

    (folder / "old").mkdir()
    for name in ("new", "old"):
        assert main(["register", str(folder / "nowhere.nii.gz"), str(folder / "moving.nii.gz"), "-o", str(folder / name)]) == 2
    assert not (folder / "new").exists() and (folder / "old").is_dir()
